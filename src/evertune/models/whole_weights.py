"""The weights beside which adapters stand, as what trains: for gradients of the whole matrix W + s B A."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from evertune.models.protocol import TrainableEncoder
from evertune.models.quantization import refuse_quantized
from evertune.utils import distributed
from evertune.utils.errors import UserError


class _Whole:
    """A model whose trained parameters are others than its own."""

    def __init__(self, lmm: TrainableEncoder, parameters: dict[str, nn.Parameter]) -> None:
        self._lmm, self._parameters = lmm, parameters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lmm, name)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Weights of layers, and what trains in full."""
        return self._parameters


@contextmanager
def whole_weights(lmm: TrainableEncoder, layers: Sequence[str], plain: Sequence[str]) -> Iterator[TrainableEncoder]:
    """While entered: the same model, whose `trainable()` is the weight of each of `layers`, and `plain`.

    Args:
        lmm: with adapters.
        layers: names of linear layers in `module()`; the gradient of `LAYER.weight` is that of the adapter's product.
        plain: names of parameters that train in full.

    Raises:
        UserError: frozen weights are sharded, so a process has a part of a gradient only; or they are quantized.
    """
    if distributed.uses_fsdp():
        raise UserError("the gradient of a whole weight is needed, and FSDP shards it: use torchrun or one process")
    own, module = lmm.trainable(), lmm.module()
    for path in layers:
        refuse_quantized(module.get_submodule(path), "the gradient of a whole weight")
    weights: dict[str, nn.Parameter] = {
        f"{path}.weight": cast(Any, module.get_submodule(path)).weight for path in layers
    }
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        yield cast(TrainableEncoder, _Whole(lmm, {**weights, **{name: own[name] for name in plain}}))
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
