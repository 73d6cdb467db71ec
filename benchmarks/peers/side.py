"""One side of a comparison in a process of its own, so that each has its environment: it waits for orders and answers.

    {"workers": 2, "kept": true}  ->  {"seconds": 8.1, "losses": [2.5, ...]}

Every order trains the same examples from the same weights. What is measured is what a user waits for: evertune's
`learn` with all that it writes, and the trainers' own `train_runtime`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evertune.data import Task, load_stream
from evertune.methods import make_methods
from evertune.models import load_lmm
from evertune.models.weights import copy_of, restore
from evertune.training.learner import Learner
from evertune.training.loop import Training, sample_order
from evertune.utils.device import use_threads
from evertune.utils.files import digest
from peers.models import peer_of, rows_of
from peers.trainers import make_sft_trainer, make_trainer, recipe_of

SEED = 0


class Side(Protocol):
    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Train once."""


class Evertune:
    """`Learner.learn`. With `kept` features are those of an earlier run, else all are made within this one."""

    def __init__(self, lmm: Any, task: Task, training: Training, folder: Path) -> None:
        self._lmm, self._task, self._training, self._folder = lmm, task, training, folder

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        kept = self._folder / "kept"
        with tempfile.TemporaryDirectory(dir=self._folder) as fresh, _cache(kept if order["kept"] else Path(fresh)):
            methods = make_methods("sequential")
            learner = Learner(
                self._lmm, methods, folder=Path(fresh) / "run", training=self._training, seed=SEED, reuse=False
            )
            if order["kept"]:
                learner.features.ensure(self._task.train)
            log: list[float] = []
            start = time.perf_counter()
            learner.learn(self._task, on_step=lambda step: log.append(step.loss))
            return {"seconds": time.perf_counter() - start, "losses": log}


class Trained:
    """`trainer.train()` of a trainer that `make` has made."""

    def __init__(self, make: Any, lmm: Any, task: Task, training: Training, folder: Path) -> None:
        self._make, self._lmm, self._training, self._folder = make, lmm, training, folder
        seed = int(digest(str(SEED), task.name)[:8], 16)  # evertune's own order
        self._rows = rows_of(list(sample_order(task.train, epochs=training.epochs, seed=seed)))
        self._peer = peer_of(lmm)

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        trainer, losses = self._make(
            self._peer,
            self._lmm,
            self._rows,
            training=self._training,
            workers=order["workers"],
            folder=self._folder,
        )
        done = trainer.train()
        return {"seconds": done.metrics["train_runtime"], "losses": [loss.item() for loss in losses]}


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("EVERTUNE_CACHE")
    os.environ["EVERTUNE_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["EVERTUNE_CACHE"]
        if before:
            os.environ["EVERTUNE_CACHE"] = before


def examples_of(stream: str, count: int) -> Task:
    """`count` examples, as many of each task of a stream as of any other."""
    tasks = load_stream(stream, limit=count).tasks
    each = -(-count // len(tasks))
    return Task("all", [s for task in tasks for s in task.train[:each]][:count], [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("evertune", "Trainer", "SFTTrainer"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int)
    wanted = parser.parse_args()
    answers = sys.stdout
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:  # libraries print as they like
        use_threads()
        lmm = load_lmm(wanted.model, dtype=wanted.dtype)
        training = recipe_of(wanted.model, wanted.stream)
        training = replace(training, batch_size=wanted.batch or training.batch_size)
        task = examples_of(wanted.stream, wanted.steps * training.batch_size)
        side: Side
        if wanted.side == "evertune":
            side = Evertune(lmm, task, training, Path(folder))
        else:
            make = make_trainer if wanted.side == "Trainer" else make_sft_trainer
            side = Trained(make, lmm, task, training, Path(folder))
        start = copy_of(lmm.trainable())
        ready: dict[str, Any] = {"dtype": str(lmm.dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
        ready |= {"examples": len(task.train), "batch": training.batch_size}
        print(json.dumps(ready), file=answers, flush=True)
        for line in sys.stdin:
            restore(lmm.trainable(), start)
            print(json.dumps(side.run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
