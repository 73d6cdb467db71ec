"""The answers that the page shows: ten of a task, before and after, with small images.

Scores say how much was forgotten; answers show what forgetting looks like. Each image is embedded once, however
many runs show it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from evertune.data.images import small_image
from evertune.data.task import images_of_row
from evertune.metrics.metrics import is_score
from evertune.metrics.rules import Rule, rule_of
from evertune.reporting.matrix import Matrix
from evertune.utils.errors import DataError, RunFolderError, UserError
from evertune.utils.files import digest
from evertune.utils.safe_names import below

SHOWN = 10
SIDE = 96
LONGEST_TEXT = 300
RIGHT_FROM = 0.5  # of 1, which is 100 points


@dataclass(frozen=True, slots=True)
class MarkedPrediction:
    """An answer and whether it is right: `right`, `form` (right in another form), `partly` or `wrong`."""

    text: str
    mark: str
    expert: str | None


@dataclass(frozen=True, slots=True)
class Example:
    """One question with the answer before and after."""

    thumbnail: str | None
    image: str
    instruction: str
    gold: str
    before: MarkedPrediction
    after: MarkedPrediction
    change: str


@dataclass(frozen=True, slots=True)
class Examples:
    """The shown answers of one task in one run, or the reason why there are none.

    Attributes:
        before: what `Example.before` is, as the head of its column.
        rule: name of the scoring rule that the marks go by.
        forgotten: of all `total` questions, right before and wrong after; `regained` the other way round.
    """

    task: str
    rows: tuple[Example, ...]
    total: int
    before: str
    rule: str = "exact"
    forgotten: int = 0
    regained: int = 0
    problem: str = ""


class Thumbnails:
    """Thumbnails as data URIs, each made and embedded once."""

    def __init__(self) -> None:
        self._names: dict[str, str | None] = {}
        self.uris: dict[str, str] = {}  # name -> data URI, in the order of first use

    def name_of(self, image: str) -> str | None:
        """The name under which the image is embedded; None when the file is gone or is no image."""
        if image not in self._names:
            uri = thumbnail(Path(image))
            known = {known_uri: name for name, known_uri in self.uris.items()}
            name = known.get(uri, f"image-{len(self.uris) + 1}") if uri else None
            if name and uri:
                self.uris[name] = uri
            self._names[image] = name
        return self._names[image]


def thumbnail(path: Path) -> str | None:
    """An image of at most 96 x 96 pixels as a data URI (PNG or JPEG, whichever is smaller); None if unreadable."""
    try:
        return data_uri(small_image(path, side=SIDE))
    except DataError:
        return None


def data_uri(image: Image.Image) -> str:
    """An RGB or RGBA image as a data URI: PNG or JPEG, whichever is smaller."""
    image = image.convert("RGBA")
    opaque = image.getchannel("A").getextrema() == (255, 255)
    choices = [("png", _encoded(image.convert("RGB") if opaque else image, "PNG"))]
    if opaque:
        choices.append(("jpeg", _encoded(image.convert("RGB"), "JPEG")))
    kind, data = min(choices, key=lambda choice: len(choice[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **({"quality": 80} if kind == "JPEG" else {}))
    return buffer.getvalue()


def examples_of(run: Path, matrix: Matrix, task: str, thumbnails: Thumbnails) -> Examples:
    """Ten answers to `task`: right after its own stage, and after the last.

    For a task that the last stage learned, the two are one: then `before` is the base model. The same holds for a task
    that was known before. `problem` names a missing or damaged answers file; the rest of the page is complete.
    """
    own, last = matrix.stage_of(task), len(matrix.R) - 1
    if not last:
        return Examples(task, (), 0, "", problem="nothing learned yet" if own == 0 else "not learned yet")
    if own is None:
        return Examples(task, (), 0, "", problem="not learned yet")
    before, title = (own, "right after learning it") if 0 < own < last else (0, "base model")
    try:
        rule = _rule(matrix, task)
        pairs = _pairs(_marked(run, matrix, task, before, rule), _marked(run, matrix, task, last, rule))
        changes = [_change(*pair) for pair in pairs]
        rows = tuple(_example(*pair, thumbnails) for pair in chosen(pairs))
    except UserError as problem:
        return Examples(task, (), 0, title, problem=str(problem))
    except (KeyError, TypeError, AttributeError):
        return Examples(task, (), 0, title, problem=f"{run}: the answers to '{task}' are damaged or lack a field")
    return Examples(task, rows, len(pairs), title, rule, changes.count("forgotten"), changes.count("regained"))


def _rule(matrix: Matrix, task: str) -> str:
    """The task's scoring rule; cells of older runs name none and are exact."""
    names = [cell.get("score_rule", "exact") for cell in matrix.cells if cell["task"] == task]
    return names[-1] if names else "exact"


def _marked(run: Path, matrix: Matrix, task: str, stage: int, rule: str) -> list[dict[str, Any]]:
    """The answers of a cell, each with its `mark` under `rule`."""
    from evertune.training.answer_files import read_answers

    for cell in matrix.cells:
        if cell["stage"] == stage and cell["task"] == task:
            rows = read_answers(below(run, cell.get("answers")))
            return [{**row, "mark": mark} for row, mark in zip(rows, _marks(rows, rule), strict=True)]
    raise RunFolderError(
        f"{run / 'matrix.json'} names no answers to '{task}' after stage {stage}: the cell was not evaluated"
    )


def _marks(rows: Sequence[dict[str, Any]], rule: str) -> list[str]:
    """By the scores in the rows, which need no scoring rule of the user's own; else by the rule itself."""
    if all(is_score(row.get("score")) and is_score(row.get("relaxed")) for row in rows):
        return [_mark(row["score"] / 100, row["relaxed"] / 100) for row in rows]
    return marks_of(rows, rule_of(rule))


def marks_of(rows: Sequence[dict[str, Any]], rule: Rule) -> list[str]:
    """`right` from 50 points on; below, `form` when the right words are there, `partly` above 0, else `wrong`."""
    predicted, golds = [row["answer"] for row in rows], [row["gold"] for row in rows]
    return list(map(_mark, rule.strict(predicted, golds), rule.relaxed(predicted, golds)))


def _mark(strict: float, loose: float) -> str:
    right, nearly = strict >= RIGHT_FROM, loose >= RIGHT_FROM
    return "right" if right else "form" if nearly else "partly" if max(strict, loose) > 0 else "wrong"


Pair = tuple[dict[str, Any], dict[str, Any]]


def _pairs(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[Pair]:
    later = {row["id"]: row for row in after}
    return [(row, later[row["id"]]) for row in before if row["id"] in later]


def chosen(pairs: Sequence[Pair]) -> list[Pair]:
    """At most ten: those whose rightness changed first, then the others, each by a draw that the id fixes.

    The draw does not depend on the run, so that runs show the same questions where they can.
    """
    return sorted(pairs, key=lambda pair: (_change(*pair) == "", digest(str(pair[0]["id"]))))[:SHOWN]


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    was, now = before["mark"] == "right", after["mark"] == "right"
    return "" if was == now else "regained" if now else "forgotten"


def _example(before: dict[str, Any], after: dict[str, Any], thumbnails: Thumbnails) -> Example:
    images = images_of_row(after)
    return Example(
        thumbnail=thumbnails.name_of(images[0]) if images else None,
        image=", ".join(Path(image).name for image in images),
        instruction=shortened(str(after["instruction"])),
        gold=shortened(" / ".join(dict.fromkeys(map(str, after["gold"])))),
        before=_marked_prediction(before),
        after=_marked_prediction(after),
        change=_change(before, after),
    )


def _marked_prediction(row: dict[str, Any]) -> MarkedPrediction:
    return MarkedPrediction(shortened(row["answer"]), row["mark"], row.get("expert"))


def shortened(text: str) -> str:
    """A text as the page shows it: at most 300 letters."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
