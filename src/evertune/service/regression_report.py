"""The effect of a new task on earlier ones: gained, kept or lost, by task, from the same questions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from evertune.data import Task
from evertune.metrics.rules import rule_of, score_cell
from evertune.metrics.statistics import Interval, change_interval
from evertune.training.answer_files import read_answers

Word = Literal["gained", "kept", "lost", "too few questions", "learned", "not learned"]
HIDDEN = 20.0
"""Points: an interval that contains zero and reaches further than this is too wide to call a task kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """One task before and after, in points of 100.

    Attributes:
        best: the highest score it ever had, `after` included.
        interval: 95 % interval of the difference over the same questions, those about one image counted together; None
            where there are too few, and where the score of the task is not the mean of its answers' scores (BLEU).
        few: there are too few questions for an interval.
        new: it is the task that was just learned.
        word: lost or gained when the interval excludes zero; of BLEU, when the score changed at all. Of the new task:
            learned when it gained, else not learned.
    """

    task: str
    score: str
    questions: int
    before: float
    after: float
    best: float
    interval: Interval | None
    few: bool = False
    new: bool = False

    @property
    def difference(self) -> float:
        """After - before."""
        return self.after - self.before

    @property
    def word(self) -> Word:
        """The result in one word."""
        low, high = self.interval or (self.difference, self.difference)
        if self.few or (self.interval and low <= 0 <= high and max(-low, high) > HIDDEN and not self.new):
            return "too few questions"
        if self.new:
            return "learned" if low > 0 else "not learned"
        return "gained" if low > 0 else "lost" if high < 0 else "kept"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "difference": self.difference, "word": self.word}


@dataclass(frozen=True, slots=True)
class RegressionReport:
    """The effect of one stage.

    Attributes:
        new: the task that was learned; None for a check.
        others: all tasks that were known before, in the order they were learned.
    """

    new: Change | None
    others: tuple[Change, ...]

    @property
    def learned(self) -> bool:
        """Whether the new task gained; of a check, where none is new, True."""
        return self.new is None or self.new.word == "learned"

    def not_learned(self) -> list[str]:
        """Why a stage without a condition is discarded; empty if its task was learned."""
        if self.new is None or self.learned:
            return []
        what = "has too few questions to tell" if self.new.few else "is not learned"
        questions = "1 question" if self.new.questions == 1 else f"{self.new.questions} questions"
        scores = f"from {self.new.before:.1f} to {self.new.after:.1f} on {questions}"
        return [f"{self.new.task} {what}: {scores}"]

    def measures(self) -> dict[str, float]:
        """The measures for conditions, in points: `forgetting`, `worst`, `gain` and `average` (docs/service.md)."""
        lost = [change.best - change.after for change in self.others]
        everything = [change.after for change in (*self.others, *([self.new] if self.new else []))]
        return {
            "forgetting": sum(lost) / len(lost) if lost else 0.0,
            "worst": max(lost, default=0.0),
            "gain": self.new.difference if self.new else 0.0,
            "average": sum(everything) / len(everything) if everything else 0.0,
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "new": self.new.as_dict() if self.new else None,
            "others": [change.as_dict() for change in self.others],
            **self.measures(),
        }


def change_of(task: Task, before: Path, after: Path, *, best: float, new: bool = False) -> Change:
    """Compare two files of answers to the test questions of `task`; `best` is of the cells before.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    rule = rule_of(task.score)
    cells = []
    for path in (before, after):
        rows = {row["id"]: row for row in read_answers(path)}
        predictions = [rows[sample.id]["answer"] for sample in task.test]
        cells.append(score_cell(rule, predictions, [list(sample.answers) for sample in task.test]))
    first, last = cells
    images = [sample.images or sample.id for sample in task.test]
    interval = None if rule.whole else change_interval(first.each, last.each, images)
    return Change(
        task=task.name,
        score=rule.name,
        questions=len(task.test),
        before=first.strict,
        after=last.strict,
        best=max(best, last.strict),
        interval=interval,
        few=interval is None and not rule.whole,
        new=new,
    )


def best_cell(cells: Mapping[tuple[int, str], dict[str, Any]], task: str, stages: Sequence[int]) -> dict[str, Any]:
    """The cell with the highest score of `task` among `stages`, the earliest of equals."""
    found = [cells[stage, task] for stage in stages if (stage, task) in cells]
    best: dict[str, Any] = max(found, key=lambda cell: cell["score"])
    return best
