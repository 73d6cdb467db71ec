"""What trains in a large model, as the user says it: the connector, LoRA or DoRA matrices in the LM, or all of the LM.

`--set model_options.scope=projection+lora`. Everything that trains is float32, whatever the rest is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from evertune.models.adapters import LARGEST_RANK
from evertune.utils.errors import UserError, nearest

PARTS = ("projection", "lora", "dora", "full")


@dataclass(frozen=True, slots=True)
class Scope:
    """The options of a model that decide what trains.

    Attributes:
        scope: parts joined by `+`: 'projection', and one of 'lora', 'dora' (peft, in the LM) or 'full' (the LM without
            its word embeddings).
        r: the rank of LoRA and DoRA.
        lora_alpha: their update is scaled by alpha / r.
        target_modules: names of the LM's linear layers that get them, joined by commas.
    """

    scope: str = "projection+lora"
    r: int = 8
    lora_alpha: int = 16
    target_modules: str = "q_proj,v_proj"

    @property
    def parts(self) -> frozenset[str]:
        """The parts named in `scope`."""
        return frozenset(part.strip() for part in self.scope.split("+"))

    @property
    def adapter(self) -> str | None:
        """'lora' or 'dora' when there is one."""
        return next((part for part in ("lora", "dora") if part in self.parts), None)

    def checked(self) -> Scope:
        """Itself.

        Raises:
            UserError: an unknown part, two parts that exclude each other, or a rank below 1.
        """
        for part in sorted(self.parts - set(PARTS)):
            raise UserError(f"model_options.scope={self.scope}: unknown part '{part}'; {nearest(part, PARTS)}")
        if len(self.parts & {"lora", "dora", "full"}) > 1:
            raise UserError(f"model_options.scope={self.scope}: take one of lora, dora and full")
        if not 1 <= self.r <= LARGEST_RANK:
            raise UserError(f"model_options.r={self.r}: it must be 1 to {LARGEST_RANK:,}")
        return self


def scope_of(options: Mapping[str, Any]) -> Scope:
    """The options as a `Scope`.

    Raises:
        UserError: an option is unknown, of a wrong type or without sense.
    """
    known = {field.name: field for field in fields(Scope)}
    for name, value in options.items():
        if name not in known:
            raise UserError(f"model_options.{name}: unknown option of this model; {nearest(name, known)}")
        wanted = type(getattr(Scope(), name))
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UserError(f"model_options.{name}={value!r}: expected {wanted.__name__}")
    return Scope(**options).checked()


def lora_options(options: Mapping[str, Any]) -> list[str]:
    """The names of those options that set LoRA or DoRA of the model's own."""
    adapter = Scope(scope=str(options.get("scope", ""))).adapter
    wanted = {"r", "lora_alpha", "target_modules"} | ({"scope"} if adapter else set())
    return [name for name in options if name in wanted]


def open_up(
    model: nn.Module, scope: Scope, *, connector: Sequence[str], language: str, seed: int
) -> dict[str, list[str]]:
    """Freeze `model`, then make what `scope` names trainable.

    Args:
        model: changed in place.
        scope: what trains.
        connector: prefixes of the connector's parameters.
        language: path of the LM.
        seed: of the low-rank matrices, which start without effect.

    Returns:
        {part: names of its parameters}, 'projection' always among them.

    Raises:
        UserError: a target of LoRA is nowhere in the LM.
    """
    model.requires_grad_(False)
    if scope.adapter:
        _inject(model, scope, language=language, seed=seed)
    names = [name for name, _ in model.named_parameters()]
    members = {
        "projection": [n for n in names if n.startswith(tuple(connector))],
        "lora": [n for n in names if ".lora_" in n],
        "dora": [n for n in names if ".lora_" in n],
        "full": _whole(model, names, language) if "full" in scope.parts else [],
    }
    found = {part: members[part] if part in scope.parts else [] for part in PARTS}
    if found["full"]:
        model.get_submodule(language).float()
    parameters = dict(model.named_parameters())
    for name in (name for part in found.values() for name in part):
        parameters[name].data = parameters[name].data.float()
        parameters[name].requires_grad_(True)
    return {part: members for part, members in found.items() if members or part == "projection"}


def _inject(model: nn.Module, scope: Scope, *, language: str, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    targets = [re.escape(target.strip()) for target in scope.target_modules.split(",")]
    inside = re.compile(rf"{re.escape(language)}\..*\.({'|'.join(targets)})")
    matched = [name for name, _ in model.named_modules() if inside.fullmatch(name)]
    if not matched:
        raise UserError(f"model_options.target_modules={scope.target_modules}: the LM has no layer of these names")
    config = LoraConfig(
        r=scope.r,
        lora_alpha=scope.lora_alpha,
        lora_dropout=0.0,
        target_modules=matched,
        use_dora=scope.adapter == "dora",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)


def _whole(model: Any, names: Sequence[str], language: str) -> list[str]:
    """The LM's parameters without its word embeddings, by which texts are compared, and without a head tied to them."""
    table = model.get_input_embeddings().weight
    shared = {name for name, p in model.named_parameters(remove_duplicate=False) if p is table}
    return [n for n in names if n.startswith((f"{language}.", "lm_head.")) and n not in shared]
