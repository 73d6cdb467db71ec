"""Links in a run folder: it has none, so that whatever is written in it stays in it, no matter who made the folder.

Looked at when a run is opened (`refuse_links`), before its lock; `files.opened` refuses a link once more for each file
that is written in place. The run folder itself may be a link: that one is the user's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from evertune.utils.errors import RunFolderError

OWN_LINKS = ("wandb",)
"""Folders in which a tracker makes links (`wandb/latest-run`); those that stay within them are let be."""


def links_below(folder: Path, parts: Iterable[str] | None = None) -> list[Path]:
    """The symbolic links below a folder, or only those at and below `parts` of it; none is followed.

    Raises:
        RunFolderError: a folder can't be read.
    """
    found: list[Path] = []
    to_see = [folder] if parts is None else []
    for path in (folder / part for part in parts or ()):
        if path.is_symlink():
            found.append(path)
        else:
            to_see.append(path)
    while to_see:
        place = to_see.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        found.append(Path(entry.path))
                    elif entry.is_dir(follow_symlinks=False):
                        to_see.append(Path(entry.path))
        except (FileNotFoundError, NotADirectoryError):
            continue  # not there yet, or gone again: another process may work here
        except OSError as problem:
            raise RunFolderError(f"{place} can't be read: {problem.strerror}") from problem
    return sorted(path for path in found if not _is_a_trackers(path, folder))


def _is_a_trackers(path: Path, folder: Path) -> bool:
    """Whether a link is below a tracker's folder and leads to something there."""
    inside = path.relative_to(folder).parts
    at = next((number for number, part in enumerate(inside[:-1], start=1) if part in OWN_LINKS), None)
    if at is None:
        return False
    if inside[at + 1 : -1] == ("logs",):  # of wandb/RUN/logs, into its cache; no later run writes there
        return True
    own = folder.joinpath(*inside[:at])
    try:
        return path.resolve().is_relative_to(own.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def described(path: Path) -> str:
    """The message about a link, and what to do about it."""
    target = str(path.readlink()) if path.is_symlink() else "?"
    return (
        f"is a symbolic link (to {target!r:.120}): nothing is written through links. "
        "Put the file or folder itself in its place, or remove the link"
    )


def refuse_links(folder: Path, parts: Iterable[str] | None = None) -> None:
    """Stop at a run folder with links in it, before anything is written there; `parts` as in `links_below`.

    Raises:
        RunFolderError: there is one; the message names the first.
    """
    if links := links_below(folder, parts):
        more = f" ({len(links)} links in all; evertune doctor {folder} names them)" if len(links) > 1 else ""
        raise RunFolderError(f"{links[0]} {described(links[0])}{more}")
