"""Kill the commands that write runs, with all their processes or one of them, and compare the files at the end.

python scripts/crash_commands.py --kills 100 --out runs/crash-commands     the same command again resumes

`crash.py` forks one process and kills it in its writes. Here the commands are started as a user starts them: `run`,
`learn`, `grid` with two workers, and `run` in two ranks. At a random moment all processes are killed, or one of them,
or the first gets SIGTERM. Then the same command follows. Nothing may be left running, and the files must be those of
a command that was not killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")

from crash import make_stream, significant

from evertune.utils import files

EVERTUNE = ["-m", "evertune"]
TWO_RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *EVERTUNE]
TRAIN = {"epochs": 12, "batch_size": 2, "learning_rate": 0.01, "save_every": 2, "min_steps": 0}
SETTINGS = [part for key, value in TRAIN.items() for part in ("--set", f"train.{key}={value}")]
MODEL = ["--model", "random", "--set", "dtype=float32"]
KINDS = ("all", "all", "one", "SIGTERM")
KILLS_OF_ONE = 5
ENDS = 400.0  # seconds until all processes are gone after one of them was killed: two ranks look for each other for 300
PLACES: dict[int, str] = {}  # by the first process, the folder of its command
NAMES = ("task-0", "task-1")
KNOWN = "already: give the new one another name"  # the stage was whole before the kill: `learn` has nothing to do


def commands(way: str, stream: Path, out: Path) -> list[list[str]]:
    """What is typed, in order."""
    run = ["run", str(stream), *MODEL, "--method", "replay+ewc", *SETTINGS, "--out", str(out / "run")]
    match way:
        case "run":
            return [[*EVERTUNE, *run]]
        case "two ranks":
            return [[*TWO_RANKS, *run]]
        case "grid":
            return [[*EVERTUNE, "grid", str(stream.parent / "grid.yaml"), "--out", str(out / "run"), "--jobs", "2"]]
    learn = ["learn", str(out / "run"), "--accept-if", "gain>=-100", *SETTINGS]
    tasks = [[*EVERTUNE, learn[0], learn[1], str(stream.parent / f"{name}.yaml"), *learn[2:]] for name in NAMES]
    check = [*EVERTUNE, "check", str(out / "run"), "--every-stage"]
    return [[*EVERTUNE, "new", str(out / "run"), *MODEL, "--method", "eproj"], *tasks, check]


NOT_MET = "TCP client failed to connect"  # torchrun's own processes did not meet in 10 s: the machine has much to do
WAYS = ("run", "learn", "grid", "two ranks")


def made(place: Path) -> Path:
    """The stream, one of each task alone, and a grid."""
    stream = make_stream(files.make_folder(place))
    whole = yaml.safe_load(stream.read_text())
    for entry in whole["tasks"]:
        (place / f"{entry['name']}.yaml").write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
    grid = {"name": "tiny", "streams": [stream.name], "models": ["random"], "methods": ["sequential", "ewc"]}
    grid |= {"seeds": [1], "reuse": False, "dtype": "float32", "train": TRAIN}
    (place / "grid.yaml").write_text(yaml.safe_dump(grid))
    return stream


def started(words: list[str], place: Path) -> subprocess.Popen[bytes]:
    """The first process of a command, which leads a group and a session."""
    env = {**os.environ, "EVERTUNE_CACHE": str(place / "cache")}
    with (place / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=env, start_new_session=True)
    PLACES[process.pid] = f"{place}/"
    return process


def members(session: int) -> list[int]:
    """Processes of a session and those of its folder, those that have ended but were not waited for aside.

    torchrun gives each of its processes a session of its own: they are found by the run folder in their arguments.
    """
    place = PLACES.get(session, "")
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, own = path.read_text().rsplit(")", 1)[1].split()[:4]
            here = int(own) == session or (
                place and place in path.with_name("cmdline").read_bytes().decode("utf-8", "replace")
            )
            if here and state != "Z" and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def kill(process: subprocess.Popen[bytes], kind: str, chance: random.Random) -> None:
    """Kill all processes of a command, one of them, or ask the first to end."""
    chosen = members(process.pid)
    chosen = [chance.choice(chosen)] if kind == "one" and chosen else [process.pid] if kind == "SIGTERM" else chosen
    for one in chosen:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)


def gone(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for the end: the exit code, and how many processes had to be killed because they were left."""
    until = time.monotonic() + ENDS
    while time.monotonic() < until and (process.poll() is None or members(process.pid)):
        time.sleep(0.05)
    left = members(process.pid)
    for one in left:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return process.wait(), len(left)


def undisturbed(way: str, stream: Path, place: Path) -> list[float]:
    """Make the files to compare with; how long each command takes."""
    if not (place / "seconds.json").exists():
        shutil.rmtree(place, ignore_errors=True)
        files.make_folder(place)
        seconds = []
        for words in commands(way, stream, place):
            begun = time.monotonic()
            if started(words, place).wait():
                raise SystemExit(f"{way}: an undisturbed command failed: see {place / 'log'}")
            seconds.append(time.monotonic() - begun)
        (place / "seconds.json").write_text(json.dumps(seconds))
    usual: list[float] = json.loads((place / "seconds.json").read_text())
    return usual


def disturbed(way: str, stream: Path, place: Path, usual: list[float], chance: random.Random) -> list[dict[str, Any]]:
    """The commands, killed again and again; every kill that struck, with what was left after it."""
    shutil.rmtree(place, ignore_errors=True)
    files.make_folder(place)
    kills: list[dict[str, Any]] = []
    tries = 3
    for words, seconds in zip(commands(way, stream, place), usual, strict=True):
        while True:
            process, after = started(words, place), chance.uniform(0.2, 0.95) * seconds
            strikes = len(kills) < KILLS_OF_ONE and words[2] != "new"
            with suppress(subprocess.TimeoutExpired):
                process.wait(after if strikes else 600)
            if process.poll() is not None:
                said = (place / "log").read_text(errors="replace")
                if process.returncode and NOT_MET in said[-9000:] and tries:
                    tries -= 1
                    continue
                if process.returncode and KNOWN not in said[-300:]:
                    raise SystemExit(f"{way} ended by itself with {process.returncode}: see {place / 'log'}")
                break
            kind = chance.choice(KINDS)
            kill(process, kind, chance)
            code, left = gone(process)
            kills.append({"kind": kind, "after": round(after / seconds, 2), "code": code, "left": left})
            if code == 0:
                break
    return kills


def results(way: str, folder: Path) -> Any:
    """What must be equal, wherever the folder lies: answers name images of the tasks that a model keeps."""
    found = {}
    for run in sorted(path.parent for path in folder.rglob("matrix.json")):
        matrix, contents = significant(run)
        contents = {name: content.replace(bytes(folder), b"RUN") for name, content in contents.items()}
        found[str(run.relative_to(folder))] = matrix, contents
    assert len(found) == (2 if way == "grid" else 1), f"{way}: {len(found)} runs are finished"
    return found


def main() -> None:
    """The command."""
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("--kills", type=int, default=100)
    asks.add_argument("--seed", type=int, default=0)
    asks.add_argument("--out", type=Path, default=Path("runs/crash-commands"))
    asks.add_argument("--ways", default=",".join(WAYS), help="separated by commas")
    asked = asks.parse_args()
    out, ways = asked.out.resolve(), asked.ways.split(",")
    record = out / "crash.jsonl"
    stream = out / "stream" / "toy.yaml"
    stream = stream if stream.exists() else made(out / "stream")
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    while sum(len(row["kills"]) for row in rows) < asked.kills:
        way = ways[len(rows) % len(ways)]
        whole, place = out / f"whole-{way}".replace(" ", "-"), out / f"{len(rows)}-{way}".replace(" ", "-")
        usual = undisturbed(way, stream, whole)
        kills = disturbed(way, stream, place, usual, random.Random(f"{asked.seed} {len(rows)}"))
        same = results(way, place / "run") == results(way, whole / "run")
        rows.append({"way": way, "kills": kills, "same": same})
        files.append_jsonl(record, rows[-1])
        print(f"{time.strftime('%H:%M:%S')} {way}: {kills}, {'the same' if same else 'DIFFERENT'}", flush=True)
        if same:
            shutil.rmtree(place)
    for way in ways:
        kills = [kill for row in rows if row["way"] == way for kill in row["kills"]]
        same = all(row["same"] for row in rows if row["way"] == way)
        print(f"{way}: {len(kills)} kills, {'the same files' if same else 'DIFFERENT FILES'}")
    sys.exit(0 if all(row["same"] and not any(kill["left"] for kill in row["kills"]) for row in rows) else 1)


if __name__ == "__main__":
    main()
