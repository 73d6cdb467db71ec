"""Run streams for hours while everything goes wrong: kills, failing writes, damaged files; compare the bits each time.

python scripts/soak.py --hours 8 --out runs/soak         the same command again adds to the hours before

Each round takes a method and a random list of troubles: a kill at a random time or in a write, a failing call of the
system, or a byte of a file that changes, a file that is cut or gone, in the run folder (then `doctor --repair`) or in
the cache. In the end the run must be the undisturbed one, to the bit, and `doctor` find nothing. Every fifth round is
two runs of different methods that begin at the same time with one empty cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import crash
import faults

from evertune.service.integrity import examine, repair
from evertune.utils.errors import UserError
from evertune.utils.files import append_jsonl, make_folder

MOST_TROUBLES = 6
ROUNDS_PER_PAIR = 5
OWN_BATCHES = "joint"  # encodes the images of all tasks in one go: in other batches, so to other last bits
ENDED_BY_US = (-signal.SIGKILL, -signal.SIGTERM, 143)
SAID_NO = 2
OF_CACHE = ("features/*/*.safetensors", "answers/*.json", "trained/*.safetensors", "rows/*/*")
OF_RUN = ("stages/*/*", "answers/*/*.jsonl", "matrix.json", "mid_task.safetensors")


def forked(action: Callable[[], None], log: Path, board: crash.Board, kill: crash.Kill) -> int:
    """Do something in a child until its end or the kill; its exit code, 2 where it has said why it can't."""
    board.moment = "starting"
    process = os.fork()
    if process:
        return crash.waited(process, board, kill)[0]
    code = 1
    with log.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            action()
            code = 0
        except UserError as problem:
            os.write(2, f"{problem}\n".encode())
            code = SAID_NO
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
    os._exit(code)


class Round:
    """One run and its troubles."""

    def __init__(self, stream: Path, family: str, place: Path, chance: random.Random, usual: float) -> None:
        self.stream, self.family, self.place, self.usual = stream, family, place, usual
        self.chance, self.board = chance, crash.Board()
        self.log = place.parent / f"{place.name}.log"
        self.troubles: list[str] = []

    def run(self, kill: crash.Kill | None = None, fault: faults.ImageFault | None = None) -> int:
        """The run in a child, disturbed or not."""

        def action() -> None:
            with faults.failing(fault):
                case = crash.Case(self.stream, self.family)
                crash.child(case, self.place / "run", self.place / "cache", self.board, kill or crash.Kill())

        return forked(action, self.log, self.board, kill or crash.Kill())

    def trouble(self) -> None:
        """Something goes wrong."""
        self.chance.choice([self._kill, self._kill_in_write, self._fault, self._damage_run, self._damage_cache])()

    def _kill(self) -> None:
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM])
        early = self.chance.random() < 0.1
        code = self.run(crash.Kill(signal=number, after=self.chance.uniform(0, self.usual), while_starting=early))
        self._expect(code, *ENDED_BY_US, 0)
        self.troubles += [signal.Signals(number).name] if code else []

    def _kill_in_write(self) -> None:
        code = self.run(crash.Kill(write=self.chance.randint(1, 40)))
        self._expect(code, *ENDED_BY_US, 0)
        self.troubles += ["SIGKILL in a write"] if code else []

    def _fault(self) -> None:
        at = self.chance.randint(1, 300)
        fault = self.chance.choice(faults.faults_of(at, self.chance.choice(("write", "fsync", "replace"))))
        code = self.run(fault=fault)
        self._expect(code, 0, SAID_NO)
        self.troubles += [fault.kind] if code else []

    def _damage_run(self) -> None:
        if self._damage(self.place / "run", OF_RUN) and (self.place / "run" / "provenance.json").exists():
            self._expect(forked(self._repair, self.log, self.board, crash.Kill()), 0)
            self.troubles.append("damage in the run folder")

    def _damage_cache(self) -> None:
        if self._damage(self.place / "cache", OF_CACHE):
            self.troubles.append("damage in the cache")

    def _repair(self) -> None:
        os.environ["EVERTUNE_CACHE"] = str(self.place / "cache")
        left = repair(self.place / "run").left
        if left:
            raise RuntimeError(f"left after a repair: {left}")

    def _damage(self, folder: Path, patterns: tuple[str, ...]) -> bool:
        """Change a byte of a file, or cut it, or take it away; False where there is none yet."""
        files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
        if not files:
            return False
        path, content = self.chance.choice(files), b""
        how = self.chance.choice(["change", "change", "cut", "remove"])
        content = path.read_bytes()
        with self.log.open("a") as log:
            log.write(f"{how} {path}\n")
        if how == "remove" or not content:
            path.unlink()
        elif how == "cut":
            path.write_bytes(content[: self.chance.randrange(len(content))])
        else:
            at = self.chance.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << self.chance.randrange(8))]) + content[at + 1 :])
        return True

    def _expect(self, code: int, *allowed: int) -> None:
        if code not in allowed:
            raise RuntimeError(f"{self.family} ended with {code}: see {self.log}")


def pair_of(out: Path, number: int, seed: int) -> dict[str, Any]:
    """Two runs that begin at once with one empty cache, each compared with a run that had a cache of its own."""
    chance = random.Random(f"{seed} {number}")
    stream = out / "stream" / "toy.yaml"
    families = chance.sample([family for family in crash.FAMILIES if family != OWN_BATCHES], 2)
    wholes = [undisturbed(stream, family, out)[0] for family in families]
    place = out / f"pair-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(wholes[0].parent / "cache" / "models", place / "cache" / "models")
    started = time.monotonic()
    going = [os.fork() or _one_of_two(stream, family, place) for family in families]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in going]
    wrong = f"ended with {codes}: see {place}.log" if any(codes) else ""
    for family, whole in zip(families, wholes, strict=True):
        if not wrong and crash.significant(place / family) != crash.significant(whole):
            wrong = f"other bits: {family}"
    if not wrong:
        shutil.rmtree(place)
    seconds = time.monotonic() - started
    facts = {"round": number, "family": " beside ".join(families), "troubles": ["shared cache"]}
    return {**facts, "wrong": wrong, "seconds": seconds}


def _one_of_two(stream: Path, family: str, place: Path) -> int:
    """In the child; does not return."""
    code = 1
    try:
        with (place.parent / f"{place.name}.log").open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            case = crash.Case(stream, family)
            crash.child(case, place / family, place / "cache", crash.Board(), crash.Kill())
            code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(code)


def round_of(out: Path, number: int, seed: int) -> dict[str, Any]:
    """One run with its troubles, compared with the undisturbed one."""
    chance = random.Random(f"{seed} {number}")
    stream, family = out / "stream" / "toy.yaml", chance.choice(list(crash.FAMILIES))
    whole, usual = undisturbed(stream, family, out)
    place = out / f"round-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole.parent / "cache" / "models", place / "cache" / "models")
    one = Round(stream, family, place, chance, usual)
    started, wrong = time.monotonic(), ""
    try:
        for _ in range(chance.randint(1, MOST_TROUBLES)):
            one.trouble()
        one._expect(one.run(), 0)
        if not one.troubles:  # each came too late, or found nothing to damage
            one._damage_run()
            one._expect(one.run(), 0)
        if crash.significant(place / "run") != crash.significant(whole):
            wrong = "other bits"
        elif found := examine(place / "run"):
            wrong = f"doctor finds {found[0]}"
    except RuntimeError as problem:
        wrong = str(problem)
    if not wrong:
        shutil.rmtree(place)
        one.log.unlink()
    seconds = time.monotonic() - started
    return {"round": number, "family": family, "troubles": one.troubles, "wrong": wrong, "seconds": seconds}


def undisturbed(stream: Path, family: str, out: Path) -> tuple[Path, float]:
    """The run to compare with, and its seconds."""
    place = out / f"whole-{family}"
    if not (place / "seconds").exists():
        shutil.rmtree(place, ignore_errors=True)
        made = next(iter(out.glob("whole-*/seconds")), None)
        make_folder(place)
        if made:
            shutil.copytree(made.parent / "cache" / "models", place / "cache" / "models")
        one, started = Round(stream, family, place, random.Random(0), 0.0), time.monotonic()
        one._expect(one.run(), 0)
        (place / "seconds").write_text(str(time.monotonic() - started))
    return place / "run", float((place / "seconds").read_text())


def show(rows: list[dict[str, Any]]) -> None:
    """Hours, runs, troubles by kind."""
    troubles = Counter(trouble for row in rows for trouble in row["troubles"])
    for name, count in sorted(troubles.items()):
        print(f"{name:<28} {count}")
    good, hours = sum(not row["wrong"] for row in rows), sum(row["seconds"] for row in rows) / 3600
    print(f"{hours:.2f} hours, {sum(troubles.values())} troubles; {good} of {len(rows)} runs ended with the same bits")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="more, beside what is there")
    parser.add_argument("--rounds", type=int, help="at most so many more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--show", action="store_true", help="say what came of it so far, and run nothing")
    asked = parser.parse_args()
    out = make_folder(asked.out.resolve())
    record = out / "soak.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    if not asked.show:
        if not (out / "stream" / "toy.yaml").exists():
            crash.make_stream(make_folder(out / "stream"))
        crash.warm(crash.Case(out / "stream" / "toy.yaml", "sequential"), out)
    end, before = time.monotonic() + 3600 * asked.hours, len(rows)
    while not asked.show and time.monotonic() < end and len(rows) - before < (asked.rounds or 10**9):
        kind = pair_of if len(rows) % ROUNDS_PER_PAIR == ROUNDS_PER_PAIR - 1 else round_of
        rows.append(kind(out, len(rows), asked.seed))
        append_jsonl(record, rows[-1])
        if rows[-1]["wrong"]:
            print(f"NOT SURVIVED: {rows[-1]}", flush=True)
    show(rows)
    sys.exit(1 if any(row["wrong"] for row in rows) else 0)


if __name__ == "__main__":
    main()
