"""What each stage of a run has trained, as adapters for peft: `evertune export RUN --to FOLDER --adapters`.

    01-gqa/adapter_config.json          low-rank matrices of named layers, modules that were trained whole
           adapter_model.safetensors
           projector.safetensors        smol: its projector is no part of the library's model; adapters merged
           README.md                    the card
    02-vizwiz/...

With a stage there is one adapter, whose files are in FOLDER itself. For a server (`servers.py`) each has its folder.

Apart from `export` because nothing is merged and nothing large is written: a few megabytes per stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from evertune.assets import Progress
from evertune.models.adapters import ADAPTER, LowRank
from evertune.models.protocol import Trainable
from evertune.runs.api import config_of
from evertune.tools.export import servers
from evertune.tools.export.base import KEY, Base, opened
from evertune.tools.export.card import OF_PEFT, card_of
from evertune.tools.export.servers import ServerAdapter
from evertune.utils.errors import UserError
from evertune.utils.files import make_folder, whole_folder, write_atomically, write_json


@dataclass
class Adapter:
    """What peft's two files say.

    Attributes:
        ranks, alphas: of each layer that has low-rank matrices.
        whole: modules that are saved whole.
        tensors: by peft's names.
        beside: what is trained and no part of the library's model, by its names in ours; adapters there are merged.
    """

    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    dora: bool = False
    whole: set[str] = field(default_factory=set)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)

    def config(self, base: Base, model: nn.Module) -> dict[str, Any]:
        """The content of `adapter_config.json`; the classes `AutoPeftModel...` load `base` as the class of `model`."""
        from peft import LoraConfig

        config = LoraConfig(
            r=next(iter(self.ranks.values())),
            lora_alpha=cast(int, next(iter(self.alphas.values()))),
            target_modules=sorted(self.ranks),
            rank_pattern={f"^{name}$": rank for name, rank in self.ranks.items()},
            alpha_pattern={f"^{name}$": alpha for name, alpha in self.alphas.items()},
            modules_to_save=sorted(self.whole) or None,
            use_dora=self.dora,
            base_model_name_or_path=base.name,
            inference_mode=True,
            task_type="CAUSAL_LM" if base.is_smol else None,
            auto_mapping=None
            if base.is_smol
            else {"base_model_class": type(model).__name__, "parent_library": type(model).__module__},
        )
        content = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
        return {**content, "peft_type": "LORA"}


def export_adapters(
    run: Path, out: Path, *, base: Base, stage: int | None, server: str | None = None, progress: Progress | None
) -> tuple[int, list[Path], tuple[str, ...]]:
    """Write one peft adapter per stage of a run, or that of one stage.

    Returns the last stage, their folders, and what was trained but a server does not get.

    Raises:
        UserError: what was trained is no low-rank adapter, or there is no such stage.
        RunFolderError: it is no run, or has no stage yet.
    """
    _refuse_other_start(config_of(run).model_options)
    learner, number = opened(run, stage, progress)
    if stage == 0:
        raise UserError("stage 0 is the base model: it has no adapter")
    learner.load(number)  # refuses a stage that there is not
    apart = stage is None or server is not None
    names = {s.number: f"{s.number:02d}-{s.task}" if apart else "" for s in learner.stages}
    chosen = [s for s in learner.stages if stage is None or s.number == number]
    made: list[ServerAdapter] = []
    with whole_folder(out) as place:
        for one in chosen:
            learner.load(one.number)
            if (expert := learner.expert_of(one.task)) is not None:
                learner.activate(expert)
            made += _write(learner.lmm, make_folder(place / names[one.number]), base, server)
            about = partial(card_of, run, base, OF_PEFT, stage=one.number, expert=expert)
            how = servers.loading(server, base.name, made[-1:], [names[one.number]]) if server else ""
            write_atomically(place / names[one.number] / "README.md", about(loading=how))
        if server:
            how = servers.loading(server, base.name, made, [names[one.number] for one in chosen])
            write_atomically(place / "README.md", about(loading=how))
        elif stage is None:
            write_atomically(place / "README.md", about(adapter=names[chosen[-1].number]))
    return number, [out / names[one.number] for one in chosen], servers.dropped_by(made)


def _refuse_other_start(options: Mapping[str, Any]) -> None:
    if options.get("adapter") and (mode := options.get("adapter_mode", "continue")) != "continue":
        raise UserError(
            f"this run began with an adapter ({mode}): adapters of its stages without that one are another "
            "model; export it whole, without --adapters"
        )


def _write(lmm: Trainable, folder: Path, base: Base, server: str | None) -> list[ServerAdapter]:
    """The files of one adapter; returns it in the form for a server, where one is named."""
    adapter = adapter_of(lmm)
    model = lmm.module().get_submodule(lmm.hf_prefix.rstrip("."))
    config = adapter.config(base, model)
    if server:
        made = servers.for_server(adapter, config, model)
        write_json(folder / "adapter_config.json", made.config)
        write_atomically(folder / "adapter_model.safetensors", save(made.tensors))
        return [made]
    write_json(folder / "adapter_config.json", config)
    write_atomically(folder / "adapter_model.safetensors", save(adapter.tensors))
    if adapter.beside:
        write_atomically(folder / "projector.safetensors", save(adapter.beside))
    return []


@torch.no_grad()
def adapter_of(lmm: Trainable) -> Adapter:
    """What trains in `lmm`, as it is now.

    Raises:
        UserError: there are no low-rank matrices, they are a mixture, or something else trains that peft can't hold.
    """
    made = Adapter()
    module, trained = lmm.module(), lmm.trainable()
    if not any(f".{ADAPTER}." in name or ".lora_" in name for name in trained):
        raise UserError(f"this run trains no low-rank matrices of {lmm.name}: export it whole, without --adapters")
    for path, adapter in getattr(lmm, "adapters", {}).items():
        low = cast(LowRank, adapter)
        up, down = low.factors()
        if path.startswith(lmm.hf_prefix):
            name = path.removeprefix(lmm.hf_prefix).removesuffix(".base_layer")
            _low_rank(made, name, up, down, alpha=low.scale * len(down))
        else:
            weight = cast(nn.Linear, module.get_submodule(path)).weight
            made.beside[f"{path}.weight"] = _plain(weight + (low.scale * up @ down).to(weight.dtype))
    for name, parameter in trained.items():
        if f".{ADAPTER}." in name:
            continue
        if ".lora_" in name:
            _of_peft(made, lmm, module, name, parameter)
        elif name.startswith(lmm.hf_prefix):
            _whole(made, name.removeprefix(lmm.hf_prefix), parameter)
        else:
            made.beside[name] = _plain(parameter)
    if not made.ranks:
        raise UserError(f"no low-rank matrix of this run is in the library's part of {lmm.name}: export it whole")
    _outermost(made, module.get_submodule(lmm.hf_prefix.rstrip(".")))
    return made


def _outermost(made: Adapter, model: nn.Module) -> None:
    """Of modules inside each other the outer one is saved, with all of its weights: peft can't load both."""
    made.whole = {name for name in made.whole if not any(name.startswith(f"{other}.") for other in made.whole)}
    for name in made.whole:
        if inside := next((layer for layer in made.ranks if layer.startswith(f"{name}.")), None):
            raise UserError(
                f"{inside} has low-rank matrices inside {name}, which is trained whole: export the run whole"
            )
        for key, tensor in model.get_submodule(name).state_dict().items():
            made.tensors.setdefault(f"{KEY}{name}.{key}", _plain(tensor))


def _low_rank(made: Adapter, name: str, up: Tensor, down: Tensor, *, alpha: float) -> None:
    made.ranks[name], made.alphas[name] = len(down), alpha
    made.tensors[f"{KEY}{name}.lora_A.weight"] = _plain(down)
    made.tensors[f"{KEY}{name}.lora_B.weight"] = _plain(up)


def _of_peft(made: Adapter, lmm: Trainable, module: nn.Module, name: str, parameter: Tensor) -> None:
    """A matrix that peft has put there itself: under the name that it gives it in a file."""
    path, _, part = name.partition(".lora_")
    layer, plain = cast(Any, module.get_submodule(path)), path.removeprefix(lmm.hf_prefix)
    rank = layer.r["default"]
    made.ranks[plain], made.alphas[plain] = rank, layer.scaling["default"] * rank  # whatever the scale is made of
    made.dora = made.dora or part.startswith("magnitude")
    kept = part.replace(".default.weight", "" if part.startswith("magnitude") else ".weight")
    if (full := f"{KEY}{plain}.lora_{kept}") in made.tensors:
        raise UserError(f"{plain} has low-rank matrices twice, of the model and of the method: export the run whole")
    made.tensors[full] = _plain(parameter)


def _whole(made: Adapter, name: str, parameter: Tensor) -> None:
    above, _, _ = name.rpartition(".")
    if not above:
        raise UserError(f"{name} belongs to no module that peft could save: export the run whole, without --adapters")
    made.whole.add(above)
    made.tensors[KEY + name] = _plain(parameter)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()
