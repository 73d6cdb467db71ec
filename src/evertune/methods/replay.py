"""Replay: some samples of every earlier task, mixed into the current one.

`ratio` keeps that share of each earlier task, as the paper does with 1 %; `buffer` keeps a fixed number of samples
over all tasks. Their images are copied into the run folder, and named by content. `weighting` decides how the
replayed places of a task are shared among the earlier ones; their number stays the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from evertune.data.task import ConcatDataset, Sample, Task, drawn
from evertune.methods.base import Context, Method, MethodInfo
from evertune.methods.similarity import embed_task, similarity_to
from evertune.models.weights import bytes_of
from evertune.utils.errors import UserError
from evertune.utils.files import digest

Row = dict[str, Any]
Choice = Literal["balanced", "reservoir"]
RATIO = 0.01
"""Share of each task that is kept by default (He et al. 2023)."""
MOST_REPEATS = 10_000


class Replay(Method):
    """Keep a few samples of each task and train on them again with every later one.

    Args:
        ratio: share of each earlier task's training set, in (0, 1]; 0 keeps nothing. At least one sample is kept
            per task when it is above 0.
        buffer: when above 0, this many samples over all tasks instead of `ratio`.
        repeat: how often a kept sample stands in one epoch of a later task.
        choice: how a `buffer` is filled: 'balanced' gives every task the same number of places; 'reservoir' keeps a
            uniform random choice of all samples seen, so that a large task has more.
        weighting: how the replayed places are shared among earlier tasks: 'even', one for each kept sample; 'similar'
            and 'dissimilar', more for tasks that resemble the current one, or less. A favoured task's samples are
            repeated, of another's a random part is left out.
    """

    name = "replay"
    about = MethodInfo(
        title="experience replay",
        kind="replay",
        paper="He et al. 2023, arXiv 2311.16206 (1 % of every earlier task); Chaudhry et al. 2019, arXiv 1902.10486; "
        "reservoir: Vitter 1985, doi 10.1145/3147.3165",
        formula="min_θ Σ over D_t ∪ M, M = a random share of each of D_1 .. D_{t-1}; "
        "weighted: |M_k| w_k / Σ_j |M_j| w_j of the places go to task k, w_k = s(k) or 1 - s(k)",
        cost="the kept samples with their images, and the steps they add",
        fails="when old data may not be kept; with very few kept samples it learns those by heart",
    )

    sequential_equivalent: ClassVar[Mapping[str, Any]] = {"ratio": 0.0}

    def __init__(
        self,
        *,
        ratio: float = RATIO,
        buffer: int = 0,
        repeat: int = 1,
        choice: Choice = "balanced",
        weighting: Literal["even", "similar", "dissimilar"] = "even",
    ) -> None:
        if not 0 <= ratio <= 1:
            raise UserError(f"{self.name}.ratio must lie between 0 and 1, not {ratio}")
        if buffer < 0 or not 1 <= repeat <= MOST_REPEATS:
            raise UserError(f"{self.name}.buffer must be 0 or more and {self.name}.repeat 1 to {MOST_REPEATS:,}")
        if choice == "reservoir" and not buffer:
            raise UserError(
                f"{self.name}.choice=reservoir fills a buffer of fixed size: set {self.name}.buffer above 0"
            )
        self.ratio, self.buffer, self.repeat = ratio, buffer, repeat
        self.choice, self.weighting = choice, weighting
        self._memory: dict[str, list[Row]] = {}
        self._seen = 0
        self._embeddings: dict[str, dict[str, Tensor]] = {}

    def setup(self, context: Context) -> None:
        """Start with an empty memory."""
        super().setup(context)
        self._memory, self._seen, self._embeddings = {}, 0, {}

    def on_known_task(self, task: Task) -> None:
        """A known task enters the memory like a learned one."""
        self.before_task(task)
        self.after_task(task)

    def before_task(self, task: Task) -> None:
        """Embed the new task, if its similarity to the earlier tasks is used."""
        if self.weighting != "even":
            self.context.features.ensure(task.train)
            self._embeddings[task.name] = embed_task(self.context.lmm, self.context.features, task.train)

    def data_plan(self, task: Task, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The plan so far and the replayed samples of every other task."""
        kept = {name: rows for name, rows in self._memory.items() if name != task.name and rows}
        choose = random.Random(digest("replayed", str(self.context.seed), task.name))
        places = self._places(task, kept)
        replayed = [
            self.context.kept(sample_of(row, name))
            for name, rows in kept.items()
            for row in _filled(rows, places[name], choose)
        ]
        return ConcatDataset([samples, replayed])

    def _places(self, task: Task, kept: Mapping[str, Sequence[Row]]) -> dict[str, int]:
        """Replayed places of each earlier task in one epoch of `task`; their sum does not depend on the weighting."""
        even = {name: self.repeat * len(rows) for name, rows in kept.items()}
        if self.weighting == "even" or not kept:
            return even
        old = {name: e for name, e in self._embeddings.items() if name in self._memory and name != task.name}
        s = similarity_to(self._embeddings[task.name], old, name=task.name)
        weights = {name: s[name] if self.weighting == "similar" else 1 - s[name] for name in kept}
        return shared_out(sum(even.values()), {name: even[name] * weights[name] for name in kept}, otherwise=even)

    def after_task(self, task: Task) -> None:
        """Keep a random choice of the task."""
        choose = random.Random(digest("replay", str(self.context.seed), task.name))
        self._choose(task, choose)
        self._memory[task.name] = self._stored(task, self._memory.get(task.name, []))

    def _stored(self, task: Task, rows: Sequence[Row]) -> list[Row]:
        """The same samples of `task` with images that are kept in the run folder."""
        return [self.context.keep(sample_of(row, task.name)).to_row() for row in rows]

    def _choose(self, task: Task, choose: random.Random) -> None:
        if self.choice == "reservoir":
            self._pour(task, choose)
            return
        if self.buffer:
            count = min(len(task.train), self.buffer)
        else:
            count = max(1, round(self.ratio * len(task.train))) if self.ratio > 0 else 0
        self._memory[task.name] = [s.to_row() for s in drawn(task.train, count, choose)]
        if self.buffer:
            self._make_room()

    def _make_room(self) -> None:
        """With a balanced buffer, every task gives up places for the new one."""
        share, rest = divmod(self.buffer, len(self._memory))
        for number, name in enumerate(self._memory):
            # A random choice in random order: its first places are a random choice too.
            self._memory[name] = self._memory[name][: share + (number < rest)]

    def _pour(self, task: Task, choose: random.Random) -> None:
        """Vitter's algorithm R: the n-th sample seen takes a random place with probability buffer / n."""
        slots = [(name, row) for name, rows in self._memory.items() for row in rows]
        for sample in task.train:
            self._seen += 1
            if len(slots) < self.buffer:
                slots.append((task.name, sample.to_row()))
            elif (place := choose.randrange(self._seen)) < self.buffer:
                slots[place] = (task.name, sample.to_row())
        names = dict.fromkeys([*self._memory, task.name])
        self._memory = {name: [row for owner, row in slots if owner == name] for name in names}

    def state_dict(self) -> dict[str, Any]:
        """The kept samples by task, samples seen, and embeddings of tasks if they are needed."""
        return {"memory": self._memory, "seen": self._seen, "embeddings": self._embeddings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory."""
        self._memory, self._seen = state["memory"], state["seen"]
        self._embeddings = dict(state["embeddings"])

    def grows_by(self) -> int:
        """One embedding per task, when tasks are compared."""
        return max((bytes_of(embedding) for embedding in self._embeddings.values()), default=0)


def shared_out(total: int, weights: Mapping[str, float], *, otherwise: Mapping[str, int]) -> dict[str, int]:
    """`total` places in proportion to `weights`, the largest remainders rounded up; `otherwise` when all are zero."""
    weight = sum(weights.values())
    if weight <= 0:
        return dict(otherwise)
    exact = {name: total * value / weight for name, value in weights.items()}
    places = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: places[name] - exact[name])
    for name in by_remainder[: total - sum(places.values())]:
        places[name] += 1
    return places


def _filled(rows: Sequence[Row], places: int, choose: random.Random) -> list[Row]:
    """`rows` as often as they fit into `places`, and a random choice of them in what remains."""
    times, rest = divmod(places, len(rows))
    return [*rows] * times + choose.sample(rows, rest)


def sample_of(row: Row, task: str) -> Sample:
    """The sample of a row of the memory of `task`."""
    return Sample.from_row(row, origin=f"the memory of {task}")
