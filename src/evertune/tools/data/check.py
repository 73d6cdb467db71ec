"""`evertune data check`: everything that is wrong or odd about the data of a stream, before anyone pays for a GPU.

Errors are what would stop a run: rows, files and images that can't be used; and what a named model can't read to its
end. Warnings are what may cost a result its
meaning, notes what is good to know. Rows stay on the disk; memory holds hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evertune.assets import Progress
from evertune.data.image_index import COMPARED
from evertune.data.issues import Issues, ReportedError
from evertune.data.probes import KIND, probe_rows
from evertune.data.samples import Samples
from evertune.data.sources import SPLITS, ReadOptions, in_one, parted, read_half, read_whole, scorable, taken
from evertune.data.task_file import TaskFile
from evertune.tools.data.overlap import Overlap, SplitIndex, shared
from evertune.tools.data.source import Hints, file_or_stream, reading
from evertune.utils.errors import DataError

if TYPE_CHECKING:
    from evertune.models.protocol import Described

LONG_INSTRUCTION, LONG_ANSWER = 8_000, 2_000
"""Characters. An answer that long is a slip more often than an answer, and generation lasts as long as the longest."""


@dataclass
class CheckResult:
    """What was found.

    Attributes:
        names: of all tasks, in order, the probes last.
        probes: how many of the last names are those of probes, which have test rows only.
        halves: what can be used of the training and the test rows of each task, in order.
        errors: what would stop a run, or be cut off by the model; warnings, notes: all else.
        decode: whether images were opened.
    """

    stream: str
    names: tuple[str, ...]
    halves: list[SplitIndex] = field(default_factory=list)
    errors: Issues = field(default_factory=Issues)
    warnings: Issues = field(default_factory=Issues)
    notes: Issues = field(default_factory=Issues)
    decode: bool = True
    probes: int = 0

    def levels(self) -> Iterator[tuple[str, Issues]]:
        """Findings by their weight."""
        yield from (("error", self.errors), ("warning", self.warnings), ("note", self.notes))

    def tasks(self) -> dict[str, dict[str, int]]:
        """Rows of each task's halves that can be used, and the different images of both."""
        found = {name: {"train": 0, "test": 0, "images": 0} for name in self.names}
        for half in self.halves:
            task = found[half.task]
            task[half.split] = len(half.samples)
            task["images"] += len(half.images)
        return found

    @property
    def leaves_a_rest(self) -> bool:
        """Whether something is left of both halves of every task."""
        tasks = len(self.names) - self.probes
        sizes = [
            min(task["train"], task["test"]) if at < tasks else task["test"]
            for at, task in enumerate(self.tasks().values())
        ]
        return all(sizes) or not self.decode

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stream": self.stream,
            "ok": not len(self.errors),
            "decode": self.decode,
            "tasks": self.tasks(),
            "counts": {level: len(problems) for level, problems in self.levels()},
            "findings": [
                {
                    "level": level,
                    "kind": kind,
                    "count": count,
                    "messages": [{"task": task, "message": message} for task, message in messages],
                }
                for level, problems in self.levels()
                for kind, count, messages in problems.kinds()
            ],
        }


def check(
    name: str,
    *,
    data: str | None = None,
    lmm: Described | None = None,
    decode: bool = True,
    hints: Hints | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Check the data of a stream, or of a single file.

    Args:
        name: a stream's name or YAML, or a file.
        data: where the folders of published data sets are.
        lmm: the model that is to learn them: says how many images and tokens a sample may have.
        decode: open every image; False: only their names are known.
        hints: how a single file is read.
        progress: called during downloads and while images are read.

    Raises:
        UserError: there is no such stream or file, or an option that its format does not have.
    """
    content, path = file_or_stream(name, hints or Hints())
    takes, model = (lmm.images_per_sample, Path(lmm.name).name) if lmm else (None, "")
    how = reading(content, path, data=data, takes=takes, model=model, progress=progress)
    entries = content.known + content.tasks
    names = tuple(entry.name for entry in content.all_tasks)
    result = CheckResult(content.name, names, errors=how.problems, decode=decode, probes=len(content.probes))
    for entry in entries:
        result.halves += _halves(entry, how, decode=decode)
    probes = [half for entry in content.probes if (half := _of_probe(entry, how, decode=decode))]
    for probe in probes:
        for half in result.halves:
            _asks_what_a_task_has(probe, half, result)
    result.halves += probes
    for half in result.halves:
        _look_at_texts(half, result, lmm)
    _overlap(result)
    return result


def _halves(entry: TaskFile, how: ReadOptions, *, decode: bool) -> Iterator[SplitIndex]:
    """What can be read and used of a task; the rest becomes problems."""
    try:
        whole = in_one(entry, how)
    except DataError as problem:
        _note(problem, entry, how)
        return
    for split in () if whole else SPLITS:
        try:
            yield _half(entry, how, split, read_half(entry, how, split), decode=decode)
        except DataError as problem:
            _note(problem, entry, how)
    if whole:
        yield from _of_one_file(entry, how, decode=decode)


def _of_probe(entry: TaskFile, how: ReadOptions, *, decode: bool) -> SplitIndex | None:
    """What can be evaluated of a probe; the rest becomes problems."""
    try:
        return _half(entry, how, "test", probe_rows(entry, how), decode=decode)
    except DataError as problem:
        _note(problem, entry, how)
        return None


def _asks_what_a_task_has(probe: SplitIndex, half: SplitIndex, result: CheckResult) -> None:
    """A run refuses a question of a probe that a task has."""
    places, _ = shared(half.questions, probe.questions)
    texts = (f"{probe.origin(int(at))}: the task '{half.task}' has it in {half.split}" for at in places)
    result.errors.add_counted(KIND, len(places), texts, task=probe.task)


def _of_one_file(entry: TaskFile, how: ReadOptions, *, decode: bool) -> Iterator[SplitIndex]:
    """A file that a run would part by its images: parted likewise when images are opened."""
    try:
        whole = read_whole(entry, how)
        if not decode:
            yield _half(entry, how, "train", whole, decode=False)
            return
        whole.look(depth=COMPARED, on_looked=how.looked(entry.name))
        sides: tuple[Samples, ...]
        try:
            sides = parted(whole, entry, how)
        except ReportedError:
            sides = (whole.whole(),)  # what is left is looked at all the same
        for split, side in zip(SPLITS, sides, strict=False):
            yield _half(entry, how, split, side, decode=True)
    except DataError as problem:
        _note(problem, entry, how)


def _half(entry: TaskFile, how: ReadOptions, split: str, samples: Samples, *, decode: bool) -> SplitIndex:
    if decode:
        samples.look(depth=COMPARED, on_looked=how.looked(entry.name))
        how.problems.add(samples.faults(), task=entry.name)
        samples = samples.whole()
    samples = taken(samples, entry, how)
    if split == "test":
        samples = scorable(samples, entry, how)
    return SplitIndex(entry.name, split, samples, by_content=decode)


def _note(problem: DataError, entry: TaskFile, how: ReadOptions) -> None:
    if not isinstance(problem, ReportedError):
        how.problems.add([problem], task=entry.name)


def _look_at_texts(half: SplitIndex, result: CheckResult, lmm: Described | None) -> None:
    """Texts that are oddly long, samples that the model can't read to their end, and those without an image."""
    if lmm:
        from evertune.models.readable import unknown_tokens, unreadable  # brings torch

        result.errors.add((problem for _, problem in unreadable(half.samples, lmm)), task=half.task)
        result.warnings.add(unknown_tokens(half.samples, lmm), task=half.task)
    lengths = half.samples.rows.lengths[half.samples.chosen]
    for at in np.flatnonzero(lengths > LONG_ANSWER).tolist():  # no text has more characters than its row has bytes
        sample = half.samples[at]
        result.warnings.add(_long(sample.instruction, sample.answers, sample.origin), task=half.task)
    without = np.flatnonzero(half.samples.rows.counts[half.samples.chosen] == 0)
    origins = (f"{half.origin(int(at))}: the row has no image" for at in without)
    if len(without) < len(half.samples):  # a task of texts alone is meant to be one
        result.notes.add_counted(f"no image in {half.split}", len(without), origins, task=half.task)


def _long(instruction: str, answers: tuple[str, ...], origin: str) -> Iterator[DataError]:
    longest = max(map(len, answers))
    if len(instruction) > LONG_INSTRUCTION:
        yield DataError(f"{origin}: the instruction has {len(instruction):,} characters", kind="long instruction")
    if longest > LONG_ANSWER:
        yield DataError(f"{origin}: an answer has {longest:,} characters", kind="long answer")


def _overlap(result: CheckResult) -> None:
    overlap = Overlap(errors=result.errors, warnings=result.warnings, notes=result.notes)
    for half in result.halves:
        overlap.within(half)
    for test in result.halves:
        for train in result.halves:
            if (train.split, test.split) == SPLITS:
                overlap.between(train, test)
