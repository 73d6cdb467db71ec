"""The gradient of every sample of a batch, from one forward and one backward pass.

The gradient of a linear layer's weight is a sum over samples of products of inputs and output gradients; here the sum
is left out. One pass per sample would be many times slower, because small products use a processor badly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evertune.models.protocol import Batch, Output

Gradients = dict[str, Tensor]
"""{name of a parameter: (B, its shape)}."""
AT_ONCE = 16
NUMBERS = 2**26
"""Numbers of one parameter's gradients that are held at once, at most: 256 MB."""


def samples_at_once(parameters: Mapping[str, Tensor]) -> int:
    """Samples of a batch whose gradients fit in bounded memory."""
    return max(1, min(AT_ONCE, NUMBERS // max(p.numel() for p in parameters.values())))


def gradients_of(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batch: Batch,
    of: Callable[[Output], Tensor],
    *,
    count: int,
) -> Gradients | None:
    """∂ of(output)_b / ∂θ for every sample b of `batch`.

    Linear layers, layer norms, embeddings, and parameters that a model repeats along the batch (query tokens).

    Args:
        module: called with `batch`; samples must not influence one another.
        parameters: of `module`, by name.
        batch: of the samples.
        count: B, how many they are.
        of: (B,) what is differentiated, of each sample's output.

    Returns:
        None where this is not possible: a parameter is used in another way, first dimensions are not the samples
        (several images), or a gradient is not finite. This is detected by the sum of the gradients, which must be the
        batch's.
    """
    found: Gradients = {}
    repeated: dict[str, Tensor] = {}
    with _watched(module, parameters, count, found) as others:
        if any(parameters[name].shape[0] != 1 or parameters[name].ndim < 2 for name in others):
            return None
        for name in others:
            repeated[name] = parameters[name].expand(count, *parameters[name].shape[1:])
        try:
            values = of(functional_call(module, repeated, (batch,)))
        except RuntimeError:  # a shape that does not fit: these are no repeated parameters
            return None
        wanted = [*parameters.values(), *repeated.values()]
        whole = (
            torch.autograd.grad(values.sum(), wanted, allow_unused=True)
            if values.requires_grad
            else [None] * len(wanted)
        )
    for name, gradient in zip(repeated, whole[len(parameters) :], strict=True):
        if gradient is not None:
            found[name] = gradient[:, None]
    sums = dict(zip(parameters, whole[: len(parameters)], strict=True))
    return found if _add_up(found, sums) else None


def _add_up(found: Gradients, sums: Mapping[str, Tensor | None]) -> bool:
    """Whether the samples' gradients are parts of the batch's, and all is finite.

    Some are zero but for rounding (a bias of attention's keys): so they are measured by all of them too.
    """
    scale = 1e-5 * torch.stack([g.norm() for g in sums.values() if g is not None] or [torch.zeros(())]).norm()
    for name, whole in sums.items():
        each = found[name].sum(0) if name in found else None
        if whole is None or each is None:
            if each is not None or (whole is not None and whole.any()):
                return False
        elif not (each - whole).norm() <= 1e-3 * whole.norm() + scale:  # nor is it when one is not a number
            return False
    return True


@contextmanager
def _watched(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], count: int, found: Gradients
) -> Iterator[list[str]]:
    """While entered, a backward pass fills `found`; gives the names of parameters that no known layer owns."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    hooks: list[Any] = []
    owned: set[str] = set()
    for layer in module.modules():
        mine = {part: names[id(p)] for part, p in layer.named_parameters(recurse=False) if id(p) in names}
        if mine and type(layer) in _RULES:
            owned.update(mine.values())
            hooks.append(layer.register_forward_pre_hook(partial(_widen, count)))
            hooks.append(layer.register_forward_hook(partial(_listen, mine, count, found)))
    try:
        yield [name for name in parameters if name not in owned]
    finally:
        for hook in hooks:
            hook.remove()


def _widen(count: int, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Numbers of positions are the same for all samples, and looked up once: here once for each."""
    ids = inputs[0]
    if isinstance(layer, nn.Embedding) and ids.ndim > 1 and len(ids) == 1 < count:
        return (ids.expand(count, *ids.shape[1:]), *inputs[1:])
    return None


def _listen(
    mine: Mapping[str, str], count: int, found: Gradients, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> None:
    """Record the inputs, and compute each sample's gradients in the backward pass."""
    read = inputs[0].detach()
    if not output.requires_grad or len(read) != count or read.ndim < 2:
        return  # missing parts are detected by the sum

    def take(back: Tensor) -> None:
        for part, gradient in _RULES[type(layer)](layer, read, back, mine).items():
            name = mine[part]
            found[name] = found[name] + gradient if name in found else gradient

    output.register_hook(take)  # type: ignore[no-untyped-call]


def _of_linear(layer: Any, read: Tensor, back: Tensor, mine: Sequence[str]) -> Gradients:
    del layer
    rows, backs = read.flatten(1, -2) if read.ndim > 2 else read[:, None], _rows(back)
    made = {}
    if "weight" in mine:
        made["weight"] = torch.bmm(backs.transpose(1, 2), rows.to(backs.dtype))
    if "bias" in mine:
        made["bias"] = backs.sum(1)
    return made


def _of_norm(layer: Any, read: Tensor, back: Tensor, mine: Sequence[str]) -> Gradients:
    made = {}
    if "weight" in mine:
        level = nn.functional.layer_norm(read, layer.normalized_shape, eps=layer.eps)
        made["weight"] = _rows(back * level).sum(1)
    if "bias" in mine:
        made["bias"] = _rows(back).sum(1)
    return made


def _of_embedding(layer: Any, read: Tensor, back: Tensor, mine: Sequence[str]) -> Gradients:
    del mine
    count, (size, width) = len(read), layer.weight.shape
    places = (read.flatten(1) + size * torch.arange(count, device=read.device)[:, None]).flatten()
    made = back.new_zeros(count * size, width).index_add_(0, places, back.reshape(-1, width)).view(count, size, width)
    if layer.padding_idx is not None:
        made[:, layer.padding_idx] = 0
    return {"weight": made}


def _rows(values: Tensor) -> Tensor:
    """(B, rows, width)."""
    return values.flatten(1, -2) if values.ndim > 2 else values[:, None]


_RULES: dict[type, Callable[..., Gradients]] = {
    nn.Linear: _of_linear,
    nn.LayerNorm: _of_norm,
    nn.Embedding: _of_embedding,
}
