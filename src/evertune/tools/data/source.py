"""What a command about data was given: a stream, or a single file or folder and the format that reads it.

A file's ending, and for JSON its first row, say its format where the user does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evertune.assets import Progress
from evertune.data.formats import format_of
from evertune.data.issues import Issues
from evertune.data.single_file import guessed, is_file_of_rows, is_yaml, task_name
from evertune.data.sources import ReadOptions
from evertune.data.stream import StreamFile, published_base, stream_file, stream_names
from evertune.data.task_file import TaskFile
from evertune.utils.errors import UserError, nearest
from evertune.utils.parsing import YamlError, yaml_value


@dataclass(frozen=True, slots=True)
class Hints:
    """How a single file is read, as far as the user says so.

    Attributes:
        format: default: by the file's ending.
        images: the folder that names of images count from; default: the file's.
        prompt: default: the format's.
        options: of the format.
    """

    format: str | None = None
    images: str | None = None
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.format or self.images or self.prompt or self.options)


def options_of(entries: Sequence[str]) -> dict[str, Any]:
    """`key=value` entries as the options of a format; values are YAML.

    Raises:
        UserError: an entry is none.
    """
    options = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--option {entry}: write it as key=value, for example answer=label")
        try:
            options[key.strip()] = yaml_value(text)
        except YamlError:
            options[key.strip()] = text
    return options


def file_or_stream(name: str, hints: Hints) -> tuple[StreamFile, Path]:
    """The tasks that `name` stands for, and the YAML, or the single file, that paths count from.

    Raises:
        UserError: there is no such stream or file, or the hints don't fit it.
    """
    path = Path(name)
    if name in stream_names() or is_yaml(name):
        if hints:
            raise UserError(
                f"'{name}' is a stream, which says itself how its files are read; --format and the like "
                "are for a single file"
            )
        return stream_file(name)
    if not path.exists():
        if is_file_of_rows(name) or "/" in name:
            raise UserError(f"{name} does not exist")
        raise UserError(f"there is no stream and no file '{name}'; {nearest(name, stream_names())}")
    entry = one_file(path, hints)
    return StreamFile(name=entry.name, tasks=[entry]), path


def one_file(path: Path, hints: Hints) -> TaskFile:
    """A single file as a task; a folder, which must say its format, as one with a `root`.

    Raises:
        UserError: the format is unknown, or must be given.
    """
    format = hints.format or guessed(path)
    format_of(format or "jsonl")
    images = str(Path(hints.images).absolute()) if hints.images else None
    place: dict[str, Any] = {"root": "."} if path.is_dir() else {"data": path.name}
    return TaskFile(
        name=task_name(path), format=format, images=images, prompt=hints.prompt, options=dict(hints.options), **place
    )


def reading(
    content: StreamFile,
    path: Path,
    *,
    data: str | None = None,
    takes: range | None = None,
    model: str = "",
    progress: Progress | None = None,
) -> ReadOptions:
    """How the tasks of `content` are read; the problems of all of them come together in it."""
    folder = path if path.is_dir() else path.parent
    base = folder if path.is_dir() else published_base(content, path, data)
    return ReadOptions(folder, base, None, False, takes, model, Issues(), progress)
