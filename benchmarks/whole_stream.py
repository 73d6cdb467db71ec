"""A whole stream against the same protocol with `transformers.Trainer`: wall time of both commands, alternating.

    python benchmarks/whole_stream.py                       # all of pocket-b1 with tiny-aligned, once
    python benchmarks/whole_stream.py --limit 48 --pairs 3

Sequential, eproj and replay, every task answered before the first and after each: once by `evertune run`, once by
`benchmarks/peers/trainer_stream.py`. Both are whole commands, start and loading included, on the same drawn images,
in the same dtype with the same threads. The cache is empty at the start of each run, but for the images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers.trainer_stream import METHODS, forgetting

import evertune
from evertune.data import load_stream
from evertune.utils.files import cache_folder

HERE = Path(__file__).resolve().parent
DATA = ("tasks", "rows", "packages")
"""What in the cache is data rather than something that a run has made of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-aligned")
    parser.add_argument("--stream", default="pocket-b1")
    parser.add_argument("--limit", type=int, help="training and test samples per task")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=0, help="the reference's data workers")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="show what both print")
    wanted = parser.parse_args()
    tasks = load_stream(wanted.stream, limit=wanted.limit).tasks  # draws the images where they are not there
    ours, theirs = [], []
    for _ in range(wanted.pairs):
        ours.append(by_evertune(wanted))
        theirs.append(by_hand(wanted))
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)]
    size = "all" if wanted.limit is None else f"{wanted.limit}"
    print(f"{wanted.model} on {wanted.stream}, {len(tasks)} tasks, {size} samples of each, {wanted.dtype}", end=", ")
    print(f"{os.environ.get('OMP_NUM_THREADS') or len(os.sched_getaffinity(0))} threads, {wanted.pairs} pairs")
    for title, runs in (("evertune run", ours), ("with Trainer", theirs)):
        seconds = [run["seconds"] for run in runs]
        print(f"{title:14}{statistics.median(seconds):8.1f} s   ({min(seconds):.1f} to {max(seconds):.1f})")
    print(f"{'ratio':14}{statistics.median(ratios):8.2f}     ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        "             final average, forgetting:   evertune         with Trainer   cells differ at most by, row by row"
    )
    for name in METHODS:
        both = ours[-1][name], theirs[-1][name]
        told = [f"{sum(R[-1]) / len(R[-1]):8.1f} {forgetting(R):6.1f}" for R in both]
        apart = [max(abs(a - b) for a, b in zip(*rows, strict=True)) for rows in zip(*both, strict=True)]
        print(f"{name:38}{'   '.join(told)}     {' '.join(f'{value:.1f}' for value in apart)}")


def by_evertune(wanted: argparse.Namespace) -> dict[str, Any]:
    """Seconds, and R of each method."""
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "run", Path(folder) / "cache"
        cache.mkdir()
        for name in DATA:
            if (cache_folder() / name).exists():
                (cache / name).symlink_to(cache_folder() / name)
        command = [
            *("-m", "evertune", "run", wanted.stream, "--model", wanted.model, "--method", ",".join(METHODS)),
            *("--out", str(out), "--set", f"dtype={wanted.dtype}", *_limit(wanted)),
        ]
        seconds = _timed(command, wanted, EVERTUNE_CACHE=str(cache))[0]
        return {"seconds": seconds, **{m: json.loads((out / m / "matrix.json").read_text())["R"] for m in METHODS}}


def by_hand(wanted: argparse.Namespace) -> dict[str, Any]:
    """Seconds, and R of each method."""
    script = str(HERE / "peers" / "trainer_stream.py")
    command = [script, "--model", wanted.model, "--stream", wanted.stream, "--dtype", wanted.dtype]
    seconds, printed = _timed([*command, "--workers", str(wanted.workers), *_limit(wanted)], wanted)
    found = [json.loads(line) for line in printed.splitlines()]
    return {"seconds": seconds, **{one["method"]: one["R"] for one in found}}


def _limit(wanted: argparse.Namespace) -> list[str]:
    return [] if wanted.limit is None else ["--limit", str(wanted.limit)]


def _timed(command: list[str], wanted: argparse.Namespace, **variables: str) -> tuple[float, str]:
    """Wall time of a Python command, and what it prints."""
    paths = [str(Path(evertune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=None if wanted.verbose else subprocess.DEVNULL,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables},
    )
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    main()
