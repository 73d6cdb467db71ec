"""The evaluator: batched greedy predictions for a task's test samples, and their score.

Predictions are cached by everything that decides them (model, trained weights, dtype, image, instruction, length), so
that each is generated once: all methods share row 0, and an unchanged expert's predictions are reused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from evertune.data.task import Sample, Task
from evertune.methods import Method, code_of_methods
from evertune.metrics.rules import CellScore, rule_of, score_cell
from evertune.models.features import FeatureStore
from evertune.models.protocol import LMM, Described, Generator, Turn
from evertune.models.weights import copy_of, fingerprint_of, restore
from evertune.training.answer_files import read_answers
from evertune.training.routing import active, first_of, routes_of
from evertune.utils import distributed
from evertune.utils.cache_files import note_use
from evertune.utils.errors import RunFolderError
from evertune.utils.files import (
    cache_folder,
    digest,
    digest_of,
    make_folder,
    note_damage,
    write_atomically,
    write_jsonl,
)
from evertune.utils.parsing import json_value
from evertune.utils.regular_files import read_regular

OnAnswered = Callable[[int, int], None]
ANSWERS, SEAL = "answers", "sha256"
PER_QUESTION = 1000
"""Letters that the image and the answer count for, beside the question, where processes share the work."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one sample, and the expert that generated it (None for a method without experts)."""

    sample: Sample
    text: str
    expert: str | None

    def to_row(self) -> dict[str, Any]:
        """A row of an answers file: the sample with its answers as `gold`, the text and the expert."""
        row = self.sample.to_row()
        gold = row.pop("answers")
        return {**row, "gold": gold, "answer": self.text, "expert": self.expert}


class PredictionCache:
    """Cached predictions of one set of weights, in one file; the keys are image and instruction."""

    def __init__(self, lmm: LMM, *, max_new_tokens: int, reuse: bool, methods: Sequence[Method] = ()) -> None:
        self._reuse = reuse
        self._known: dict[str, str] = {}
        if not reuse:
            return
        key = digest_of(
            {
                "model": lmm.fingerprint,
                "weights": fingerprint_of(lmm.trainable()),
                "dtype": str(lmm.dtype),
                "device": lmm.device.type,
                "torch": torch.__version__,
                "max_new_tokens": max_new_tokens,
                **code_of_methods(methods),
            }
        )
        self._path = make_folder(cache_folder() / "answers") / f"{key[:32]}.json"
        self._known = self._load()

    def _load(self) -> dict[str, str]:
        try:
            known = _sealed_answers(json_value(read_regular(self._path)))
            note_use(self._path)
            return known
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            note_damage(self._path)  # a cache: damaged entries are made again
            return {}

    def __contains__(self, sample: Sample) -> bool:
        return self._key(sample) in self._known

    def __getitem__(self, sample: Sample) -> str:
        return self._known[self._key(sample)]

    def add(self, samples: Iterable[Sample], answers: Iterable[str]) -> None:
        """Cache answers in memory."""
        self._known.update(zip(map(self._key, samples), answers, strict=True))

    def save(self) -> None:
        """Write them, and keep what another process has written meanwhile."""
        if self._reuse:
            self._known = {**self._load(), **self._known}
            content = {ANSWERS: self._known, SEAL: digest_of(self._known)}
            write_atomically(self._path, json.dumps(content, ensure_ascii=False))

    @staticmethod
    def _key(sample: Sample) -> str:
        return digest(*sample.image_digests, sample.instruction)


def _sealed_answers(content: Any) -> dict[str, str]:
    """The answers of a file of the cache.

    Raises:
        ValueError: the checksum is wrong.
    """
    if not isinstance(content, dict) or content.keys() != {ANSWERS, SEAL}:
        raise ValueError("no answers")
    if content[SEAL] != digest_of(content[ANSWERS]):
        raise ValueError("not what was written")
    known: dict[str, str] = content[ANSWERS]
    return known


def answer_samples(
    lmm: LMM,
    methods: Sequence[Method],
    samples: Sequence[Sample],
    features: FeatureStore,
    *,
    batch_size: int,
    max_new_tokens: int,
    task: str | None = None,
    context: Sequence[Turn] = (),
    reuse: bool = True,
    expert: str | None = None,
    on_answered: OnAnswered | None = None,
) -> list[Prediction]:
    """Answer every sample, each by the expert that the methods route it to.

    `task`, the name of the samples' task, is passed only to a method that declares `Method.needs_task_id`.
    `context` contains the earlier turns of each of them (`LMM.generate`); nothing is cached then.
    With `expert`, that one answers all samples, and nothing is routed.
    With `reuse`, earlier predictions of bit-identical weights are taken from the cache. The model's weights are
    unchanged afterwards.
    """
    routes = distributed.broadcast([expert] * len(samples) if expert else routes_of(methods, samples, task))
    before = copy_of(lmm.trainable())
    predicted: dict[int, str] = {}
    how: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "context": context}
    try:
        for each in sorted(set(routes), key=str):
            members = [i for i, route in enumerate(routes) if route == each]
            group = [samples[i] for i in members]
            cached = reuse and not context and not isinstance(each, tuple)  # a key has the weights of one expert
            with active(lmm, methods, each):
                cache = PredictionCache(lmm, max_new_tokens=max_new_tokens, reuse=cached, methods=methods)
                for known in _fill(cache, lmm, group, features, **how):
                    if on_answered:
                        on_answered(len(predicted) + known, len(samples))
            predicted |= {i: cache[samples[i]] for i in members}
    finally:  # a server continues after a question that fails
        restore(lmm.trainable(), before)
    return [Prediction(sample, predicted[i], first_of(routes[i])) for i, sample in enumerate(samples)]


def _fill(
    cache: PredictionCache,
    lmm: Generator,
    samples: Sequence[Sample],
    features: FeatureStore,
    *,
    batch_size: int,
    max_new_tokens: int,
    context: Sequence[Turn],
) -> Iterator[int]:
    """Generate missing predictions in batches (`_in_order`); yields the number of known ones after each batch.

    Several processes share the questions (`_own_part`), unless the weights are sharded (FSDP): then all take part in
    every batch.
    """
    places = distributed.broadcast([place for place, sample in enumerate(samples) if sample not in cache])
    missing = _in_order([samples[place] for place in places], by_image=lmm.unshared is None)
    own = missing if distributed.uses_fsdp() else _own_part(missing, by_image=lmm.unshared is None)
    mine = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    predicted: list[str] = []
    known, together = len(samples) - len(missing), len(missing) / max(1, len(own))
    for chunk in features.ahead_of(mine, mine):
        predicted += lmm.generate(
            features.get(chunk),
            [s.instruction for s in chunk],
            max_new_tokens=max_new_tokens,
            images=[len(s.images) for s in chunk],
            context=context,
        )
        yield min(len(samples), known + round(together * len(predicted)))
    for questions, texts in distributed.all_gather((mine, predicted)):
        cache.add((sample for chunk in questions for sample in chunk), texts)
    if missing and distributed.is_main_process():
        cache.save()


def _own_part(ordered: Sequence[Sample], *, by_image: bool) -> Sequence[Sample]:
    """The questions of this process, in their order: one after another, the largest first, go to the process with the
    least to do. With `by_image`, neighbours about the same images stay together.
    """
    count = distributed.world_size()
    if count == 1:
        return ordered
    units = [list(unit) for _, unit in groupby(ordered, key=lambda s: s.image_digests if by_image else s.id)]
    work = [sum(PER_QUESTION + len(sample.instruction) for sample in unit) for unit in units]
    loads, owner = [0] * count, [0] * len(units)
    for place in sorted(range(len(units)), key=lambda place: (-work[place], place)):
        owner[place] = loads.index(min(loads))
        loads[owner[place]] += work[place]
    return [sample for unit, rank in zip(units, owner, strict=True) if rank == distributed.rank() for sample in unit]


def _in_order(samples: Sequence[Sample], *, by_image: bool) -> list[Sample]:
    """Questions of similar length are neighbours, so that a batch has little padding.

    With `by_image`, those about the same images are neighbours, so that a model computes these once for all of them.
    """
    if not by_image:
        return sorted(samples, key=lambda sample: (len(sample.instruction), sample.id))
    images = {sample: sample.image_digests for sample in samples}
    longest: dict[tuple[str, ...], int] = {}
    for sample, same in images.items():
        longest[same] = max(longest.get(same, 0), len(sample.instruction))
    return sorted(samples, key=lambda s: (longest[images[s]], images[s], len(s.instruction), s.id))


def longest_answer(lmm: Described, task: Task, wanted: int | None) -> int:
    """Most tokens of a prediction: `wanted`, else two more than the longest training (or test) answer."""
    if wanted is not None:
        return wanted
    texts = {sample.answers[0] for sample in task.train or task.test}
    return max(lmm.answer_tokens(text) for text in texts) + 2


def write_answers(path: Path, answers: Sequence[Prediction]) -> None:
    """Write answers down before anything is scored; `score_file` adds the scores."""
    write_jsonl(path, (answer.to_row() for answer in answers))


@dataclass(frozen=True, slots=True)
class Score:
    """Score of a task's predictions in points of 100: strict, by the task's rule, and relaxed, regardless of the form.

    Attributes:
        rule: name of the scoring rule.
        standard_error: of `strict`, from the standard deviation of the answers' scores; None for a single answer, and
            where the
            score of a cell is not the mean of its answers' (BLEU).
    """

    rule: str
    strict: float
    relaxed: float
    standard_error: float | None
    n: int
    experts: dict[str, int]


def score_file(path: Path, task: Task) -> Score:
    """Score an answers file against `task`, and add `score` and `relaxed` to each of its rows, in points of 100.

    Raises:
        RunFolderError: as `read_answers` and `score_answers`.
    """
    rows = read_answers(path)
    cell = _cell_of(rows, task)
    each = zip(rows, cell.each, cell.each_relaxed, strict=True)
    write_jsonl(path, ({**row, "score": 100 * strict, "relaxed": 100 * relaxed} for row, strict, relaxed in each))
    return _score(rows, task, cell)


def score_answers(rows: Sequence[dict[str, Any]], task: Task) -> Score:
    """Score the rows of an answers file against `task`.

    Raises:
        RunFolderError: an answer is missing or superfluous: an incomplete cell has no score.
    """
    return _score(rows, task, _cell_of(rows, task))


def _cell_of(rows: Sequence[dict[str, Any]], task: Task) -> CellScore:
    wanted = [s.id for s in task.test]
    if [row["id"] for row in rows] != wanted:
        raise RunFolderError(f"task '{task.name}': {len(rows)} answers for {len(wanted)} test samples, or other ids")
    return score_cell(rule_of(task.score), [row["answer"] for row in rows], [row["gold"] for row in rows])


def _score(rows: Sequence[dict[str, Any]], task: Task, cell: CellScore) -> Score:
    return Score(
        rule=task.score,
        strict=cell.strict,
        relaxed=cell.relaxed,
        standard_error=cell.standard_error,
        n=len(rows),
        experts=dict(Counter(row["expert"] for row in rows if row["expert"] is not None)),
    )
