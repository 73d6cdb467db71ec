"""Fuzz every reader of files that strangers make: a million inputs, none may crash, hang, or reach outside its folder.

`python scripts/fuzz.py --out DIR`; the same command resumes. DIR/counts.json has how many were read, accepted and
refused by reader, DIR/findings/READER-N the inputs that ended otherwise; `--again FILE` reads one of them. An input
follows from seed, reader and number alone.

One process reads, and its number is written down before: what ends the process (a segmentation fault, memory, a hang in
C) is seen by the other process, noted, and the next input is read. Of coverage it knows nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

MILLION = 1_000_000
MEMORY = 3 << 30
SECONDS_OF_SILENCE = 300
AT_ONCE = 60_000
COUNTS, FINDINGS = "counts.json", "findings"


def main() -> None:
    """The command."""
    asked = _asked()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if asked.table:
        print(_table(_counts(out)))
    elif asked.again:
        _read_again(asked.again, out)
    elif asked.worker:
        _work(asked, out)
    elif asked.together:
        raise SystemExit(_together(asked, out))
    else:
        raise SystemExit(_campaign(asked, out))


def _asked() -> argparse.Namespace:
    asks = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    asks.add_argument("--inputs", type=int, default=MILLION, help="in all; each reader gets its share")
    asks.add_argument("--seed", default="0")
    asks.add_argument("--only", help="readers whose name contains this")
    asks.add_argument("--table", action="store_true", help="the table of docs/reliability.md, from counts.json")
    asks.add_argument("--again", type=Path, help="read one input of findings/ again, and show what happens")
    asks.add_argument("--together", action="store_true", help="all readers in one process: quick, and ends at a crash")
    asks.add_argument("--worker", help=argparse.SUPPRESS)
    asks.add_argument("--group", type=int, default=0, help=argparse.SUPPRESS)
    asks.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    asks.add_argument("--end", type=int, default=0, help=argparse.SUPPRESS)
    return asks.parse_args()


def _campaign(asked: argparse.Namespace, out: Path) -> int:
    """Read in rounds of `AT_ONCE` inputs of each reader; whether there are findings."""
    found = json.loads(_worker(asked, "shares"))
    shares = {name: share for name, (share, _) in found.items()}
    counts: dict[str, Any] = _counts(out)
    wanted = {name: -(-share * asked.inputs // sum(shares.values())) for name, share in shares.items()}
    names = [name for name in wanted if not asked.only or asked.only in name]
    while open_ones := [name for name in names if _of(counts, name)["read"] < wanted[name]]:
        for name in open_ones:
            asked.group = found[name][1]
            _round(asked, out, name, counts, wanted[name])
            _write(out, counts)
        read = sum(count["read"] for count in counts.values())
        print(f"{time.strftime('%H:%M:%S')} {read:,} inputs, {_findings(counts)} findings", flush=True)
    for name in sorted(names):
        print(f"{name:32} {counts[name]}")
    return int(_findings(counts) > 0)


def _round(asked: argparse.Namespace, out: Path, name: str, counts: dict[str, Any], wanted: int) -> None:
    """A process reads some inputs; where it dies, the input that it had is a finding."""
    count = _of(counts, name)
    start, end = count["read"], min(wanted, count["read"] + AT_ONCE)
    began = time.monotonic()
    told = json.loads(_worker(asked, name, start, end) or "{}")
    if not told:  # it died
        told = json.loads((out / "at.json").read_text())
        _keep(out, name, told["number"], bytes.fromhex(told["input"]), told["died"])
        told = {"read": told["number"] + 1 - start, "findings": 1}
    for key, value in told.items():
        count[key] = count.get(key, 0) + value
    count["seconds"] = round(count.get("seconds", 0) + time.monotonic() - began, 1)


def _worker(asked: argparse.Namespace, name: str, start: int = 0, end: int = 0) -> str:
    """What a process of its own says at its end; nothing where it did not come to that."""
    out = asked.out.resolve()
    command = [sys.executable, __file__, "--out", str(out), "--seed", asked.seed, "--worker", name]
    command += ["--start", str(start), "--end", str(end), "--group", str(asked.group)]
    at = out / "at.json"
    at.unlink(missing_ok=True)
    with tempfile.TemporaryFile("w+") as said, (out / "worker.log").open("a") as log:
        process = subprocess.Popen(command, stdout=said, stderr=log, stdin=subprocess.DEVNULL)
        last = time.monotonic()
        before = None
        while process.poll() is None:
            time.sleep(0.05)
            now = at.stat().st_mtime_ns if at.exists() else None
            last, before = (time.monotonic(), now) if now != before else (last, before)
            if time.monotonic() - last > SECONDS_OF_SILENCE:
                process.kill()
        said.seek(0)
        text = said.read()
    if process.returncode and not (at.exists() and at.stat().st_size):
        raise SystemExit(f"a reader could not begin: see {out / 'worker.log'}")
    if process.returncode:
        reason = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit {process.returncode}"
        content = at.read_bytes()
        number, _, given = content.partition(b"\n")
        at.write_text(json.dumps({"number": int(number), "input": given.hex(), "died": reason}))
        return ""
    return text


def _work(asked: argparse.Namespace, out: Path) -> None:
    """Read inputs `start` to `end` of a reader, and say how they ended."""
    from fuzzing.readers import group, groups
    from fuzzing.world import built

    os.environ["EVERTUNE_CACHE"] = str(out / "world" / "cache")
    world = built(out / "world")
    if asked.worker == "shares":
        print(json.dumps({r.name: [r.share, at] for at in range(groups()) for r in group(world, at)}))
        return
    found = {reader.name: reader for reader in group(world, asked.group)}
    told = {"read": 0, "accepted": 0, "refused": 0, "findings": 0}
    with ModelSession(out) as bench:
        bench.warm(found[asked.worker])
        for number in range(asked.start, asked.end):
            told["read"] += 1
            told[bench.read(found[asked.worker], number, seed=asked.seed)] += 1
    print(json.dumps(told))


def _together(asked: argparse.Namespace, out: Path) -> int:
    """Every reader's share in this very process."""
    from fuzzing.readers import readers
    from fuzzing.world import built

    world = built(out / "world")
    found = readers(world)
    shares = sum(reader.share for reader in found)
    counts: dict[str, Any] = {}
    with ModelSession(out) as bench:
        for reader in found:
            count = _of(counts, reader.name)
            bench.warm(reader, limited=False)
            for number in range(-(-reader.share * asked.inputs // shares)):
                count["read"] += 1
                count[bench.read(reader, number, seed=asked.seed)] += 1
    _write(out, counts)
    return int(_findings(counts) > 0)


class ModelSession:
    """A folder that nothing may be written outside of, and the inputs that are read in it."""

    def __init__(self, out: Path) -> None:
        from fuzzing.guard import Guard

        fast = Path("/dev/shm")
        self._out = out
        self.place = Path(tempfile.mkdtemp(prefix="fuzz-", dir=fast if fast.is_dir() else None))
        self._inside = self.place / "inside"
        (self._inside / "here").mkdir(parents=True)
        self._guard = Guard(self._inside)
        self._at = (out / "at.json").open("wb")

    def __enter__(self) -> ModelSession:
        os.environ["EVERTUNE_CACHE"] = str(self._inside / "cache")
        tempfile.tempdir = str(self._inside)
        os.chdir(self._inside / "here")
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir("/")
        self._at.close()
        shutil.rmtree(self.place, ignore_errors=True)

    def warm(self, reader: Any, *, limited: bool = True) -> None:
        """Read the sound files, which all are accepted or refused in a sentence; then modules are loaded."""
        from fuzzing.guard import limit_memory
        from fuzzing.readers import reading

        for seed in reader.seeds:
            reading(seed.head + seed.content, self._inside / "here", reader)
        if limited:
            limit_memory(MEMORY)

    def read(self, reader: Any, number: int, *, seed: str) -> str:
        """`accepted`, `refused` or `findings`."""
        from fuzzing.inputs import made

        content = made(reader.seeds, campaign=f"{seed}/{reader.name}", number=number)
        self._at.seek(0)
        self._at.truncate()
        self._at.write(f"{number}\n".encode() + content)
        self._at.flush()
        if number % 200 == 0:
            shutil.rmtree(self._inside / "cache", ignore_errors=True)
        try:
            return self._watched(reader, content)
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt | SystemExit):
                raise
            _keep(self._out, reader.name, number, content, _traceback())
            return "findings"

    def _watched(self, reader: Any, content: bytes) -> str:
        from fuzzing.readers import reading

        with self._guard.watched(seconds=reader.seconds):
            ended = reading(content, self._inside / "here", reader)
        strangers = [path.name for path in self.place.iterdir() if path != self._inside]
        assert not strangers, f"{strangers} were written outside"
        return ended


def _traceback() -> str:
    return traceback.format_exc()[-6000:]


def _keep(out: Path, name: str, number: int, content: bytes, why: str) -> None:
    folder = out / FINDINGS
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace(' ', '-').replace('/', '-')}-{number}"
    (folder / stem).write_bytes(f"{name}\n".encode() + content)
    (folder / f"{stem}.txt").write_text(why)


def _read_again(path: Path, out: Path) -> None:
    """A kept input, without guards: what goes wrong is shown."""
    from fuzzing.readers import readers, reading
    from fuzzing.world import built

    name, _, content = path.read_bytes().partition(b"\n")
    world = built(out / "world")
    reader = next(reader for reader in readers(world) if reader.name == name.decode())
    with ModelSession(out) as bench:
        print(reading(content, bench.place / "inside" / "here", reader))


def _counts(out: Path) -> dict[str, Any]:
    path = out / COUNTS
    counts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return counts


def _of(counts: dict[str, Any], name: str) -> dict[str, Any]:
    count: dict[str, Any] = counts.setdefault(name, {"read": 0, "accepted": 0, "refused": 0, "findings": 0})
    return count


def _findings(counts: dict[str, Any]) -> int:
    return sum(count["findings"] for count in counts.values())


def _table(counts: dict[str, Any]) -> str:
    together = {
        key: sum(count[key] for count in counts.values()) for key in ("read", "accepted", "refused", "findings")
    }
    rows = [(name, count) for name, count in counts.items() if count["read"]] + [("together", together)]
    head = ["| reader | inputs | accepted | refused in a sentence | findings |", "|---|---|---|---|---|"]
    keys = ("read", "accepted", "refused", "findings")
    return "\n".join(head + [f"| {name} | " + " | ".join(f"{c[key]:,}" for key in keys) + " |" for name, c in rows])


def _write(out: Path, counts: dict[str, Any]) -> None:
    temporary = out / f".{COUNTS}"
    temporary.write_text(json.dumps(counts, indent=1) + "\n")
    temporary.replace(out / COUNTS)


if __name__ == "__main__":
    main()
