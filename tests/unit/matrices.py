"""Matrices of runs as they stand in `matrix.json`."""

from __future__ import annotations

from evertune.metrics.metrics import metrics_of


def matrix(method="ewc", *, seed=100, final=50.0, epochs=1.0, **options):
    R = [[0.0, 0.0], [80.0, 0.0], [final, final]]
    settings = {"limit": None, "train": {"epochs": epochs}, "options": {method: options}}
    facts = {"format": 2, "model": "random", "stream": "toy", "method": method, "seed": seed, "settings": settings}
    return facts | {"tasks": ["a", "b"], "stages": ["a", "b"], "R": R, "metrics": metrics_of(R), "folder": f"s{seed}"}
