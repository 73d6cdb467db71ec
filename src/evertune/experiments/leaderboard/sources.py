"""The result files of a leaderboard: found in folders, checked as a whole, each run with its origin.

A file may be of any contributor, so nothing in it is used before `Matrix.from_dict` has checked it, and scores that
contradict the metrics beside them are refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.experiments.grid.results import read_results
from evertune.metrics.metrics import METRICS, metrics_of
from evertune.reporting.labels import METRIC_TITLES, plain
from evertune.reporting.matrix import Matrix
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import digest_of_file, read_json, read_object

TOLERANCE = 1e-6
"""Points by which a stored metric may differ from the one computed again: another order of the sum."""


EXPECTED = "expected a results.json of evertune grid or study, or a folder of them"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run of a result file.

    Attributes:
        file: its result file, as it was found.
        evertune: the version that wrote the file; None where it is not recorded.
        made_with: dtype, torch, device, threads and fingerprint of the model; None in files without them.
    """

    matrix: Matrix
    file: str
    evertune: str | None = None
    made_with: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """`ewc on pocket-b1, tiny-aligned, seed 0`."""
        return f"{self.matrix.method} on {self.matrix.stream}, {self.matrix.model}, seed {self.matrix.seed}"


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result file that was read: its path as found, how many runs it has, and the hash of its content."""

    path: str
    runs: int
    sha256: str


def read_files(places: Sequence[Path]) -> tuple[list[Run], list[ResultFile]]:
    """All runs of the result files among `places` and in folders below them.

    Raises:
        UserError: a place is missing or has no result file. RunFolderError: a file is damaged, of another version, or
            its metrics are not those of its scores.
    """
    runs: list[Run] = []
    files: list[ResultFile] = []
    for path in dict.fromkeys(found for place in places for found in found_files(place)):
        version = version_in(path)
        own = [run_of(row, path, number, version) for number, row in enumerate(read_results(path), start=1)]
        for number, run in enumerate(own, start=1):
            for problem in contradictions(run.matrix)[:1]:
                raise RunFolderError(
                    f"{path}, run {number} ({run.title}): {problem}; 'evertune leaderboard --check {path}' lists all"
                )
        runs += own
        files.append(ResultFile(str(path), len(own), digest_of_file(path)))
    return runs, files


def found_files(place: Path) -> list[Path]:
    """A result file itself, or those in a folder and below it; run folders are not searched.

    Raises:
        UserError: there is none.
    """
    if not place.exists():
        raise UserError(f"{place} does not exist; {EXPECTED}")
    if not place.is_dir():
        refuse_other_file(place)
        return [place]
    found = [path for path in _json_files(place) if _is_result(read_json(path))]
    if not found:
        raise UserError(f"{place} has no result file; evertune grid and evertune study write them as results.json")
    return found


def refuse_other_file(path: Path) -> None:
    """Raise unless a file that was named is a result file.

    Raises:
        RunFolderError: it is none.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; {EXPECTED}")
    if not _is_result(read_json(path)):
        raise RunFolderError(f"{path} is no result file; evertune grid and evertune study write them as results.json")


def _json_files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        if "matrix.json" in names:  # a run folder
            folders.clear()
            continue
        folders.sort()
        paths = [Path(here) / name for name in sorted(names) if name.endswith(".json")]
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _is_result(content: Any) -> bool:
    return isinstance(content, Mapping) and {"format", "runs"} <= content.keys()


def version_in(path: Path) -> str | None:
    """The version of evertune that wrote a result file; None where it is not recorded."""
    version = read_object(path).get("evertune")
    return version if isinstance(version, str) else None


def run_of(row: Mapping[str, Any], path: Path, number: int, version: str | None) -> Run:
    """The run in line `number` of a result file that this version of evertune wrote.

    Raises:
        RunFolderError: a value is missing or can't be one of a run.
    """
    try:
        matrix = Matrix.from_dict(row)
    except (UserError, TypeError) as problem:
        raise RunFolderError(f"{path}, run {number}: {problem}") from problem
    made_with = row.get("made_with")
    return Run(matrix, str(path), version, made_with if isinstance(made_with, Mapping) else None)


def contradictions(matrix: Matrix) -> list[str]:
    """Metrics of a file that its R does not give, each in a sentence; those against a bound are not compared here."""
    if not matrix.finished:
        return []
    computed = metrics_of(matrix.R, known=len(matrix.known))
    found = []
    for name in (metric.name for metric in METRICS if metric.name in matrix.metrics):
        stored, own = matrix.metrics[name], computed[name]
        if not _equal(stored, own):
            shown = f"{METRIC_TITLES[name]} is {plain(stored, digits=2)}, and its R gives {plain(own, digits=2)}"
            found.append(shown)
    return found


def _equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=TOLERANCE)
