"""A stream: tasks in the order in which they are learned, written as one YAML file.

A built-in stream is a file in `data/streams/`; your own is a path. Each task names a builder, or files and the
format that reads them (JSONL unless it says so), or a published data set's folder:

    name: my-stream
    tasks:
      - {name: photos, train: photos/train.jsonl, test: photos/test.jsonl}
      - {name: signs, data: signs.jsonl, images: images, test_share: 0.2}
      - {name: charts, format: llava, train: train.json, test: test.json, images: images}
      - {name: okvqa, format: okvqa, root: OKVQA, images: COCO2014, score: vqa}

`known:` lists, in the same form, tasks that the model has already learned: they are not trained on, but evaluated after
every stage, and methods may protect them. `probes:` lists tasks that are only evaluated, before the first stage and
after each (`data/probes.py`): no method receives them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evertune.assets import Progress
from evertune.data.images import short
from evertune.data.issues import Issues
from evertune.data.probes import ProbeFile, read_probe, without_questions_of_tasks
from evertune.data.samples import part_of
from evertune.data.single_file import guessed, is_file_of_rows, is_yaml, task_name
from evertune.data.sources import ReadOptions, read_task
from evertune.data.task import Task
from evertune.data.task_file import TaskFile, about_task
from evertune.utils.arguments import named_arguments, path_of
from evertune.utils.config_io import read_yaml, validated
from evertune.utils.errors import UserError, kind_of, unknown
from evertune.utils.files import digest
from evertune.utils.plugins import Registry
from evertune.utils.safe_names import is_name, refuse_task_names


@dataclass(frozen=True, slots=True)
class Stream:
    """Tasks in learning order, and those that the model knows before the first of them.

    Attributes:
        skipped: unusable rows and images that were left out.
        probes: tasks that are never trained and that no method receives; only their test samples are evaluated.
    """

    name: str
    tasks: tuple[Task, ...]
    about: dict[str, str] = field(default_factory=dict)
    known: tuple[Task, ...] = ()
    skipped: Issues = field(default_factory=Issues, compare=False)
    probes: tuple[Task, ...] = ()

    def __post_init__(self) -> None:
        """Lists are taken, too."""
        for name in ("tasks", "known", "probes"):
            tasks = getattr(self, name)
            if not isinstance(tasks, list | tuple) or not all(isinstance(task, Task) for task in tasks):
                raise UserError(f"the {name} of a Stream are {kind_of(tasks)}; taken is a list of Tasks")
            object.__setattr__(self, name, tuple(tasks))

    @property
    def columns(self) -> tuple[Task, ...]:
        """The tasks that are evaluated after every stage, which are the columns of R: known tasks first."""
        return self.known + self.tasks

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """Every task that is evaluated: the columns of R, then the probes."""
        return self.columns + self.probes

    def each(self, change: Callable[[Task], Task]) -> Stream:
        """The same stream with `change` of every task: known ones first, probes last."""
        known, tasks, probes = (tuple(map(change, part)) for part in (self.known, self.tasks, self.probes))
        return replace(self, known=known, tasks=tasks, probes=probes)

    def limited(self, limit: int | None) -> Stream:
        """The same stream with at most `limit` training and test samples per task."""
        return self.each(lambda task: task.limited(limit))

    def evaluated(self, limit: int | None) -> Stream:
        """The same stream with at most `limit` test samples per task, and all training samples.

        They are drawn by the task's name, so that every method, seed and machine evaluates the same ones.
        """
        return self if limit is None else self.each(lambda task: _evaluated(task, limit))

    @property
    def fingerprint(self) -> str:
        """Hash of all samples of all tasks, in order, known tasks and probes included."""
        found = digest(*(task.fingerprint for task in self.tasks))
        for kind, tasks in (("known", self.known), ("probes", self.probes)):
            found = digest(kind, *(task.fingerprint for task in tasks), found) if tasks else found
        return found


def _evaluated(task: Task, limit: int) -> Task:
    if len(task.test) <= limit:
        return task
    chosen = sorted(random.Random(f"evaluation of {task.name}").sample(range(len(task.test)), limit))
    return replace(task, test=part_of(task.test, chosen))


class StreamFile(BaseModel):
    """The schema of a stream's YAML."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="name of the stream")
    title: str = Field(default="", description="one line, printed by `evertune ls streams`")
    reverse: str | None = Field(default=None, description="another stream, whose tasks are learned in reverse order")
    known: list[TaskFile] = Field(
        default_factory=list,
        description="tasks that the model knows before the stream: evaluated in every row, and no stage learns them. "
        "joint trains on all of their samples, replay and der on those that they keep",
    )
    tasks: list[TaskFile] = Field(default_factory=list, description="the tasks, in learning order")
    probes: list[ProbeFile] = Field(
        default_factory=list, description="tasks that are evaluated before and after each stage, and never trained"
    )

    @property
    def all_tasks(self) -> list[TaskFile]:
        """Every task, as `Stream.all_tasks` has them."""
        return [*self.known, *self.tasks, *self.probes]

    @field_validator("name")
    @classmethod
    def _a_folders_name(cls, name: str) -> str:
        if not is_name(name):
            raise ValueError(f"the stream's name {short(name)} can't be that of a folder")
        return name


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("evertune.data") / "streams"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def _refuse_unusable(_name: str, path: Any) -> None:
    if not (isinstance(path, Path) and path.is_file()):
        raise UserError(f"it is {path!r:.80}, and a stream is the pathlib.Path of a YAML file")


STREAMS: Registry[Path] = Registry("streams", _shipped(), check=_refuse_unusable)
"""The YAML of each stream that has a name."""


def stream_names() -> list[str]:
    """Names of the streams that come with evertune, and of plug-ins."""
    return list(STREAMS)


def stream_file(name: str) -> tuple[StreamFile, Path]:
    """Read a stream's YAML by built-in name or path, without building or reading its tasks."""
    if name in STREAMS:
        path = STREAMS[name]
    elif is_file_of_rows(name):
        return _of_one_file(Path(name))
    elif is_yaml(name):
        path = Path(name)
        if not path.exists():
            raise UserError(f"the stream file {name} does not exist")
    else:
        raise unknown("stream", name, STREAMS)
    content = validated(StreamFile, read_yaml(path), where=str(path))
    if content.reverse is not None:
        if content.tasks or content.known or content.probes:
            raise UserError(f"{path}: with 'reverse' the tasks are those of '{content.reverse}'; remove the others")
        straight, _ = stream_file(content.reverse)
        same = {"known": straight.known, "probes": straight.probes}
        content = content.model_copy(update={"tasks": straight.tasks[::-1], **same})
    if not content.tasks:
        raise UserError(f"{path}: the stream has no tasks")
    refuse_task_names([task.name for task in content.known + content.tasks], where=path)
    return content, path


def _of_one_file(path: Path) -> tuple[StreamFile, Path]:
    """A file of rows is a stream of one task."""
    if not path.exists():
        raise UserError(f"the file {path} does not exist")
    name, format = task_name(path), guessed(path)
    return StreamFile(name=name, tasks=[TaskFile(name=name, format=format, data=path.name)]), path


@named_arguments
def load_stream(
    name: str | Path,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
    data: str | None = None,
    skip_invalid: bool = False,
    decode: bool = False,
    takes: range | None = None,
    model: str = "",
    probes: Sequence[str] = (),
) -> Stream:
    """Read a stream, building or fetching what its tasks need.

    Args:
        name: a built-in stream or the path of a YAML file.
        limit: at most this many training and test samples per task.
        progress: called while something is downloaded or images are looked at.
        data: where the folders of published data sets are; default: beside the YAML.
        skip_invalid: leave out unusable rows and images (`Stream.skipped`) instead of stopping.
        decode: decode every image once, so that a broken one is found now and not during training.
        takes: how many images a sample may have; default: any number.
        model: the model's name, for messages.
        probes: other streams, named like this one: the probes of each, or all its tasks if it has none.

    Raises:
        UserError: unknown name, or a file with a mistake; DataError names the rows.
    """
    name = str(path_of(name, what="the stream", example="parcel"))
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, not {limit}")
    content, path = stream_file(name)
    named, problems = [named_probes(probe) for probe in probes], Issues()
    base = published_base(content, path, data, also=[task for entries, _ in named for task in entries])
    reading = ReadOptions(path.parent, base, limit, decode, takes, model, problems, progress)
    known, tasks = (
        tuple(read_task(entry, reading, about=about_task(entry)) for entry in entries)
        for entries in (content.known, content.tasks)
    )
    own = tuple(read_probe(entry, reading, about=about_task(entry)) for entry in content.probes)
    made = Stream(content.name, tasks, {"title": content.title}, known, problems, own)
    made = with_probes(made, read_probes(named, reading, data=data), problems)
    if not skip_invalid:
        problems.refuse(stream=content.name)
    return made


Named = tuple[Sequence[TaskFile], Path]
"""Tasks that are evaluated as probes, and the file that they are in."""


def named_probes(name: str) -> Named:
    """The probes of a stream, or all its tasks if it has none; the stream is named as `stream_file` takes it."""
    content, path = stream_file(name)
    return content.probes or content.tasks, path


def read_probes(named: Sequence[Named], reading: ReadOptions, *, data: str | None) -> list[Task]:
    """The probes of other files than the stream's, read as its tasks are; `data` as in `load_stream`."""
    found = []
    for entries, path in named:
        content = StreamFile(name="probes", tasks=list(entries))
        base = Path(data) if data is not None else published_base(content, path, None)
        elsewhere = replace(reading, folder=path.parent, data=base)
        found += [read_probe(entry, elsewhere, about=about_task(entry)) for entry in entries]
    return found


def with_probes(stream: Stream, probes: Sequence[Task], problems: Issues) -> Stream:
    """The stream with more probes, none of which may be one of its tasks; questions that a task has are `problems`.

    Raises:
        UserError: a probe has the name of a task. DataError: it asks what a task has.
    """
    names = [task.name for task in stream.columns]
    for probe in (*stream.probes, *probes):
        if probe.name in names:
            raise UserError(
                f"'{probe.name}' is a task of '{stream.name}' and a probe: a probe is what no task trains; remove one "
                "of them, or rename it if they differ"
            )
    made = replace(stream, probes=(*stream.probes, *(replace(probe, train=()) for probe in probes)))
    refuse_task_names([task.name for task in made.all_tasks], where=f"the stream '{stream.name}' with its probes")
    return without_questions_of_tasks(made, problems)


def published_base(content: StreamFile, path: Path, data: str | None, *, also: Sequence[TaskFile] = ()) -> Path:
    """Where the folders of published data sets are: beside the YAML, or where the user says.

    `also` are tasks of other files that may be in `data`.
    """
    published = list(dict.fromkeys(task.root for task in content.all_tasks if task.root is not None))
    if data is None:
        if published and path in _shipped().values():
            raise UserError(
                f"stream '{content.name}' reads published files that evertune may not ship: give the folder that holds "
                f"{', '.join(published)} with --data FOLDER, in Python data=FOLDER. `evertune show {content.name}` "
                "says which files these are and where they are from"
            )
        return path.parent
    if not published and all(task.root is None for task in also):
        raise UserError(f"data (--data) is for published data sets; no task of '{content.name}' has a 'root'")
    if not Path(data).is_dir():
        raise UserError(f"data={data}: there is no such folder")
    return Path(data)
