"""An open model in service: its tasks and its predictions. `lifecycle.py` changes it.

Separate from `lifecycle.py`, because the server, the playground and `ask` open models but do not change them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evertune.assets import Progress
from evertune.data import Task
from evertune.models.protocol import LMM
from evertune.reporting.matrix import Matrix
from evertune.runs.api import config_of, open_run
from evertune.runs.callback import Callback
from evertune.runs.inputs import OWN
from evertune.runs.run_data import data_of
from evertune.runs.runner import cells_about, evaluate_cell
from evertune.training.eval_set import is_kept, keep_tasks, kept_task
from evertune.training.learner import Learner
from evertune.utils.distributed import refuse_several
from evertune.utils.errors import RunFolderError
from evertune.utils.symlinks import refuse_links


@dataclass(frozen=True, slots=True)
class Service:
    """A model in service: the learner at its last stage, and its stored tasks."""

    folder: Path
    learner: Learner
    tasks: tuple[Task, ...]

    @classmethod
    def open(cls, folder: Path, *, lmm: LMM | None = None, progress: Progress | None = None) -> Service:
        """Open a model that `new` or `evertune run` made; `lmm` as in `open_run`.

        Raises:
            RunFolderError: it is no such folder, or damaged, or a run that is not finished.
        """
        refuse_several("this command")
        refuse_links(folder)
        config = config_of(folder)
        learner = open_run(folder, lmm=lmm, progress=progress)
        names = [stage.task for stage in learner.stages]
        if config.stream != OWN:
            names = _known_to_run(folder, learned=names)
            if not all(is_kept(folder, name) for name in names):
                from evertune.models.readable import readable  # brings torch

                data = readable(data_of(config, progress=progress), learner.lmm, skip_invalid=config.skip_invalid)
                known = [task for task in data.columns if task.name in names]
                keep_tasks(folder, known, tokens=learner.lmm.answer_tokens)
        return cls(folder, learner, tuple(kept_task(folder, name) for name in names))

    @property
    def number(self) -> int:
        """Its last stage."""
        return len(self.learner.stages)

    def measured(
        self, tasks: Sequence[Task], callback: Callback, *, stage: int | None = None
    ) -> dict[tuple[int, str], dict[str, Any]]:
        """All cells, after evaluating the missing ones of `tasks` at a stage, by default the last."""
        number = self.number if stage is None else stage
        cells = cells_about(self.folder, tasks)
        for task in tasks:
            if (number, task.name) not in cells:
                cells[number, task.name] = evaluate_cell(self.learner, task, number, self.folder, callback)
        return cells

    def answers(self, stage: int, task: str) -> Path:
        """The file of the predictions for a task after a stage."""
        return self.folder / "answers" / f"{stage:02d}" / f"{task}.jsonl"


def _known_to_run(folder: Path, *, learned: Sequence[str]) -> list[str]:
    """The tasks that a run's model knows: those of its stream that were not rolled back, then later ones."""
    matrix = Matrix.read(folder)
    if not matrix.finished:
        raise RunFolderError(f"{folder} is a run that is not finished: finish it with the command that began it")
    tasks, stages = matrix.tasks, matrix.stages
    if set(stages) <= set(tasks):
        of_run = [name for name in tasks if name in matrix.known or name in learned]
    else:  # one stage for all of them, as `joint` has it
        of_run = tasks if learned else matrix.known
    return [*of_run, *(name for name in learned if name not in (*tasks, *stages))]


@dataclass(frozen=True, slots=True)
class AskResult:
    """An answer.

    Attributes:
        expert: the expert that generated it; None for a method without experts.
        ranking: learned tasks with the router's probabilities, highest first.
        warnings: about the question.
    """

    answer: str
    expert: str | None
    ranking: list[tuple[str, float]]
    warnings: tuple[str, ...] = ()

    @property
    def surely(self) -> str:
        """The confidence of the router."""
        ahead = lead_of(self.ranking)
        return f", {ahead}" if ahead else ""


def lead_of(ranking: Sequence[tuple[str, float]]) -> str:
    """The confidence of a router in the first task: `97 % sure`; '' if there are not two tasks."""
    return f"{percent(ranking[0][1])} sure" if len(ranking) > 1 else ""


def percent(share: float) -> str:
    """A probability as text, never as certain."""
    return "over 99 %" if share > 0.995 else "under 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def ask_once(
    service: Service, images: Sequence[Path], question: str, *, task: str | None = None, max_new_tokens: int = 32
) -> AskResult:
    """Ask a model one question about images.

    Raises:
        UserError: the question is empty, or a method needs the task.
        DataError: an image is missing or broken, or the model takes another number of them.
    """
    from evertune.models.readable import MOST, unknown_tokens  # brings torch

    learner = service.learner
    answer = learner.ask(images, question, task=task, max_new_tokens=max_new_tokens)
    odd = unknown_tokens([replace(answer.sample, origin="the question")], learner.lmm, above=MOST)
    return AskResult(answer.text, answer.expert, learner.ranking(answer.sample), tuple(map(str, odd)))
