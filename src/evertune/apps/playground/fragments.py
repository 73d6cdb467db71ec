"""What the page shows, as HTML: a template with one macro per piece; every value is escaped by its environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evertune.apps.playground.runs import Run
from evertune.apps.playground.view_models import MOST, PAGE, Answers, ImageChoice, Matrix, RunPredictions
from evertune.reporting.page import environment
from evertune.reporting.plots import WHITE_TEXT_FROM


class Fragments:
    """The macros of the template."""

    def __init__(self) -> None:
        template = environment(Path(__file__).parent).get_template("fragments.html.j2")
        self._made: Any = template.module

    def head(self, runs: Sequence[Run]) -> str:
        """Title and what the runs learned."""
        return self._text(self._made.head(runs))

    def notice(self, words: str = "") -> str:
        """An error message that screen readers announce; empty without a message."""
        return self._text(self._made.notice(words))

    def choices(self, task: str, found: tuple[list[ImageChoice], int]) -> str:
        """Test images as buttons."""
        return self._text(self._made.choices(task, *found, _next(len(found[0]))))

    def turn(self, predictions: Sequence[RunPredictions], at: int) -> str:
        """The predictions before and after stage `at`."""
        return self._text(self._made.turn(predictions, at))

    def stages(self, predictions: Sequence[RunPredictions], at: int) -> str:
        """The predictions of every stage; runs with the same stages are shown side by side."""
        groups = {run.stages: [other for other in predictions if other.stages == run.stages] for run in predictions}
        return self._text(self._made.stages(list(groups.values()), at))

    def matrix_head(self) -> str:
        """Heading and explanation of the heat maps."""
        return self._text(self._made.matrix_head())

    def matrices(self, found: Sequence[Matrix], chosen: tuple[int, int, int] | None = None) -> str:
        """The heat maps; `chosen` is (run, stage, task) of the cell whose answers are listed."""
        return self._text(self._made.matrices(found, chosen, WHITE_TEXT_FROM))

    def answers(self, found: Answers) -> str:
        """The answers of a cell."""
        return self._text(self._made.answers(found, _next(len(found.rows))))

    @staticmethod
    def _text(made: Any) -> str:
        return str(made).encode(errors="replace").decode()  # an answer may hold half a surrogate pair


def _next(shown: int) -> int:
    """How many are shown after a press on `more`; 0: no more can be."""
    return shown + PAGE if shown < MOST else 0
