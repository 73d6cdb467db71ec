"""`stages.keep`: old stages give back their disk space; what they were and how they were trained stays.

A thinned stage keeps `done.json` and `training.jsonl`, so that the chain of stages can still be verified, and loses its
weights and the methods' state. It can't be loaded, exported or gone back to. The last stage stays, and so does
every stage whose tensors a later one refers to (the experts of an expansion).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.training.stages import DONE, FILES, THINNED, number_of, referenced_by, stage_folders
from evertune.utils.files import write_json


def is_kept(keep: str, number: int, *, last: int) -> bool:
    """Whether stage `number` of `last` keeps its weights; `keep` is `all`, `last` or `every N`."""
    if keep == "all" or number == last:
        return True
    return keep != "last" and number % int(keep.removeprefix("every ")) == 0


def thin(run: Path, keep: str) -> list[int]:
    """Delete the weights of finished stages that `keep` does not name; returns their numbers.

    The note is written first: after an interruption the next call deletes what is left.
    """
    if keep == "all":
        return []
    done = [folder for folder in stage_folders(run) if (folder / DONE).exists()]
    last = len(done)
    dropped = [folder for folder in done if not is_kept(keep, number_of(folder), last=last)]
    chosen = [folder for folder in dropped if any((folder / file).exists() for file in FILES)]
    needed = set(_referenced(done)) if chosen else set()
    for folder in (each for each in chosen if each.name not in needed):
        write_json(folder / THINNED, {"keep": keep})
        for file in FILES:
            (folder / file).unlink(missing_ok=True)
    return [number_of(folder) for folder in chosen if folder.name not in needed]


def _referenced(folders: list[Path]) -> Iterator[str]:
    """The names of stages whose tensors another one refers to."""
    for folder in folders:
        if not (folder / THINNED).exists():
            yield from referenced_by(folder)
