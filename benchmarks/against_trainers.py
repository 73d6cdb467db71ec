"""A training step against `transformers.Trainer` and TRL's `SFTTrainer`: examples per second, alternating, same losses.

    python benchmarks/against_trainers.py --model smol-aligned                # on parcel, 24 steps, 5 pairs
    python benchmarks/against_trainers.py --model tiny-aligned                # on pocket-b1
    python benchmarks/against_trainers.py --peers-python peers-env/bin/python # where TRL is installed

All sides train the same parameters of the same weights on the same examples in the same order, batch, dtype,
threads, optimizer and schedule; `benchmarks/peers/` has their code. Fails when a loss of the first steps differs by
more than the tolerance; what later ones differ by is said, since training amplifies any rounding. Each trainer first
tries 0 and 2 data workers and keeps what is faster. Without TRL its lines are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import evertune

HERE = Path(__file__).resolve().parent
STREAMS = {"tiny-aligned": "pocket-b1", "tiny-instruct": "pocket-b1"}
DTYPES = {"tiny-aligned": "float32", "tiny-instruct": "float32"}
"""The library's InstructBLIP does not convert between a bfloat16 tower and the float32 that trains."""
TOLERANCE = {"float32": 0.02, "bfloat16": 1.5}
"""In bfloat16 a training differs from itself by 0.8 when its features are changed by 1e-4 (docs/performance.md)."""
WORKERS = (0, 2)
KEPT, MADE = {"kept": True}, {"kept": False}


class Worker:
    """A side in its own process."""

    def __init__(self, python: str, side: str, options: list[str]) -> None:
        paths = [str(Path(evertune.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [python, str(HERE / "peers" / "side.py"), side, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if "--verbose" in sys.argv else subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self.facts = self._read()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with code {self._process.wait()}: {' '.join(map(str, self._process.args))}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smol-aligned")
    parser.add_argument("--stream")
    parser.add_argument("--dtype", help="default: auto; float32 for the InstructBLIP classes")
    parser.add_argument("--batch", type=int, help="default: that of the model's recipe")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tolerance", type=float, help="largest difference between two losses of a compared step")
    parser.add_argument("--compared", type=int, default=8, help="so many first steps must have the same losses")
    parser.add_argument("--peers-python", default=sys.executable, help="a Python that has TRL")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries print")
    wanted = parser.parse_args()
    stream = wanted.stream or STREAMS.get(wanted.model, "parcel")
    options = [
        *("--model", wanted.model, "--stream", stream, "--steps", str(wanted.steps)),
        *(["--batch", str(wanted.batch)] if wanted.batch else []),
    ]
    ours = Worker(sys.executable, "evertune", [*options, "--dtype", wanted.dtype or DTYPES.get(wanted.model, "auto")])
    options += ["--dtype", ours.facts["dtype"]]  # measured once: all sides have the same
    names = ["Trainer", *(["SFTTrainer"] if _has_trl(wanted.peers_python) else [])]
    theirs = {name: Worker(wanted.peers_python, name, options) for name in names}
    workers = {name: _faster(worker) for name, worker in theirs.items()}
    ours.ask(KEPT)  # as the others have been, once without being measured
    sides = {"evertune, features kept": (ours, KEPT), "evertune, features made": (ours, MADE)}
    sides |= {f"{n}, {workers[n]['workers']} workers": (worker, workers[n]) for n, worker in theirs.items()}
    rounds = [{name: worker.ask(order) for name, (worker, order) in sides.items()} for _ in range(wanted.pairs)]
    for worker, _ in sides.values():
        worker.close()
    facts = ours.facts
    print(
        f"{wanted.model} on {stream}, {facts['dtype']}, {facts['threads']} threads, {wanted.steps} steps of "
        f"{facts['batch']} examples, {wanted.pairs} pairs"
    )
    report(rounds, examples=facts["examples"], peers=list(sides)[2:])
    tolerance, apart = wanted.tolerance or TOLERANCE[facts["dtype"]], losses_apart(rounds)
    first, rest = max(apart[: wanted.compared]), max(apart[wanted.compared :], default=0.0)
    print(f"losses of the first {wanted.compared} steps differ by at most {first:.2g}, later ones by {rest:.2g}")
    if wanted.verbose:
        print("by step: " + " ".join(f"{difference:.1e}" for difference in apart))
    if first > tolerance:
        raise SystemExit(f"{first:.2g} is more than {tolerance}: this compares different trainings")


def report(rounds: list[dict[str, dict[str, Any]]], *, examples: int, peers: list[str]) -> None:
    """Examples per second of each side, and how often evertune's stand to those of each peer."""
    for name in rounds[0]:
        pace = [examples / one[name]["seconds"] for one in rounds]
        print(f"{name:26}{statistics.median(pace):8.1f} examples per second   ({min(pace):.1f} to {max(pace):.1f})")
    for peer in peers:
        for name in list(rounds[0])[:2]:
            ratios = [one[peer]["seconds"] / one[name]["seconds"] for one in rounds]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{name} / {peer}: {statistics.median(ratios):.2f}   {spread}")


def losses_apart(rounds: list[dict[str, dict[str, Any]]]) -> list[float]:
    """By step, the largest difference between two sides' losses.

    Raises:
        ValueError: a side took another number of steps.
    """
    curves = [side["losses"] for one in rounds for side in one.values()]
    return [max(step) - min(step) for step in zip(*curves, strict=True)]


def _faster(worker: Worker) -> dict[str, int]:
    """The number of data workers with which a trainer is faster."""
    orders = [{"workers": count} for count in WORKERS]
    worker.ask(orders[0])  # the first run of a process is slow whatever its workers
    return min(orders, key=lambda order: worker.ask(order)["seconds"])


def _has_trl(python: str) -> bool:
    found = subprocess.run([python, "-c", "import trl"], capture_output=True, check=False).returncode == 0
    if not found:
        print(f"{python} has no TRL: without SFTTrainer (see benchmarks/peers/requirements.txt)")
    return found


if __name__ == "__main__":
    main()
