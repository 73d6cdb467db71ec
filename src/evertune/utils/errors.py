"""What evertune says when the input is wrong: one line with what, where and what to do.

Every error a user can cause is a `UserError`; the command line prints its text and exits with code 2.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from itertools import islice

MOST_NAMES, LONGEST_NAME = 200, 100
"""Names, and characters of each, that are compared and shown: a file may have a million columns."""


class UserError(ValueError):
    """Something in the input can't be used; the message says what, where and what to do."""


class DataError(UserError):
    """A row, an image or a file of a task can't be used; the message names the file and the line.

    `kind` is what problems are counted by in a report: `missing image`, `broken JSON`, ...
    """

    def __init__(self, message: str, *, kind: str = "unusable row") -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def of_file(self) -> bool:
        """Whether the file as a whole can't be used."""
        return self.kind in ("missing file", "huge file")


class RunFolderError(UserError):
    """A run folder is of another configuration, incomplete or damaged; the message names the file."""


def shortage(problem: OSError) -> str | None:
    """What the system has run out of, and what to do; None for errors of other kinds."""
    if problem.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files ({problem.filename}): raise the limit, for example with ulimit -n 4096"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {problem.filename or 'a file'}: {problem.strerror}; free space"
    return None


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5, prefix: str = "") -> str:
    """Return `did you mean 'x'?` or a list of what is known, ready to end a sentence; of very many the first.

    `prefix` stands before each name that is shown, and is not compared: `train.`.
    """
    names = sorted({name[:LONGEST_NAME] for name in islice(known, MOST_NAMES)})
    close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if close:
        return f"did you mean '{prefix}{close[0]}'?"
    return "known: " + ", ".join(prefix + name for name in names) if names else "nothing is known here"


def kind_of(value: object) -> str:
    """What kind of thing a value is, for messages: `an int`, `a str ('shapes')`, `a list of 3 str`, `the class C`."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name, more = type(value).__name__, ""
    if isinstance(value, str):
        more = f" ({value[:60]!r})"
    elif isinstance(value, list | tuple):
        if not value:
            return f"an empty {name}"
        more = f" of {len(value)} {' and '.join(sorted({type(each).__name__ for each in value}))}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}{more}"


def unknown(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> UserError:
    """The error for an unknown name, with the nearest valid one, and a sentence after it."""
    text = f"unknown {kind} '{name}'; {nearest(name, known)}"
    return UserError(f"{text}{'' if text.endswith('?') else '.'} {hint}" if hint else text)
