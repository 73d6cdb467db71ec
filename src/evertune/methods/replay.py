"""Replay: some samples of every earlier task, mixed into the current one.

`ratio` keeps that share of each earlier task, as the paper does with 1 %; `buffer` keeps a fixed number of samples
over all tasks, shared out evenly. The memory holds references to samples (their fingerprints), not copies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evertune.errors import UserError
from evertune.files import digest
from evertune.methods.base import About, Method
from evertune.tasks.task import Sample, Task


class Replay(Method):
    """Keep a few samples of each task and train on them again with every later one.

    Args:
        ratio: share of each earlier task's training set, in (0, 1]; 0 keeps nothing. At least one sample is kept
            per task when it is above 0.
        buffer: when above 0, this many samples over all tasks instead of `ratio`.
        repeat: how often a kept sample stands in one epoch of a later task.
    """

    name = "replay"
    about = About(
        title="experience replay",
        kind="replay",
        paper="He et al. 2023, arXiv 2311.16206 (1 % of every earlier task); Chaudhry et al. 2019, arXiv 1902.10486",
        formula="min_θ Σ over D_t ∪ M, M = a random share of each of D_1 .. D_{t-1}",
        cost="the kept samples (references to pictures that must stay), and the steps they add",
        fails="when old data may not be kept; with very few kept samples it learns those by heart",
    )

    neutral: ClassVar[Mapping[str, Any]] = {"ratio": 0.0}

    def __init__(self, *, ratio: float = 0.01, buffer: int = 0, repeat: int = 1) -> None:
        if not 0 <= ratio <= 1:
            raise UserError(f"replay.ratio must lie between 0 and 1, not {ratio}")
        if buffer < 0 or repeat < 1:
            raise UserError("replay.buffer must be 0 or more and replay.repeat at least 1")
        self.ratio, self.buffer, self.repeat = ratio, buffer, repeat
        self._memory: dict[str, list[dict[str, Any]]] = {}

    def data_plan(self, task: Task, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The plan so far and the kept samples of every other task."""
        kept = [_sample(row) for name, rows in self._memory.items() if name != task.name for row in rows]
        return [*samples, *kept * self.repeat]

    def after_task(self, task: Task) -> None:
        """Keep a random choice of the task; with a buffer, every task gives up places for the new one."""
        choose = random.Random(digest("replay", str(self.context.seed), task.name))
        if self.buffer:
            count = min(len(task.train), self.buffer)
        else:
            count = max(1, round(self.ratio * len(task.train))) if self.ratio > 0 else 0
        self._memory[task.name] = [_row(s) for s in choose.sample(list(task.train), count)]
        if self.buffer:
            share, rest = divmod(self.buffer, len(self._memory))
            for number, name in enumerate(self._memory):
                # A random choice in random order: its first places are a random choice too.
                self._memory[name] = self._memory[name][: share + (number < rest)]

    def state_dict(self) -> dict[str, Any]:
        """References to the kept samples, by task."""
        return {"memory": self._memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the memory back."""
        self._memory = state["memory"]


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "image": str(sample.image),
        "instruction": sample.instruction,
        "answers": list(sample.answers),
        "origin": sample.origin,
    }


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(row["id"], Path(row["image"]), row["instruction"], tuple(row["answers"]), row["origin"])
