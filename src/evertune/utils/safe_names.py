"""Names of files from a stream, an archive or a run folder: they lead nowhere else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from evertune.utils.errors import RunFolderError, UserError

LONGEST_NAME, LONGEST_PART, LONGEST_PATH = 200, 255, 1024
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What can be no file's name on Windows, where a run folder may be copied to."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters (C0, C1) and what turns the direction of writing; not tab and line feed."""
FIRST_ROW = ("base", "zero-shot")
"""What tables call row 0 of the matrix, the model before the first task: no task can be called that."""


def is_name(name: Any) -> bool:
    """Whether `name` can be the name of one file or folder: it leads nowhere else, on any system."""
    if not isinstance(name, str) or not is_text(name) or not 0 < len(name.encode()) <= LONGEST_NAME:
        return False
    return not (set(name) & set("/\\\t\n") or CONTROL.search(name) or name.startswith(".") or RESERVED.fullmatch(name))


def refuse_same_files(names: Iterable[str], *, what: str, where: object) -> None:
    """Stop at two names that are the same file on Windows or macOS, where a run folder may be copied to.

    Raises:
        UserError: there are two; the message says that `what` in `where` has them.
    """
    seen: dict[str, str] = {}
    for name in names:
        file = unicodedata.normalize("NFC", name).casefold().rstrip(". ")
        if seen.get(file) == name:
            raise UserError(f"{where}: two {what} are called '{name}'")
        if file in seen:
            both = f"{seen[file]!r} and {name!r}"
            raise UserError(f"{where}: the {what} {both} would be the same file on some systems: rename one")
        seen[file] = name


def refuse_task_names(names: Sequence[str], *, where: object) -> None:
    """Stop at tasks whose names would be taken for one another, or for the first row of the matrix.

    Raises:
        UserError: there are such; the message starts with `where`.
    """
    for name in names:
        if name.casefold() in FIRST_ROW:
            raise UserError(f"{where}: the task {name!r} would be taken for row 0 of the matrix (base): rename it")
    refuse_same_files(names, what="tasks", where=where)


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: half of a surrogate pair can't, though JSON may say it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def leads_out(name: str) -> bool:
    """Whether a path is absolute or climbs out with `..`, on any system."""
    if not ("/.." in name or "\\" in name or ":" in name or name.startswith((".", "/"))):
        return False  # nearly all names, and there may be millions
    path = PurePosixPath(name.replace("\\", "/"))
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else part != "."
        if depth < 0:
            return True
    return path.is_absolute() or name[1:3] in (":\\", ":/")


def below(folder: Path, name: Any) -> Path:
    """The file called `name` below `folder`, where a file of the folder says that name.

    Raises:
        RunFolderError: it is no path, or leads out of the folder.
    """
    if not _is_inside(name):
        raise RunFolderError(f"{folder} names the file {name!r:.80}, which is not in it: it was changed or is damaged")
    inside: Path = folder / name
    return inside


def _is_inside(name: Any) -> bool:
    if not isinstance(name, str) or not is_text(name) or "\0" in name or not 0 < len(name.encode()) <= LONGEST_PATH:
        return False
    return not leads_out(name) and all(len(part.encode()) <= LONGEST_PART for part in name.split("/"))
