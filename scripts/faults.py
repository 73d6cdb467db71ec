"""Let each write of a small run fail, one after another and in every way, go on without the fault, and compare.

python scripts/faults.py --out runs/faults       every call; `--every 20` every twentieth; the same again goes on

A call that writes is one of `open` for writing, `write`, `fsync`, `replace`, `rename`, `mkdir`, `ftruncate` of `os`. It
fails once as a full disk, a bad sector, a short write or a rename that is refused does, or everything fails from there
to the end of the process, as on a disk that became read-only. Then the same command must end with the same bits.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from crash import make_stream, significant

import evertune
from evertune.runs.callback import Callback
from evertune.service.integrity import examine
from evertune.utils.errors import UserError
from evertune.utils.files import append_jsonl, make_folder
from evertune.utils.temporary_files import leftovers

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "train.save_every=3", "dtype=float32", "ewc.samples=4"]
METHOD = "replay+ewc"
CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "ftruncate")
WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class ImageFault:
    """What fails: the `at`-th call, with `error`; a write may take half of its bytes first; `lasting`: all after it."""

    at: int
    error: int
    short: bool = False
    lasting: bool = False

    @property
    def kind(self) -> str:
        """In words."""
        name = errno.errorcode[self.error]
        return f"{name} from there on" if self.lasting else f"short write, then {name}" if self.short else name


@contextmanager
def failing(fault: ImageFault | None) -> Iterator[list[str]]:
    """Let calls of `os` fail as `fault` says; gives the names of the calls that were made."""
    real = {name: getattr(os, name) for name in CALLS}
    made: list[str] = []

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name == "open" and not given[1] & WRITES:
                return real[name](*given, **named)
            made.append(name)
            if fault is None or not (len(made) == fault.at or (fault.lasting and len(made) > fault.at)):
                return real[name](*given, **named)
            if fault.short and name == "write":
                real[name](given[0], given[1][: len(given[1]) // 2])
            raise OSError(fault.error, os.strerror(fault.error))

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield made
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def run(stream: Path, place: Path) -> None:
    """The run that is disturbed, with a cache of its own."""
    before = os.environ.get("EVERTUNE_CACHE")
    os.environ["EVERTUNE_CACHE"] = str(place / "cache")
    try:
        evertune.run(
            str(stream), model="random", methods=METHOD, out=place / "run", settings=SETTINGS, callbacks=[Callback()]
        )
    finally:
        os.environ.pop("EVERTUNE_CACHE")
        if before:
            os.environ["EVERTUNE_CACHE"] = before


def undisturbed(stream: Path, place: Path) -> tuple[list[str], Any]:
    """The calls that a run makes, and what it ends with; its cache has the model, which is no part of a run."""
    if not (place / "model" / "cache").exists():
        run(stream, place / "model")
    take_model(place, place / "whole")
    shutil.rmtree(place / "whole" / "run", ignore_errors=True)
    with failing(None) as calls:
        run(stream, place / "whole")
    return calls, significant(place / "whole" / "run")


def take_model(place: Path, to: Path) -> None:
    """Give a new cache the model, and nothing else."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(place / "model" / "cache" / "models", to / "cache" / "models")


def faults_of(number: int, name: str) -> list[ImageFault]:
    """All ways in which the call `number`, of this name, fails."""
    if name == "write":
        return [
            ImageFault(number, errno.ENOSPC),
            ImageFault(number, errno.EIO),
            ImageFault(number, errno.ENOSPC, short=True),
            ImageFault(number, errno.EROFS, lasting=True),
        ]
    if name == "fsync":
        return [ImageFault(number, errno.EIO)]
    return [ImageFault(number, errno.EROFS), ImageFault(number, errno.ENOSPC)]


def survived(stream: Path, place: Path, fault: ImageFault, whole: Any) -> dict[str, Any]:
    """Let it fail, look at what is left, go on; what came of it."""
    with failing(fault):
        try:
            run(stream, place)
            outcome = "went on"
        except UserError as problem:
            outcome = "stopped" if "\n" not in str(problem) else "said more than a line"
        except Exception as problem:
            outcome = f"{type(problem).__name__}: {problem}"
    half = [str(path) for path in leftovers(place)] if not fault.lasting else []
    with suppress(UserError):
        run(stream, place)
    same = (place / "run" / "matrix.json").exists() and significant(place / "run") == whole
    wrong = [finding.as_dict() for finding in examine(place / "run")] if same else []
    good = same and outcome in ("stopped", "went on") and not half and not wrong
    return {"good": good, "outcome": outcome, "same": same, "left": half, "wrong": wrong}


def campaign(out: Path, *, every: int = 1, first: int = 1) -> Iterator[dict[str, Any]]:
    """A row per fault: every `every`-th call from the `first` on."""
    stream = out / "stream" / "toy.yaml"
    stream = stream if stream.exists() else make_stream(make_folder(out / "stream"))
    calls, whole = undisturbed(stream, out)
    for number in range(first, len(calls) + 1, every):
        name = calls[number - 1]
        wanted = faults_of(number, name)
        for fault in wanted if every == 1 else [wanted[number // every % len(wanted)]]:
            place = out / f"{number}-{fault.kind.replace(' ', '-').replace(',', '')}"
            take_model(out, place)
            row = {"call": name, "kind": fault.kind, **asdict(fault), **survived(stream, place, fault, whole)}
            if row["good"]:
                shutil.rmtree(place)
            yield row


def show(rows: list[dict[str, Any]]) -> None:
    """Survived / injected, by call and by kind."""
    for title, key in (("call", "call"), ("fault", "kind")):
        print(f"\n{title:<36} survived / injected")
        tried, good = Counter(row[key] for row in rows), Counter(row[key] for row in rows if row["good"])
        for name in sorted(tried):
            print(f"{name:<36} {good[name]} / {tried[name]}")
    stopped = sum(row["outcome"] == "stopped" for row in rows)
    print(f"{'together':<36} {sum(row['good'] for row in rows)} / {len(rows)}, of which {stopped} stopped the run")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    asked = parser.parse_args()
    out = asked.out.resolve()
    record = make_folder(out) / f"faults-{asked.every}.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    first = max((row["at"] for row in rows), default=0)
    rows = [row for row in rows if row["at"] < first]  # the last call may have been tried in part
    for row in campaign(out, every=asked.every, first=max(1, first)):
        rows.append(row)
        append_jsonl(record, row)
        if not row["good"]:
            print(f"NOT SURVIVED: {row}", flush=True)
    show(rows)
    sys.exit(0 if all(row["good"] for row in rows) else 1)


if __name__ == "__main__":
    main()
