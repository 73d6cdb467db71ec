"""Kill small runs at random moments until they are done, and compare them with runs that nobody disturbed, bit by bit.

python scripts/crash.py --kills 200 --out runs/crash     the same command again resumes it

Half of the kills come from outside at a random time (SIGKILL, or SIGTERM with its grace), half in the middle of a
random write. This process does one run to have all libraries loaded and forks, so a restart costs a second; a fork is
a process like any other to the signal, the lock and the disk.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import yaml

import evertune
from evertune.reporting.matrix import Matrix
from evertune.runs.callback import Callback
from evertune.training.method_contract import toy_tasks
from evertune.utils import files

FAMILIES = {
    "sequential": [],
    "direct": [],
    "joint": [],
    "replay": ["replay.ratio=0.5"],
    "ewc": ["ewc.samples=4"],
    "online-ewc": ["online-ewc.samples=4"],
    "mas": ["mas.samples=4"],
    "lwf": [],
    "tir+ewc": ["ewc.samples=4"],
    "replay+ewc": ["replay.ratio=0.5", "ewc.samples=4"],
    "eproj": [],
    "lora": [],
    "olora": [],
    "moelora": [],
    "lora-router": [],
}
SETTINGS = ["train.epochs=3", "train.batch_size=2", "train.learning_rate=0.01", "train.save_every=2", "dtype=float32"]
KILLS_OF_ONE_RUN = 7
GRACE = 30.0
PLACES = {
    "ledger": "ledger",
    "stages/": "stage",
    "mid_task": "save in mid-task",
    "report": "report",
    "answers/": "answers",
}
MOMENTS = ["starting", "training", "evaluation", "report", "done"]
MOMENTS += [f"writing: {name}" for name in (*PLACES.values(), "cache", "other")]


class Board:
    """What a child is doing, in memory that its parent can read after its death."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    @property
    def moment(self) -> str:
        return MOMENTS[self._memory[0]]

    @moment.setter
    def moment(self, value: str) -> None:
        self._memory[0] = MOMENTS.index(value)


class Marking(Callback):
    """Writes on the board what a run is doing."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def on_task_begin(self, number: int, task: Any) -> None:
        self._board.moment = "training"

    def on_evaluate_begin(self, stage: int, task: Any) -> None:
        self._board.moment = "evaluation"

    def on_run_end(self, matrix: Matrix) -> None:
        self._board.moment = "report"


@dataclass(frozen=True)
class Kill:
    """How a child is killed: by a signal so many seconds after its first step or answer, or in its `write`-th write."""

    signal: int = signal.SIGKILL
    after: float | None = None
    write: int | None = None
    while_starting: bool = False


def mark_writes(board: Board, cache: Path, kill: Kill) -> None:
    """In the child: name each write on the board; die in the middle of the one that was chosen."""
    real: Callable[[int, bytes], None] = files._write_all
    count = 0

    def write_all(handle: int, data: bytes) -> None:
        nonlocal count
        count += 1
        before, path = board.moment, str(Path(f"/proc/self/fd/{handle}").readlink())
        kind = next((name for part, name in PLACES.items() if part in path), "other")
        board.moment = f"writing: {'cache' if path.startswith(str(cache)) else kind}"
        if count == kill.write:
            real(handle, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle, data)
        board.moment = before

    files._write_all = write_all


@dataclass(frozen=True)
class Case:
    """What is run."""

    stream: Path
    family: str
    model: str = "random"


def child(case: Case, out: Path, cache: Path, board: Board, kill: Kill) -> int:
    """The run, in a process of its own; its exit code."""
    os.environ["EVERTUNE_CACHE"] = str(cache)
    torch.set_num_threads(1)
    mark_writes(board, cache, kill)
    settings = [*SETTINGS, *FAMILIES[case.family]]
    marking = [Marking(board)]
    evertune.run(case.stream, model=case.model, methods=case.family, out=out, settings=settings, callbacks=marking)
    board.moment = "done"
    return 0


def warm(case: Case, out: Path) -> None:
    """One run in this process, so that its children have every library loaded."""
    shutil.rmtree(out / "warm", ignore_errors=True)
    honest = files._write_all
    child(case, out / "warm" / "run", out / "warm" / "cache", Board(), Kill())
    files._write_all = honest


def forked(case: Case, place: Path, board: Board, kill: Kill) -> tuple[int, str, float]:
    """Run until the end or the kill: exit code or minus the signal, what it was doing, seconds from its first step."""
    board.moment = "starting"
    process = os.fork()
    if not process:
        code = 1
        with (place.parent / f"{place.name}.log").open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                code = child(case, place / "run", place / "cache", board, kill)
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                import traceback

                os.write(2, traceback.format_exc().encode())
        os._exit(code)
    return waited(process, board, kill)


def waited(process: int, board: Board, kill: Kill) -> tuple[int, str, float]:
    started, moment, sent = time.monotonic(), "", False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), moment or board.moment, time.monotonic() - started
        if board.moment == "starting" and not kill.while_starting:
            started = time.monotonic()
        elapsed = time.monotonic() - started
        if kill.after is not None and not sent and elapsed > kill.after:
            moment, sent = board.moment, True
            os.kill(process, kill.signal)
        if sent and elapsed > kill.after + GRACE:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def significant(folder: Path) -> tuple[Any, dict[str, bytes]]:
    """What must be equal: the matrix without its clocks, all answers, all weights, all losses."""
    matrix = json.loads((folder / "matrix.json").read_text())
    matrix.pop("cost")
    patterns = ("answers/**/*.jsonl", "stages/**/*.safetensors", "stages/**/training.jsonl")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return matrix, {str(path.relative_to(folder)): path.read_bytes() for path in found}


def disturbed(case: Case, place: Path, usual: float, chance: random.Random) -> list[dict[str, Any]]:
    """One run, killed again and again until it is done or has had enough; the kills that struck."""
    board, kills = Board(), []
    for attempt in range(4 * KILLS_OF_ONE_RUN):
        if len(kills) >= KILLS_OF_ONE_RUN:
            break
        if not attempt % 2:
            kill = Kill(write=chance.randint(1, 12))
        else:
            number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            early = chance.random() < 0.25
            kill = Kill(signal=number, after=chance.uniform(0, usual), while_starting=early)
        code, moment, _ = forked(case, place, board, kill)
        if code == 0:
            return kills
        if code not in (-signal.SIGKILL, -signal.SIGTERM, 143):
            raise RuntimeError(f"{case.family} ended by itself with {code}: see {place}.log")
        name = "in a write" if kill.write else signal.Signals(kill.signal).name
        kills.append({"moment": moment, "kind": name, "code": code})
    code, _, _ = forked(case, place, board, Kill())
    if code:
        raise RuntimeError(f"{case.family} did not end after its kills ({code}): see {place}.log")
    return kills


def make_stream(folder: Path, *, tasks: int = 2) -> Path:
    """Toy tasks on disk."""
    entries = []
    for task in toy_tasks(folder / "images", count=tasks):
        for side, samples in (("train", task.train), ("test", task.test)):
            rows = [{"image": s.images[0].name, "instruction": s.instruction, "answer": s.answers[0]} for s in samples]
            (folder / f"{task.name}-{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sides = {side: f"{task.name}-{side}.jsonl" for side in ("train", "test")}
        entries.append({"name": task.name, "images": "images", **sides})
    (folder / "toy.yaml").write_text(yaml.safe_dump({"name": "toy", "tasks": entries}))
    return folder / "toy.yaml"


def campaign(
    out: Path, *, kills: int, model: str, seed: int = 0, families: list[str] | None = None
) -> list[dict[str, Any]]:
    """Disturb runs of every family in turn until so many kills have struck; one row per run."""
    out = out.resolve()
    record = out / "crash.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    stream = out / "stream" / "toy.yaml"
    stream = stream if stream.exists() else make_stream(files.make_folder(out / "stream"))
    names = families or list(FAMILIES)
    warm(Case(stream, "sequential", model), out)
    while sum(len(row["kills"]) for row in rows) < kills:
        family = names[len(rows) % len(names)]
        case = Case(stream, family, model)
        whole, seconds = undisturbed(case, out)
        place = out / f"{len(rows)}-{family}"
        shutil.rmtree(place, ignore_errors=True)
        if (whole.parent / "cache" / "models").exists():  # making the model anew is no part of a run
            shutil.copytree(whole.parent / "cache" / "models", place / "cache" / "models")
        struck = disturbed(case, place, seconds, random.Random(f"{seed} {len(rows)}"))
        same = significant(place / "run") == significant(whole)
        rows.append({"family": family, "kills": struck, "same": same})
        files.append_jsonl(record, rows[-1])
        print(f"{family}: {len(struck)} kills, {'bit-identical' if same else 'DIFFERENT'}", flush=True)
        if same:
            shutil.rmtree(place)
    return rows


def undisturbed(case: Case, out: Path) -> tuple[Path, float]:
    """The run to compare with, and how long such a run takes."""
    place = out / f"whole-{case.family}"
    if not (place / "seconds").exists():
        shutil.rmtree(place, ignore_errors=True)
        files.make_folder(place)
        made = next(iter(out.glob("whole-*/seconds")), None)
        if made and (made.parent / "cache" / "models").exists():
            shutil.copytree(made.parent / "cache" / "models", place / "cache" / "models")
        code, _, seconds = forked(case, place, Board(), Kill())
        if code:
            raise RuntimeError(f"{case.family} ended with {code}: see {place}.log")
        (place / "seconds").write_text(str(seconds))
    return place / "run", float((place / "seconds").read_text())


def show(rows: list[dict[str, Any]]) -> None:
    """Survived / tried, by family, by moment and by kind of kill."""
    for title, kinds in (("family", None), ("moment", "moment"), ("kill", "kind")):
        tried: Counter[str] = Counter()
        survived: Counter[str] = Counter()
        for row in rows:
            for kill in row["kills"]:
                name = row["family"] if kinds is None else kill[kinds]
                tried[name] += 1
                survived[name] += row["same"]
        print(f"\n{title:<26} survived / tried")
        for name in sorted(tried):
            print(f"{name:<26} {survived[name]} / {tried[name]}")
        print(f"{'together':<26} {sum(survived.values())} / {sum(tried.values())}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/crash"))
    parser.add_argument("--model", default="tiny-aligned")
    parser.add_argument("--families", help="separated by commas; default: all")
    asked = parser.parse_args()
    families = asked.families.split(",") if asked.families else None
    rows = campaign(asked.out, kills=asked.kills, model=asked.model, seed=asked.seed, families=families)
    show(rows)
    sys.exit(0 if all(row["same"] for row in rows) else 1)


if __name__ == "__main__":
    main()
