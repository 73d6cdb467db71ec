"""Result files of runs that were not made, with scores that are easy to add up."""

from __future__ import annotations

import json

from evertune.metrics.metrics import metrics_of

MADE_WITH = {"model_fingerprint": "f00d", "dtype": "float32", "device": "cpu", "threads": 1, "torch": "2.12.0"}
COST = {"train_seconds": 60.0, "trained_parameters": 1000, "stored_bytes": 4000, "samples_trained": 20}


def row(method="ewc", *, seed=0, final=50.0, stored=4000, samples=20, **changes):
    """A run of two tasks: 80 points right after learning each, both at `final` in the end."""
    R = [[0.0, 0.0], [80.0, 0.0], [final, final]]
    settings = {"limit": None, "train": {"epochs": 1.0}, "options": {name: {} for name in method.split("+")}}
    content = {
        "stream": "toy",
        "model": "random",
        "method": method,
        "seed": seed,
        "settings": settings,
        "known": [],
        "tasks": ["a", "b"],
        "stages": ["a", "b"],
        "R": R,
        "cost": COST | {"stored_bytes": stored, "samples_trained": samples},
        "warnings": [],
        "made_with": MADE_WITH,
    }
    content |= changes
    content.setdefault("metrics", metrics_of(content["R"]))
    return content


def with_options(one, **options):
    """A row with options of its method."""
    return one | {"settings": one["settings"] | {"options": {one["method"]: options}}}


def seeds(method="ewc", finals=(60.0, 70.0, 80.0), **more):
    """A row for each final average, seeds 0, 1, 2."""
    return [row(method, seed=seed, final=final, **more) for seed, final in enumerate(finals)]


def joint(finals=(90.0, 90.0, 90.0)):
    """The bound: one stage."""
    return [
        row("joint", seed=seed, stages=["joint"], R=[[0.0, 0.0], [final, final]]) for seed, final in enumerate(finals)
    ]


def write(path, rows, **head):
    """A result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": 2, "name": path.stem, "evertune": "0.1.0"} | head | {"runs": rows}))
    return path
