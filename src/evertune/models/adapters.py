"""Low-rank adapters beside linear layers of any LMM, and the LMM that has them: what LoRA-like methods train.

An adapter is a child of its layer and is added to the layer's output by a forward hook. So no layer is exchanged, names
and families stay as they are, any module may be the adapter (a sum, a mixture), and it can be taken off again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from evertune.models.protocol import LMM, Trainable
from evertune.models.quantization import refuse_quantized
from evertune.models.regions import NAMES as REGIONS
from evertune.models.regions import in_region, is_region
from evertune.models.weights import fingerprint_of, restore
from evertune.utils.errors import UserError
from evertune.utils.files import digest

ADAPTER = "adapter"
"""Name of the child of an adapted layer."""
TOWERS = {"vision_model", "vision_tower", "visual"}
"""Modules of vision towers: their features are cached, so nothing beside their layers could learn."""
TRAINED = "trained"
LARGEST_RANK = 2**16
"""No layer is wider, and a larger rank would fill the memory before any error message."""

MakeAdapter = Callable[[nn.Linear, torch.Generator], nn.Module]
"""A layer, and what is random -> a module that maps the layer's input to what is added to its output."""


class LowRank(nn.Module):
    """s B A x with s = alpha / rank, in float32 whatever the layer computes in (Hu et al. 2021, arXiv 2106.09685).

    A starts as the weight of a linear layer would, B at zero: at first nothing is added. Matrices that don't train may
    be beside them (`keep`): s (B A + Σ_k B_k A_k) x.

    Args:
        layer: the layer that it is beside, (.., in) -> (.., out).
        rank: rows of A, (rank, in), and columns of B, (out, rank).
        alpha: the numerator of s.
        generator: on the CPU; decides A.
    """

    def __init__(self, layer: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(spread(rank, layer.in_features, generator).to(layer.weight.device))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))
        self.mixed: tuple[Tensor, Tensor] | None = None
        """In place of all other matrices: those of several experts side by side (`mixture`)."""

    def keep(self, downs: Sequence[Tensor], ups: Sequence[Tensor]) -> None:
        """Add just these matrices, (n, in) and (out, n) each, to the ones that train. They don't train.

        They are buffers, which there are none of before the first call: what `lora` trains has none.
        """
        device = self.down.device
        self.register_buffer("kept_down", torch.cat([self.down[:0], *(d.to(device) for d in downs)]).detach())
        self.register_buffer("kept_up", torch.cat([self.up[:, :0], *(u.to(device) for u in ups)], dim=1).detach())

    def kept(self) -> tuple[Tensor, Tensor]:
        """(out, n) and (n, in): the matrices of `keep`."""
        up, down = self._buffers.get("kept_up"), self._buffers.get("kept_down")
        return (self.up[:, :0] if up is None else up), (self.down[:0] if down is None else down)

    def own(self) -> tuple[Tensor, Tensor]:
        """(out, r) and (r, in): the matrices that train."""
        return self.up, self.down

    def forward(self, x: Tensor) -> Tensor:
        """(.., in) -> (.., out)."""
        x, (up, down), (kept_up, kept_down) = x.float(), self.mixed or self.own(), self.kept()
        own = self.scale * linear(linear(x, down), up)
        if self.mixed or not len(kept_down):
            return own
        return own + self.scale * linear(linear(x, kept_down), kept_up)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(out, r) and (r, in), whose product times s is what it adds to the layer's weight: kept, then own."""
        (up, down), (own_up, own_down) = self.kept(), self.own()
        return torch.cat([up, own_up], dim=1), torch.cat([down, own_down])


def spread(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """(rows, width) as PyTorch starts the weight of a linear layer: uniform within ± 1 / √width."""
    return (2 * torch.rand(rows, width, generator=generator) - 1) / math.sqrt(width)


class Adapted:
    """The LMM protocol over another LMM: its adapters train, and the scopes that are trained in full; nothing else.

    Made by `attach`. Whatever is not about what trains is answered by the model below.
    """

    def __init__(self, base: LMM, paths: Sequence[str], *, whole: Iterable[str], about: str) -> None:
        self._base = base
        self._paths = tuple(paths)
        self._about = about
        heads = tuple(f"{path}.{ADAPTER}." for path in paths)
        self._own = frozenset(n for n, _ in base.module().named_parameters() if n.startswith(heads))
        self._names = self._own | set(whole)
        self._scopes = {scope: [n for n in names if n in self._names] for scope, names in base.scopes().items()}
        self._held = fingerprint_of(self._hold())

    def _hold(self) -> dict[str, nn.Parameter]:
        """Freeze what the model below would train and this one does not."""
        held = {name: p for name, p in self._base.trainable().items() if name not in self._names}
        for parameter in held.values():
            parameter.requires_grad_(False)
            cast(Any, parameter).held_still = True
        return held

    def __getattr__(self, name: str) -> Any:
        if name == "_base":  # not there yet: while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self._base, name)

    @property
    def adapters(self) -> dict[str, nn.Module]:
        """The adapters, by the name of what they stand beside in `module()`."""
        return {path: getattr(self._base.module().get_submodule(path), ADAPTER) for path in self._paths}

    @property
    def fingerprint(self) -> str:
        """Of the model below, what of it is frozen, how it is adapted, and what adapters have that never trains."""
        buffers = {f"{path}.{n}": b for path, module in self.adapters.items() for n, b in module.named_buffers()}
        return digest(self._base.fingerprint, self._held, self._about, *self._paths, fingerprint_of(buffers))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapters' parameters, and the scopes trained in full."""
        return {name: p for name, p in self._base.module().named_parameters() if name in self._names}

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """The scopes of the model below as far as they train, adapters beside their layers included; `adapters`."""
        return {**self._scopes, "adapters": sorted(self._own)}

    def lr_scale(self, parameter: str) -> float:
        """1 for adapters, which start without effect; else as below."""
        return 1.0 if parameter in self._own else self._base.lr_scale(parameter)


def bare(lmm: LMM) -> LMM:
    """The model without adapters; what it trains by itself trains again."""
    base: LMM = lmm._base if isinstance(lmm, Adapted) else lmm
    for layer in list(base.module().modules()):
        adapter = layer._modules.get(ADAPTER)
        if adapter is not None and hasattr(adapter, "taken_off_by"):
            cast(Any, adapter).taken_off_by.remove()
            delattr(layer, ADAPTER)
    for parameter in base.module().parameters():
        if hasattr(parameter, "held_still"):
            parameter.requires_grad_(True)
            del parameter.held_still
    return base


@contextmanager
def mixture(
    lmm: LMM,
    activate: Callable[[str], None],
    weights: Mapping[str, float],
    *,
    of_layer: Callable[[str, Mapping[str, float]], Mapping[str, float]] = lambda _, weights: weights,
) -> Iterator[None]:
    """While entered, the model computes with several experts at once, each with its weight.

    Each adapter adds the weighted sum of what it adds with each expert; what is trained in full is their weighted mean.
    The trained parameters are not put back: the caller does that.

    Args:
        lmm: changed in place.
        activate: puts the weights of an expert into the model.
        weights: by expert.
        of_layer: a layer and `weights` -> the weights there, for mixtures that differ from layer to layer.

    Raises:
        UserError: an adapter is no pair of low-rank matrices (moelora).
    """
    adapters = lmm.adapters if isinstance(lmm, Adapted) else {}
    if other := next((kind for kind in adapters.values() if not isinstance(kind, LowRank)), None):
        raise UserError(f"experts with a {type(other).__name__} can't be mixed: use adapters that are sums (lora)")
    low_rank = {path: cast(LowRank, adapter) for path, adapter in adapters.items()}
    means: dict[str, Tensor] = {}
    total = sum(weights.values())
    factors: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in low_rank}
    with torch.no_grad():
        there = {path: of_layer(path, weights) for path in low_rank}
        for expert in dict.fromkeys([*weights, *(name for each in there.values() for name in each)]):
            activate(expert)
            if expert in weights:
                share = weights[expert] / total
                for name, parameter in lmm.trainable().items():
                    means[name] = means.get(name, torch.zeros_like(parameter)) + share * parameter
            for path, adapter in low_rank.items():
                if expert in there[path]:
                    up, down = adapter.factors()
                    factors[path].append((there[path][expert] * up, down))
        restore(lmm.trainable(), means)
    try:
        for path, adapter in low_rank.items():
            ups, downs = zip(*factors[path], strict=True)
            adapter.mixed = torch.cat(ups, dim=1), torch.cat(downs)
        yield
    finally:
        for adapter in low_rank.values():
            adapter.mixed = None


@torch.no_grad()
def merged(lmm: LMM) -> LMM:
    """The model without adapters whose layers' own weights do what they did with them; changed in place.

    Raises:
        UserError: an adapter is a mixture (moelora): no weight can do the same; or its layer is quantized.
    """
    if isinstance(lmm, Adapted):
        for path, adapter in lmm.adapters.items():
            layer = cast(nn.Linear, lmm.module().get_submodule(path))
            refuse_quantized(layer, "merging adapters")
            low = cast(LowRank, adapter)
            up, down = low.factors()
            layer.weight.add_((low.scale * up @ down).to(layer.weight.dtype))
    return bare(lmm)


@torch.no_grad()
def merge_peft(module: nn.Module) -> None:
    """Merge the low-rank matrices that peft has put beside layers of `module` into these layers, and take them off."""
    from peft.tuners.lora import LoraLayer

    for path, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            cast(Any, layer).merge()
            above, _, name = path.rpartition(".")
            setattr(module.get_submodule(above), name, layer.get_base_layer())


def attach(lmm: LMM, make: MakeAdapter, *, targets: str, whole: str, seed: int, about: str) -> LMM:
    """Put an adapter beside each target layer of `lmm`; all but the adapters and `whole` is frozen.

    Args:
        lmm: changed in place; adapters that it has already are taken off first.
        make: makes the adapter of one layer.
        targets: `trained` (the linear layers of all that the model trains by itself), or names separated by commas:
            scopes of the model, layers as peft takes them (`q_proj`, the end of a dotted name), or regions of any model
            (`attention`, `mlp`, `last-4`, `one-per-block`). Colons narrow: `attention:last-4`.
        whole: scopes that are trained in full, separated by commas; they get no adapters.
        seed: of what is random in the adapters; each layer has random numbers of its own.
        about: what decides the answers beside the adapters' weights, for the fingerprint.

    Raises:
        UserError: there is no such scope or layer, or no layer is left; the message lists what there is.
    """
    base = bare(lmm)
    full = _whole(base, _words(whole))
    chosen = [path for path in _targets(base, targets) if f"{path}.weight" not in full]
    if not chosen:
        raise UserError(
            f"no layer of {base.name} is left for adapters: target_modules is {targets!r}, and {whole!r} is trained in "
            "full. Name layers, for example target_modules=q_proj,v_proj"
        )
    for path in chosen:
        generator = torch.Generator().manual_seed(int(digest("adapter", str(seed), path)[:8], 16))
        _attach_one(cast(nn.Linear, base.module().get_submodule(path)), make, generator)
    return cast(LMM, Adapted(base, chosen, whole=full, about=about))


def _attach_one(layer: nn.Linear, make: MakeAdapter, generator: torch.Generator) -> None:
    adapter = make(layer, generator)
    layer.add_module(ADAPTER, adapter)
    cast(Any, adapter).taken_off_by = layer.register_forward_hook(_add)


def _add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = cast(nn.Module, layer._modules[ADAPTER])(inputs[0])
    return output + added.to(output.dtype)


def _whole(base: Trainable, words: Sequence[str]) -> set[str]:
    scopes = base.scopes()
    for word in words:
        if word not in scopes:
            raise UserError(f"{base.name} has no scope {word!r} to train in full; it has: {', '.join(scopes)}")
    return {name for word in words for name in scopes[word]}


def _targets(base: Trainable, targets: str) -> list[str]:
    """Names of the target layers in `module()`, in the model's order."""
    layers, scopes = linear_layers(base), base.scopes()
    chosen: set[str] = set()
    for word in _words(targets):
        first, *regions = [part.strip() for part in word.split(":")]
        if first == TRAINED or first in scopes:
            names = base.trainable() if first == TRAINED else scopes[first]
            found = {_layer_of(name) for name in names} & set(layers.values())
        elif is_region(first):
            found, regions = set(layers.values()), [first, *regions]
        else:
            found = {path for shown, path in layers.items() if f".{shown}".endswith(f".{first}")}
        for region in regions:
            found = _in_region(layers, found, region)
        if not found:
            raise UserError(
                f"{base.name} has no linear layer {word!r} for an adapter; it has the scopes "
                f"{', '.join([TRAINED, *scopes])}, the layers {', '.join(sorted({_last(n) for n in layers}))} and the "
                f"regions {REGIONS}"
            )
        chosen |= found
    return [path for path in layers.values() if path in chosen]


def _in_region(layers: Mapping[str, str], paths: set[str], region: str) -> set[str]:
    """Those of `paths` that are in a region of the model (`models/regions.py`)."""
    if not is_region(region):
        return set()
    names = {f"{shown}.weight": path for shown, path in layers.items() if path in paths}
    return {names[name] for name in in_region(list(names), region)}


def linear_layers(base: Trainable) -> dict[str, str]:
    """{name as the model's authors wrote it: name in `module()`} of the linear layers that an adapter can help.

    Not those of a vision tower, unless they train, and not the low-rank matrices that peft has put beside some.
    """
    training = {_layer_of(name) for name in base.trainable()}
    return {
        name.replace(".base_layer", ""): name
        for name, module in base.module().named_modules()
        if isinstance(module, nn.Linear)
        # The second kind is never called: its owner takes its weight.
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and ".lora_" not in name
        and (name in training or not TOWERS & set(name.split(".")))
    }


def _layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to; for peft's low-rank matrices the one that they stand beside."""
    if ".lora_" in parameter:
        return parameter.split(".lora_", maxsplit=1)[0] + ".base_layer"
    return parameter.rpartition(".")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
