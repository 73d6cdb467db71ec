"""A stream: tasks in the order in which they are learned, written as one YAML file.

A built-in stream is a file in `tasks/streams/`; anybody's own is a path. Each task names a builder, a JSONL
file, or a published format and the folder with its files:

    name: my-stream
    tasks:
      - {name: photos, train: photos/train.jsonl, test: photos/test.jsonl}
      - {name: signs, data: signs.jsonl, images: pictures, test_share: 0.2}
      - {name: okvqa, format: okvqa, root: OKVQA, images: COCO2014, score: vqa}

`known:` lists tasks in the same way that the model can do already: they are not taught, but evaluated after every
stage, and methods may protect them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evertune.assets import Progress
from evertune.config import read_yaml, validated
from evertune.errors import DataError, UserError, unknown
from evertune.files import digest
from evertune.scoring.rules import rule_of
from evertune.tasks.builders import builder, built
from evertune.tasks.entries import sound
from evertune.tasks.formats import Row, format_of
from evertune.tasks.jsonl import confined, read_jsonl
from evertune.tasks.task import Sample, Task


@dataclass(frozen=True, slots=True)
class Stream:
    """Tasks in learning order, and those that the model knows before the first of them."""

    name: str
    tasks: tuple[Task, ...]
    about: dict[str, str] = field(default_factory=dict)
    known: tuple[Task, ...] = ()

    @property
    def columns(self) -> tuple[Task, ...]:
        """What is evaluated after every stage, the columns of R: known tasks first."""
        return self.known + self.tasks

    def limited(self, limit: int | None) -> Stream:
        """The same stream with at most `limit` training and test samples per task."""
        return replace(
            self,
            tasks=tuple(task.limited(limit) for task in self.tasks),
            known=tuple(task.limited(limit) for task in self.known),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of all samples of all tasks, in order, and of what is known before."""
        taught = digest(*(task.fingerprint for task in self.tasks))
        return digest("known", *(task.fingerprint for task in self.known), taught) if self.known else taught


class TaskFile(BaseModel):
    """What a task may say in a stream's YAML."""

    model_config = ConfigDict(extra="forbid")

    name: str
    build: str | None = None
    format: str | None = None
    root: str | None = None
    prompt: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: str | None = None
    test: str | None = None
    data: str | None = None
    test_share: float = Field(default=0.2, gt=0, lt=1)
    images: str | None = None
    score: str = "exact"
    about: dict[str, str] = Field(default_factory=dict)

    @field_validator("score")
    @classmethod
    def _known_score(cls, score: str) -> str:
        return rule_of(score).name

    @model_validator(mode="after")
    def _one_source(self) -> TaskFile:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"task name '{self.name}': use letters, digits, '-', '_' and '.'")
        files = [self.data is not None, self.train is not None and self.test is not None, self.root is not None]
        if sum([self.build is not None, *files]) != 1:
            raise ValueError(
                f"task '{self.name}' needs one of: 'build', 'data', 'train' and 'test', or 'format' and 'root'"
            )
        if self.root is not None and self.format is None:
            raise ValueError(f"task '{self.name}': 'root' needs the 'format' of the files in it")
        if self.format is not None:
            format_of(self.format)
        return self


class StreamFile(BaseModel):
    """What a stream's YAML may say."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str = ""
    reverse: str | None = None
    known: list[TaskFile] = Field(default_factory=list)
    tasks: list[TaskFile] = Field(default_factory=list)


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("evertune.tasks") / "streams"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def stream_names() -> list[str]:
    """Names of the streams that come with evertune."""
    return list(_shipped())


def stream_file(name: str) -> tuple[StreamFile, Path]:
    """Read a stream's YAML by built-in name or path, without building or reading its tasks."""
    shipped = _shipped()
    if name in shipped:
        path = shipped[name]
    elif name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.exists():
            raise UserError(f"the stream file {name} does not exist")
    else:
        raise unknown("stream", name, shipped)
    content = validated(StreamFile, read_yaml(path), where=str(path))
    if content.reverse is not None:
        if content.tasks or content.known:
            raise UserError(f"{path}: with 'reverse' the tasks are those of '{content.reverse}'; remove the others")
        straight, _ = stream_file(content.reverse)
        content = content.model_copy(update={"tasks": straight.tasks[::-1], "known": straight.known})
    if not content.tasks:
        raise UserError(f"{path}: the stream has no tasks")
    _refuse_twins(content, path)
    return content, path


def load_stream(name: str, *, limit: int | None = None, progress: Progress | None = None) -> Stream:
    """Read a stream, building or fetching what its tasks need.

    Args:
        name: a built-in stream or the path of a YAML file.
        limit: at most this many training and test samples per task.
        progress: called while something is downloaded.

    Raises:
        UserError: unknown name, or a file with a mistake; DataError names the row.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, not {limit}")
    content, path = stream_file(name)
    known, tasks = (
        tuple(_task(entry, path.parent, progress) for entry in entries) for entries in (content.known, content.tasks)
    )
    return Stream(content.name, tasks, {"title": content.title}, known).limited(limit)


def _task(entry: TaskFile, folder: Path, progress: Progress | None) -> Task:
    train, test = _splits(entry, folder, progress)
    _refuse_overlap(entry.name, train, test)
    return Task(entry.name, train, test, entry.score, about_task(entry))


def about_task(entry: TaskFile) -> dict[str, str]:
    """Title, source, licence and citation of a task: the builder's or format's, overridden by what the YAML says."""
    if entry.format:
        return {**format_of(entry.format).ABOUT, **entry.about}
    return {**(builder(entry.build).ABOUT if entry.build else {}), **entry.about}


def _splits(entry: TaskFile, folder: Path, progress: Progress | None) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    if entry.build is not None:
        place = built(entry.build, entry.options, progress=progress)
        return read_jsonl(place / "train.jsonl"), read_jsonl(place / "test.jsonl")
    if entry.format is not None:
        return _published(entry, folder, "train"), _published(entry, folder, "test")
    images = folder / entry.images if entry.images else None
    if entry.data is not None:
        return held_out(read_jsonl(folder / entry.data, images=images), share=entry.test_share)
    assert entry.train is not None and entry.test is not None
    return read_jsonl(folder / entry.train, images=images), read_jsonl(folder / entry.test, images=images)


def _published(entry: TaskFile, folder: Path, split: str) -> tuple[Sample, ...]:
    """The rows of a published format as samples."""
    assert entry.format is not None and entry.root is not None
    layout = format_of(entry.format)
    pictures = folder / (entry.images or entry.root)
    samples: list[Sample] = []
    row: Row
    for row in sound(layout.rows(folder / entry.root, split=split, **entry.options)):
        if len(row.images) != 1:
            raise DataError(f"{row.origin}: {len(row.images)} pictures; one is needed")
        instruction = (entry.prompt or layout.PROMPT).format_map(row.fields)
        samples.append(
            Sample(row.id, confined(row.images[0], pictures, row.origin), instruction, row.answers, row.origin)
        )
    return tuple(samples)


def held_out(samples: Iterable[Sample], *, share: float) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Keep `share` of the pictures for testing, chosen by the hash of their bytes: the same on every machine.

    All questions about one picture stay on one side.
    """
    samples = tuple(samples)
    pictures = sorted({s.image_digest for s in samples})
    kept = set(pictures[: max(1, round(share * len(pictures)))])
    train = tuple(s for s in samples if s.image_digest not in kept)
    if not train:
        raise DataError(f"{samples[0].origin}: too few pictures to keep some for testing; give 'train' and 'test'")
    return train, tuple(s for s in samples if s.image_digest in kept)


def _refuse_overlap(name: str, train: tuple[Sample, ...], test: tuple[Sample, ...]) -> None:
    seen = {s.fingerprint: s for s in train}
    for sample in test:
        if twin := seen.get(sample.fingerprint):
            raise DataError(f"{sample.origin}: task '{name}' has this very sample in training too ({twin.origin})")


def _refuse_twins(content: StreamFile, path: Path) -> None:
    names = [task.name for task in content.known + content.tasks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two tasks are called '{name}'")
