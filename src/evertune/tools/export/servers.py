"""Adapters as vLLM, SGLang and LMDeploy read them: `evertune export RUN --to FOLDER --for vllm`.

    FOLDER/01-gqa/adapter_config.json   a folder per adapter; its name is the `model` of a request
    FOLDER/02-vizwiz/...

These servers take low-rank matrices of the language model only, with one rank and one scale for all layers, and layers
by the last part of their names. So ranks are filled up with zeros and scales go into B, which changes no product; what
lies elsewhere is left out and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evertune.tools.export.base import KEY
from evertune.utils.errors import UserError, unknown

if TYPE_CHECKING:
    from evertune.tools.export.adapters import Adapter

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""
ALL = '$(for each in FOLDER/*/; do echo "$(basename $each)=$each"; done)'
COMMANDS: Mapping[str, str] = {
    "vllm": "export VLLM_ALLOW_RUNTIME_LORA_UPDATING=true VLLM_PLUGINS=lora_filesystem_resolver\n"
    "export VLLM_LORA_RESOLVER_CACHE_DIR=FOLDER\n"
    "vllm serve {base} --enable-lora --max-lora-rank {vllm_rank}",
    "sglang": "python -m sglang.launch_server --model-path {base} --enable-lora --max-lora-rank {rank} \\\n"
    "  --lora-target-modules {modules} --lora-paths {all}",
    "lmdeploy": "lmdeploy serve api_server {base} --backend pytorch --adapters {all}",
}
LOADING = """```sh
{command}
```

FOLDER is the absolute path of this folder. A request chooses an adapter as its `model`: {names}.{dropped}"""


@dataclass(frozen=True, slots=True)
class ServerAdapter:
    """The files of an adapter for a server.

    Attributes:
        dropped: what was trained and the server does not get, in words.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def refuse_unknown_server(name: str) -> None:
    """Raise if there is no such server.

    Raises:
        UserError: with the names that there are.
    """
    if name not in COMMANDS:
        raise unknown("server", name, list(COMMANDS))


def for_server(adapter: Adapter, config: Mapping[str, Any], model: nn.Module) -> ServerAdapter:
    """The part of an adapter that a server computes, in the form that it reads.

    Args:
        adapter: of a stage.
        config: the content of its `adapter_config.json` for peft.
        model: the library's model.

    Raises:
        UserError: nothing is left of it, or it is of DoRA.
    """
    if adapter.dora:
        raise UserError("DoRA is no sum of low-rank matrices, and these servers refuse it: export the run whole")
    language = language_of(model)
    own = {name: rank for name, rank in adapter.ranks.items() if name.startswith(f"{language}.")}
    dropped = _dropped(adapter, own)
    if not own:
        raise UserError(
            f"no low-rank matrix of this run is in the language model, where servers take them (trained: "
            f"{'; '.join(dropped)}): export the run whole, without --for"
        )
    rank = max(own.values())
    plain = len({(own[name], adapter.alphas[name]) for name in own}) == 1
    tensors: dict[str, Tensor] = {}
    for name, own_rank in own.items():
        up, down = (adapter.tensors[f"{KEY}{name}.lora_{part}.weight"] for part in "BA")
        if not plain:
            up = up * (adapter.alphas[name] / own_rank)
            up, down = _filled(up, rank, dim=1), _filled(down, rank, dim=0)
        tensors |= {f"{KEY}{name}.lora_A.weight": down, f"{KEY}{name}.lora_B.weight": up}
    alpha = adapter.alphas[next(iter(own))] if plain else rank
    about: dict[str, Any] = {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in own}),
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }
    return ServerAdapter({**config, **about}, tensors, dropped)


def language_of(model: nn.Module) -> str:
    """The path of the language model, without its head, in the library's model."""
    decoder = model.get_decoder()  # type: ignore[operator]
    return str(next(name for name, module in model.named_modules() if module is decoder))


def _dropped(adapter: Adapter, own: Mapping[str, int]) -> tuple[str, ...]:
    """What a server does not get: layers with low-rank matrices by their part of the model, then whole modules."""
    parts: dict[str, int] = {}
    for name in adapter.ranks:
        if name not in own:
            part = ".".join(name.split(".")[:2])
            parts[part] = parts.get(part, 0) + 1
    low = [f"low-rank matrices of {count} layers in {part}" for part, count in parts.items()]
    whole = [f"{name}, trained whole" for name in sorted(adapter.whole)]
    beside = sorted({name.rpartition(".")[0] for name in adapter.beside})
    return (*low, *whole, *(f"{name}, which is no part of the library's model" for name in beside))


def _filled(matrix: Tensor, rank: int, *, dim: int) -> Tensor:
    """Rows or columns of zeros up to a rank."""
    shape = list(matrix.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dim).contiguous()


def loading(server: str, base: str, made: Sequence[ServerAdapter], names: Sequence[str]) -> str:
    """The part of the card that says how the server is started."""
    rank = max(each.config["r"] for each in made)
    fits = next((each for each in RANKS if each >= rank), rank)
    modules = " ".join(sorted({module for each in made for module in each.config["target_modules"]}))
    command = COMMANDS[server].format(base=base, rank=rank, vllm_rank=fits, modules=modules, all=ALL)
    lacks = dropped_by(made)
    dropped = f"\n\nThe server answers without {'; '.join(lacks)}." if lacks else ""
    some = ", ".join(f"`{name}`" for name in names[:3]) + (" ..." if len(names) > 3 else "")
    return LOADING.format(command=command, names=some, dropped=dropped)


def dropped_by(made: Sequence[ServerAdapter]) -> tuple[str, ...]:
    """What was trained and the server does not get, of all adapters."""
    return tuple(dict.fromkeys(what for each in made for what in each.dropped))
