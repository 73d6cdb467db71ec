"""The two sides of a paired comparison: which runs are meant, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evertune.runs.results import Result, Run, folder_of, read_run
from evertune.utils.errors import UserError, kind_of

Side = str | Path | Run | Result
"""One run: its folder, a `Run`, or a `Result` with one method."""
EXAMPLE = "for example evertune.paired('runs/first/sequential', 'runs/first/replay')"
MOST_NAMED = 6


def pairs_of(a: Sequence[Run], b: Sequence[Run]) -> list[tuple[Run, Run]]:
    """The runs of both sides by seed.

    Raises:
        UserError: the seeds are not the same ones.
    """
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    by_seed = [_by_seed(side) for side in (a, b)]
    if by_seed[0].keys() != by_seed[1].keys():
        shown = [", ".join(map(str, sorted(side))) for side in by_seed]
        raise UserError(f"the runs don't pair up: seeds {shown[0]} on one side, {shown[1]} on the other")
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in sorted(by_seed[0])]


def _by_seed(side: Sequence[Run]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in side:
        if other := found.get(run.matrix.seed):
            raise UserError(f"{other.folder} and {run.folder} have one seed, {run.matrix.seed}: give one run per seed")
        found[run.matrix.seed] = run
    return found


def runs_of(side: Any) -> list[Run]:
    """The runs that are meant by one side, all of one method.

    Raises:
        UserError: it is something else, or holds several methods.
    """
    if isinstance(side, list | tuple):
        runs = [run for part in side for run in runs_of(part)]
        if not runs:
            raise UserError(f"an empty list has nothing to compare: expected run folders, {EXAMPLE}")
    elif isinstance(side, Run):
        return [side]
    elif isinstance(side, Result):
        runs = list(side.runs.values())
    elif isinstance(side, str | Path):
        runs = _runs_in(folder_of(side))
    else:
        raise UserError(f"{kind_of(side)} is no run: expected a run folder, or result.runs[...], {EXAMPLE}")
    methods = list(dict.fromkeys(run.method for run in runs))
    if len(methods) > 1:
        named = ", ".join(methods[:MOST_NAMED])
        if isinstance(side, str | Path):
            raise UserError(f"{side} holds runs of several methods ({named}): give the folder of one of them")
        raise UserError(f"one side has several methods ({named}): give the run of one, result.runs[{methods[0]!r}]")
    return runs


def _runs_in(folder: Path) -> list[Run]:
    if (folder / "matrix.json").is_file():
        return [read_run(folder)]
    found = sorted(path.parent for path in folder.rglob("matrix.json"))
    if not found:
        raise UserError(f"{folder} holds no run (no matrix.json in it)")
    return [read_run(place) for place in found]


def names_of(a: Run, b: Run) -> tuple[str, str]:
    """What the sides are called: by method, else by what tells their folders apart."""
    if a.method != b.method:
        return a.method, b.method
    parts = [list(run.folder.resolve().parts) for run in (a, b)]
    while min(map(len, parts)) > 1 and parts[0][-1] == parts[1][-1]:
        parts = [names[:-1] for names in parts]
    names = [names[-1] for names in parts]
    return (names[0], names[1]) if names[0] != names[1] else ("a", "b")
