"""Results that nobody measured, for tests of what is computed from results."""

from __future__ import annotations

import json
import random

from evertune.metrics.metrics import metrics_of
from evertune.reporting.matrix import Matrix

OLD, NEW = [f"old{n}" for n in range(5)], [f"new{n}" for n in range(4)]


def scores(*, stages, known, lost, learned, noise=0.0, seed=0):
    """R of a stream whose tasks are learned to `learned` and lose `lost` points once the next task is there."""
    draw = random.Random(seed)
    width = known + stages

    def cell(row, column):
        own = max(0, column - known + 1)
        value = 10.0 if row < own else learned if row == own else learned - lost
        return round(value + draw.uniform(-noise, noise), 3)

    return [[cell(row, column) for column in range(width)] for row in range(stages + 1)]


def run(
    stream, model, method="sequential", *, seed=0, known=0, stages=4, lost=10.0, learned=60.0, noise=0.0, options=()
):
    """A run as a `results.json` holds it."""
    names = OLD[:known] + NEW[:stages]
    R = scores(stages=stages, known=known, lost=lost, learned=learned, noise=noise, seed=f"{stream}{method}{seed}")
    if method == "joint":
        R = [R[0], [learned] * len(names)]
    settings = {
        "limit": None,
        "train": {"learning_rate": 1e-3},
        "options": {k: dict(v) for k, v in dict(options).items()},
    }
    return Matrix(
        stream=stream,
        model=model,
        method=method,
        seed=seed,
        settings=settings,
        known=names[:known],
        tasks=names,
        stages=["all"] if method == "joint" else names[known:],
        R=R,
        cost={"train_seconds": 100.0},
        metrics=metrics_of(R, known=known),
    )


def write(folder, runs, name="made-up"):
    """A `results.json` as a grid writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(
        json.dumps({"format": 2, "name": name, "evertune": "0", "runs": [run.to_dict() for run in runs]})
    )
