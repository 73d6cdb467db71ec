"""Matrices of runs that nobody made."""

from __future__ import annotations

from evertune.metrics.metrics import metrics_of
from evertune.reporting.matrix import Matrix


def matrix(method="ewc", *, seed=100, final=50.0, epochs=1.0, **options):
    R = [[0.0, 0.0], [80.0, 0.0], [final, final]]
    settings = {"limit": None, "train": {"epochs": epochs}, "options": {method: options}}
    more = {"settings": settings, "metrics": metrics_of(R), "folder": f"s{seed}"}
    return Matrix("random", "toy", method, seed, ["a", "b"], ["a", "b"], R, **more)


def matrices_of(result):
    """The matrix of each method of a run, in order."""
    return [run.matrix for run in result.runs.values()]
