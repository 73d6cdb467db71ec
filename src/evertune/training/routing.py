"""Which expert answers a question, and its weights in the model while it does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from evertune.data.task import Sample
from evertune.methods import Method
from evertune.methods.base import BASE, Route
from evertune.methods.hook_results import expert_by
from evertune.models.adapters import mixture
from evertune.models.protocol import LMM
from evertune.utils.errors import UserError, kind_of

Weights = tuple[tuple[str, float], ...]
"""Experts with their weights, the largest first."""


@contextmanager
def active(lmm: LMM, methods: Sequence[Method], expert: str | Weights | None) -> Iterator[None]:
    """The weights of an expert, or of several at once, in the model."""

    def activate(name: str) -> None:
        for method in methods:
            method.activate(name)

    def of_layer(layer: str, weights: Mapping[str, float]) -> Mapping[str, float]:
        for method in methods:
            weights = method.layer_weights(layer, weights)
        return weights

    if isinstance(expert, tuple):
        with mixture(lmm, activate, dict(expert), of_layer=of_layer):
            yield
        return
    if expert is not None:
        activate(expert)
    yield


def first_of(route: str | Weights | None) -> str | None:
    """The expert that a prediction counts for: that of the largest weight."""
    return route[0][0] if isinstance(route, tuple) else route


def _settled(route: Route, method: Method) -> str | Weights:
    """A route that can be compared; a single expert of weight 1 is its name.

    Raises:
        UserError: it has no weights, or one that is not finite.
    """
    if isinstance(route, str):
        return route
    numbers = isinstance(route, Mapping) and all(isinstance(weight, int | float) for weight in route.values())
    weights = {str(name): float(weight) for name, weight in route.items()} if numbers else {}
    if not any(weights.values()) or not all(0 <= weight < math.inf for weight in weights.values()):
        raise UserError(
            f"method '{method.name}' routes a sample to {route!r:.200}; a route is the name of an expert, or a "
            "dictionary of experts with weights that are finite, 0 or more, and not all 0"
        )
    largest = sorted(((n, w) for n, w in weights.items() if w), key=lambda pair: (-pair[1], pair[0]))
    return largest[0][0] if len(largest) == 1 and largest[0][1] == 1 else tuple(largest)


def routes_of(methods: Sequence[Method], samples: Sequence[Sample], task: str | None) -> Sequence[str | Weights | None]:
    """The route of each sample; `task` is only used where a method declares `Method.needs_task_id`.

    Raises:
        UserError: a method returns something else, or needs the task and it is None.
    """
    for method in methods:
        if method.needs_task_id():
            if task is None:
                raise UserError(f"method '{method.name}' needs the task of each question: say which it is")
            return [expert_by(method, task) or BASE] * len(samples)
        routes = method.route(samples)
        if routes is not None:
            if not isinstance(routes, Sequence) or isinstance(routes, str) or len(routes) != len(samples):
                raise UserError(
                    f"route of the method '{method.name}' returns {kind_of(routes)} for {len(samples)} samples; "
                    "expected one route per sample, or None"
                )
            return [_settled(route, method) for route in routes]
    return [None] * len(samples)
