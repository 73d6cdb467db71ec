"""What saving a training in mid-task costs at the default interval, and what a kill loses.

python benchmarks/saves.py --pairs 5 --minutes 3

Pairs of the same training of `random`, one with saves as by default and one without, in alternating order;
then one that is killed after its last save, and goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from evertune.methods import make_methods
from evertune.models import load_lmm
from evertune.training.learner import Learner
from evertune.training.loop import OnStep, Step, Training
from evertune.training.method_contract import toy_tasks
from evertune.training.mid_task_checkpoint import MidTaskCheckpoints


class Timed:
    """The seconds of all saves."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        honest = MidTaskCheckpoints._save

        def save(saves: MidTaskCheckpoints, state: dict[str, Any]) -> None:
            started = time.monotonic()
            honest(saves, state)
            self.seconds.append(time.monotonic() - started)

        MidTaskCheckpoints._save = save  # type: ignore[method-assign]


def taught(epochs: float, *, every: int | None, folder: Path, on_step: OnStep | None = None) -> float:
    """Seconds of learning one toy task."""
    lmm = load_lmm("random", seed=0, dtype="float32", device=torch.device("cpu"))
    (task,) = toy_tasks(folder / "images", count=1)
    training = Training(epochs=epochs, batch_size=4, learning_rate=1e-4, save_every=every)
    learner = Learner(lmm, make_methods("sequential"), folder=folder / "run", training=training, reuse=False)
    learner.features.ensure(task.train)
    started = time.monotonic()
    learner.learn(task, on_step=on_step)
    return time.monotonic() - started


def in_new_folder(epochs: float, *, every: int | None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return taught(epochs, every=every, folder=Path(folder))


def resumed(epochs: float) -> tuple[float, float]:
    """Of a training that ends by an exception at 3/4 and goes on: seconds until then, and from then on."""
    with tempfile.TemporaryDirectory() as place:
        folder, began = Path(place), time.monotonic()

        def stop(step: Step) -> None:
            if step.step > 0.75 * step.steps:
                raise InterruptedError

        try:
            taught(epochs, every=None, folder=folder, on_step=stop)
        except InterruptedError:
            until = time.monotonic() - began
        before = time.monotonic()
        taught(epochs, every=None, folder=folder)
        return until, time.monotonic() - before


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=3.0, help="of one training, about")
    asked = parser.parse_args()
    timed = Timed()
    in_new_folder(5, every=0)
    epochs = 50 * 60 * asked.minutes / in_new_folder(50, every=0)
    ratios: list[float] = []
    for number in range(asked.pairs):
        order = (None, 0) if number % 2 else (0, None)
        seconds = {every: in_new_folder(epochs, every=every) for every in order}
        ratios.append(seconds[None] / seconds[0] - 1)
        print(f"with saves {seconds[None]:.1f} s, without {seconds[0]:.1f} s: {100 * ratios[-1]:+.2f} %", flush=True)
    share = sum(timed.seconds) / asked.pairs / (60 * asked.minutes)
    print(f"median {100 * statistics.median(ratios):+.2f} % over {asked.pairs} pairs")
    typical = 1000 * statistics.median(timed.seconds)
    print(f"{len(timed.seconds)} saves of {typical:.0f} ms: {100 * share:.2f} % of the time")
    until, rest = resumed(epochs)
    lost = until + rest - until / 0.75
    print(f"ended at 3/4 after {until:.1f} s, went on for {rest:.1f} s: {lost:.1f} s were lost")


if __name__ == "__main__":
    main()
