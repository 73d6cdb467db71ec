"""Trained weights as points that can be added: where low-rank matrices train, their product is what counts.

The mean of two adapters is that of their products B A. The mean of A times the mean of B is another matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from evertune.models.adapters import ADAPTER, Adapted, LowRank
from evertune.models.protocol import Trainable
from evertune.models.weights import restore
from evertune.utils.errors import UserError

Pair = tuple[Tensor, Tensor]
"""(out, r) B and (r, in) A; the layer's factor s is left out, as it is the same for all pairs of a layer."""
OF_PEFT = re.compile(r"(.+)\.lora_A\.default\.weight")


@dataclass(frozen=True)
class Point:
    """Weights: tensors by name, and by layer the pairs whose products are added to its weight."""

    tensors: dict[str, Tensor]
    pairs: dict[str, list[Pair]]

    def dense(self, layer: str) -> Tensor:
        """(out, in) the sum of a layer's products, float32."""
        ups, downs = zip(*self.pairs[layer], strict=True)
        return torch.cat(ups, dim=1) @ torch.cat(downs)


def combined(points: Sequence[Point], weights: Sequence[float]) -> Point:
    """Σ_k w_k p_k; pairs are put side by side, so nothing is lost."""
    tensors = {
        name: sum((w * p.tensors[name] for p, w in zip(points[1:], weights[1:], strict=True)), weights[0] * value)
        for name, value in points[0].tensors.items()
    }
    pairs = {
        layer: [(w * up, down) for point, w in zip(points, weights, strict=True) for up, down in point.pairs[layer]]
        for layer in points[0].pairs
    }
    return Point(tensors, {layer: shortened(_gathered(found)) for layer, found in pairs.items()})


def _gathered(pairs: Sequence[Pair]) -> list[Pair]:
    """The same sum with one pair for each A."""
    found: list[Pair] = []
    for up, down in pairs:
        same = next((n for n, (_, other) in enumerate(found) if other is down or torch.equal(other, down)), None)
        if same is None:
            found.append((up, down))
        else:
            found[same] = found[same][0] + up, down
    return found


def shortened(pairs: Sequence[Pair]) -> list[Pair]:
    """The same sum in no more rank than the matrix can have; pairs that add nothing are left out."""
    found = [(up, down) for up, down in pairs if up.any() and down.any()]
    up, down = pairs[0]
    most = min(len(up), down.shape[1])
    if sum(len(down) for _, down in found) <= most:
        return found or [(up, down)]
    return [of_matrix(Point({}, {"": found}).dense(""))]


def of_matrix(matrix: Tensor) -> Pair:
    """A pair whose product is the matrix itself, of rank min(out, in)."""
    rows, columns = matrix.shape
    eye = torch.eye(min(rows, columns), device=matrix.device, dtype=matrix.dtype)
    return (matrix, eye) if columns <= rows else (eye, matrix)


class WeightSpace:
    """Reads the trained weights of a model as a `Point`, and puts one into the model.

    Beside an adapter of a method's (`lora`) any point fits: it is kept there in full. The model's own low-rank
    matrices (peft) have one rank, so a point of a higher rank is put there as the nearest one (truncated SVD).

    Args:
        lmm: the model.
        start: its trained weights at the start point, by name.

    Raises:
        UserError: adapters are mixtures, or DoRA trains: their weights have no sum.
    """

    def __init__(self, lmm: Trainable, start: Mapping[str, Tensor]) -> None:
        self._parameters, self._start = lmm.trainable(), start
        found = lmm.adapters if isinstance(lmm, Adapted) else {}
        self.adapters = {path: cast(LowRank, adapter) for path, adapter in found.items()}
        for adapter in self.adapters.values():
            adapter.factors()  # refuses mixtures
        if dora := next((name for name in self._parameters if "lora_magnitude" in name), None):
            raise UserError(f"{dora} trains: the weights of DoRA are no sum that could be merged. Take LoRA instead")
        self.own = {match[1]: match[0] for name in self._parameters if (match := OF_PEFT.fullmatch(name))}
        self.ups = [f"{path}.{ADAPTER}.up" for path in self.adapters]
        self._names = {path: (f"{path}.{ADAPTER}.up", f"{path}.{ADAPTER}.down") for path in self.adapters}
        self._names |= {path: (name.replace(".lora_A.", ".lora_B."), name) for path, name in self.own.items()}
        of_pairs = {name for names in self._names.values() for name in names}
        self.plain = [name for name in self._parameters if name not in of_pairs]

    def start(self) -> Point:
        """The start point."""
        return self._of(self._start, {})

    def point(self) -> Point:
        """A copy of the weights of now."""
        kept = {path: adapter.kept() for path, adapter in self.adapters.items()}
        return self._of({n: p.detach().clone() for n, p in self._parameters.items()}, kept)

    def _of(self, weights: Mapping[str, Tensor], kept: Mapping[str, Pair]) -> Point:
        device = {name: p.device for name, p in self._parameters.items()}
        at = {name: value.to(device[name]) for name, value in weights.items()}
        pairs = {
            layer: [*([kept[layer]] if layer in kept and len(kept[layer][1]) else []), (at[up], at[down])]
            for layer, (up, down) in self._names.items()
        }
        return Point({name: at[name] for name in self.plain}, {k: shortened(p) for k, p in pairs.items()})

    def put(self, point: Point) -> float:
        """Put a point into the model; returns the share of it that did not fit, 0 for adapters of a method."""
        restore(self._parameters, point.tensors)
        lost = total = 0.0
        for layer, pairs in point.pairs.items():
            up, down = (self._parameters[name] for name in self._names[layer])
            fits = len(pairs) == 1 and len(pairs[0][1]) == len(down)
            if layer in self.adapters:
                self.keep(layer, [] if fits else pairs)
                own = pairs[0] if fits else self._empty(layer)
            else:
                own = pairs[0] if fits else _nearest(point.dense(layer), len(down))
                left = (point.dense(layer) - own[0] @ own[1]).square().sum()
                lost, total = lost + float(left), total + float(point.dense(layer).square().sum())
            with torch.no_grad():
                up.copy_(own[0])
                down.copy_(own[1])
        return lost / total if total else 0.0

    def keep(self, layer: str, pairs: Sequence[Pair]) -> None:
        """Add just these pairs to what the adapter of `layer` trains."""
        self.adapters[layer].keep([down for _, down in pairs], [up for up, _ in pairs])

    def _empty(self, layer: str) -> Pair:
        up, down = (self._start[name] for name in self._names[layer])
        return torch.zeros_like(up), down


def _nearest(matrix: Tensor, rank: int) -> Pair:
    """The pair of this rank whose product is nearest to the matrix; both have the same norm."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    missing = max(0, rank - len(root))
    up, down = left[:, :rank] * root, root[:, None] * right[:rank]
    return nn.functional.pad(up, (0, missing)), nn.functional.pad(down, (0, 0, 0, missing))
