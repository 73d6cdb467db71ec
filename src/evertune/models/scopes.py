"""What trains in a large model, as the user says it: the connector, LoRA or DoRA matrices in the LM, or all of the LM.

`--set model.scope=projection+lora`. Everything that trains is float32, whatever the rest is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from evertune.models.adapters import LARGEST_RANK
from evertune.utils.arguments import plain_number
from evertune.utils.errors import UserError, kind_of, nearest

PARTS = ("projection", "lora", "dora", "full")
MODES = ("continue", "stack", "merge")
NEW = "default"
"""Name that peft gives low-rank matrices that train."""
STACKED_ON = "start"
"""Name that it gives an adapter on which new ones are stacked."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The options of a model that decide what trains.

    Attributes:
        scope: parts joined by `+`: 'projection', and one of 'lora', 'dora' (peft, in the LM) or 'full' (the LM without
            its word embeddings).
        r: the rank of LoRA and DoRA.
        lora_alpha: their update is scaled by alpha / r.
        target_modules: names of the LM's linear layers that get them, joined by commas.
        adapter: folder or hub id of a PEFT adapter that the model begins with.
        adapter_mode: 'continue' trains the adapter's own matrices, 'stack' freezes them and trains new ones beside
            them, 'merge' adds them to the weights first.
        quantization: of the LM's frozen linear layers: 'none', '4bit' (NF4 with double quantization, as in QLoRA) or
            '8bit' (LLM.int8()); needs bitsandbytes.
    """

    scope: str = "projection+lora"
    r: int = 8
    lora_alpha: int = 16
    target_modules: str = "q_proj,v_proj"
    adapter: str = ""
    adapter_mode: str = "continue"
    quantization: str = "none"

    @property
    def parts(self) -> frozenset[str]:
        """The parts named in `scope`."""
        return frozenset(part.strip() for part in self.scope.split("+"))

    @property
    def low_rank(self) -> str | None:
        """'lora' or 'dora' when there is one."""
        return next((part for part in ("lora", "dora") if part in self.parts), None)

    def checked(self) -> Scope:
        """Itself.

        Raises:
            UserError: an unknown part, two parts that exclude each other, or a rank below 1.
        """
        for part in sorted(self.parts - set(PARTS)):
            raise UserError(f"model.scope={self.scope}: unknown part '{part}'; {nearest(part, PARTS)}")
        if len(self.parts & {"lora", "dora", "full"}) > 1:
            raise UserError(f"model.scope={self.scope}: lora, dora and full exclude each other; name one of them")
        if not 1 <= self.r <= LARGEST_RANK:
            raise UserError(f"model.r={self.r}: a rank is a whole number from 1 to {LARGEST_RANK:,}")
        return self


def scope_of(options: Mapping[str, Any]) -> Scope:
    """The options as a `Scope`.

    Raises:
        UserError: an option is unknown, of a wrong type or without sense.
    """
    known = {field.name: field for field in fields(Scope)}
    taken: dict[str, Any] = {}
    for name, given in options.items():
        if name not in known:
            raise UserError(f"model.{name}: this model has no such option; {nearest(name, known)}")
        wanted, value = type(getattr(Scope(), name)), plain_number(given)
        if name == "target_modules" and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            value = ",".join(value)  # as peft takes them
        if not isinstance(value, wanted) or isinstance(value, bool):
            kind = "a whole number" if wanted is int else "a text"
            raise UserError(f"model.{name} is {kind_of(value)}; taken is {kind}, such as {getattr(Scope(), name)!r}")
        taken[name] = value
    return Scope(**taken).checked()


def lora_options(options: Mapping[str, Any]) -> list[str]:
    """The names of those options that set LoRA or DoRA of the model's own."""
    own = Scope(scope=str(options.get("scope", ""))).low_rank
    wanted = {"r", "lora_alpha", "target_modules"} | ({"scope"} if own else set())
    if options.get("adapter") and options.get("adapter_mode", "continue") != "merge":
        wanted |= {"adapter"}
    return [name for name in options if name in wanted]


def open_up(
    model: nn.Module, scope: Scope, *, connector: Sequence[str], language: str, tower: str, seed: int
) -> dict[str, list[str]]:
    """Freeze `model`, then make what `scope` names trainable.

    Args:
        model: changed in place.
        scope: what trains.
        connector: prefixes of the connector's parameters.
        language: path of the LM.
        tower: path of the vision tower: its output is cached, so matrices of an adapter in it stay as they are.
        seed: of the low-rank matrices, which start without effect.

    Returns:
        {part: names of its parameters}, 'projection' always among them.

    Raises:
        UserError: a target of LoRA is nowhere in the LM.
    """
    model.requires_grad_(False)
    if scope.low_rank and not (scope.adapter and scope.adapter_mode == "continue"):
        _inject(model, scope, language=language, seed=seed)
    names = [name for name, _ in model.named_parameters()]
    frozen = [n for n in names if n.startswith(f"{tower}.") and not n.startswith(tuple(connector))]
    stacked = scope.adapter and scope.adapter_mode == "stack"
    low_rank = [n for n in names if ".lora_" in n and n not in frozen and (not stacked or f".{NEW}." in f"{n}.")]
    members = {
        "projection": [n for n in names if n.startswith(tuple(connector)) and (".lora_" not in n or n in low_rank)],
        "lora": low_rank,
        "dora": low_rank,
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

    matched = _targets(model, scope.target_modules, language=language)
    config = LoraConfig(
        r=scope.r,
        lora_alpha=scope.lora_alpha,
        lora_dropout=0.0,
        target_modules=matched,
        use_dora=scope.low_rank == "dora",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=NEW)
    if scope.adapter:
        _activate(model, [STACKED_ON, NEW])


def _targets(model: nn.Module, wanted: str, *, language: str) -> list[str]:
    """The layers of the LM that are called so.

    Raises:
        UserError: a name is that of no layer; the message has the nearest one.
    """
    inside = [name for name, _ in model.named_modules() if name.startswith(f"{language}.")]
    linear = {name.rpartition(".")[2] for name in inside if isinstance(model.get_submodule(name), nn.Linear)}
    matched: set[str] = set()
    for target in (target.strip() for target in wanted.split(",")):
        found = [name for name in inside if re.fullmatch(rf".*\.{re.escape(target)}", name)]
        if not found:
            raise UserError(
                f"model.target_modules={wanted}: the LM has no layer called '{target}'; {nearest(target, linear)}"
            )
        matched.update(found)
    return [name for name in inside if name in matched]


def _activate(model: nn.Module, names: list[str]) -> None:
    """Let low-rank matrices of all these names have their effect, in every layer that has them; none trains yet."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter(names)
    model.requires_grad_(False)


def _whole(model: Any, names: Sequence[str], language: str) -> list[str]:
    """The LM's parameters without its word embeddings, by which texts are compared, and without a head tied to them."""
    table = model.get_input_embeddings().weight
    shared = {name for name, p in model.named_parameters(remove_duplicate=False) if p is table}
    inside = (f"{language}.", "lm_head.")
    return [n for n in names if n.startswith(inside) and n not in shared and ".lora_" not in n]
