"""A PEFT adapter as the start of a run: continue it, stack a new one on it, or merge it into the model first.

The layers are put in place by peft itself, from a folder or from a `PeftModel` in memory. Of `adapter_config.json` only
the options listed here are used; others (other code, changed base weights) are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evertune.models.adapters import LARGEST_RANK
from evertune.models.file_bounds import MOST_BYTES_OF_TEXT, reading, refuse_unbounded
from evertune.models.fingerprints import as_text, weights_digest
from evertune.models.hub import PICKLES, adapter_folder, is_hub_id
from evertune.models.scopes import MODES, NEW, STACKED_ON, Scope
from evertune.utils.errors import UserError, unknown
from evertune.utils.files import digest, digest_of_file, read_object
from evertune.utils.safetensors_header import read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AS = {"continue": NEW, "stack": STACKED_ON}
_DECIDING = (
    *("r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("use_dora", "use_rslora", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "lora_dropout"),
)
_NO_EFFECT = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
_NO_EFFECT |= {"inference_mode", "megatron_core", "qalora_group_size", "runtime_config"}
"""Keys that are not used: the model is loaded already, and weights follow."""


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter as it is stored.

    Attributes:
        config: peft's, with `_DECIDING` alone.
        tensors: by peft's names.
        base: the model that it was trained on, as it says; empty where it does not.
        where: what messages call it.
    """

    config: Any
    tensors: Mapping[str, Tensor]
    base: str
    where: str

    @property
    def fingerprint(self) -> str:
        """Hash of its weights and of what decides their effect."""
        kept = {key: _plain(getattr(self.config, key, None)) for key in _DECIDING}
        return digest(weights_digest(self.tensors), as_text(kept))


def read_adapter(source: str) -> PeftAdapter:
    """Read an adapter from its folder or hub id.

    Raises:
        UserError: there is none, it is no LoRA or DoRA, a pickle, or it has options that are not supported.
    """
    from safetensors.torch import load_file

    folder = _folder_of(source)
    refuse_unbounded(folder)
    config, base = _config(folder / CONFIG)
    if not (path := folder / WEIGHTS).is_file():
        pickled = next((p.name for p in folder.iterdir() if p.suffix in PICKLES), None)
        why = f"{pickled} is a pickle, which can run code: save the adapter as safetensors" if pickled else "not there"
        raise UserError(f"{path}: {why}")
    with reading(f"{path} can't be read as an adapter"):
        read_header(path)
        return PeftAdapter(config, load_file(path), base, str(folder))


def adapter_digest(source: str) -> str:
    """Hash of an adapter's files, for the identity of a run whose model is not loaded.

    Raises:
        UserError: there is none.
    """
    folder = _folder_of(source)
    files = [path for path in (folder / CONFIG, folder / WEIGHTS) if path.is_file()]
    return digest(*(digest_of_file(path) for path in files))


def planned_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model on the meta device: an adapter that is continued trains its own matrices."""
    kept = {key: value for key, value in options.items() if not key.startswith("adapter")}
    if not options.get("adapter") or mode_of(options) != "continue":
        return kept
    config, _ = _config(_folder_of(str(options["adapter"])) / CONFIG)
    named = config.target_modules if isinstance(config.target_modules, set) else None
    targets = {"target_modules": ",".join(sorted({n.rpartition(".")[2] for n in named}))} if named else {}
    return {"scope": _part(config), **kept, "r": config.r, "lora_alpha": int(config.lora_alpha), **targets}


def mode_of(options: Mapping[str, Any]) -> str:
    """How an adapter is used: 'continue' where the user says nothing.

    Raises:
        UserError: there is no such mode, or a mode without an adapter.
    """
    mode = str(options.get("adapter_mode", "continue"))
    if mode not in MODES:
        raise unknown("model.adapter_mode", mode, MODES)
    if "adapter_mode" in options and not options.get("adapter"):
        raise UserError(f"model.adapter_mode={mode} needs an adapter: give model.adapter=FOLDER")
    return mode


def refuse_foreign(adapter: PeftAdapter, name: str) -> None:
    """Stop when an adapter was trained on a model of another name; the owner of a hub id is not compared.

    Raises:
        UserError: with both names.
    """
    theirs, ours = (text.rstrip("/").rpartition("/")[2] for text in (adapter.base, name))
    if theirs and ours and theirs.lower() != ours.lower():
        raise UserError(
            f"{adapter.where} is an adapter of {adapter.base}, the model is {name}: take its own base model; if both "
            f"are the same, say so in its {CONFIG} (base_model_name_or_path)"
        )


def _put_on(model: Any, adapter: PeftAdapter, *, as_name: str) -> Any:
    """The `PeftModel` of `model`, changed in place, with an adapter of a folder.

    Raises:
        UserError: target modules are missing, or shapes or names of weights are others.
    """
    from peft import PeftModel, set_peft_model_state_dict

    wrong = f"{adapter.where} does not fit {type(model).__name__}"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), reading(wrong):
        warnings.simplefilter("ignore")
        made = PeftModel(model, adapter.config, adapter_name=as_name)
        found = set_peft_model_state_dict(made, dict(adapter.tensors), adapter_name=as_name)
        missing = [key for key in found.missing_keys if ".lora_" in key and f".{as_name}" in key]
    if missing or found.unexpected_keys:
        name = (missing or found.unexpected_keys)[0]
        raise UserError(f"{wrong}: {'it lacks' if missing else 'the model has no place for'} the weights {name}")
    return made


def _in_memory(peft_model: Any) -> PeftAdapter:
    """The one active adapter of a `PeftModel`.

    Raises:
        UserError: there are several, or it is no LoRA or DoRA.
    """
    from peft import LoraConfig, get_peft_model_state_dict

    active = list(peft_model.active_adapters)
    if len(active) != 1 or set(peft_model.peft_config) != set(active):
        raise UserError(
            f"the PeftModel has the adapters {', '.join(peft_model.peft_config)}: evertune takes one that is active; "
            "delete the others (delete_adapter), or merge them first (merge_and_unload)"
        )
    (name,) = active
    config = peft_model.peft_config[name]
    _refuse_options(config.to_dict(), "the PeftModel")
    tensors = get_peft_model_state_dict(peft_model, adapter_name=name)
    kept = {key: value for key in _DECIDING if (value := getattr(config, key, None)) is not None}
    return PeftAdapter(LoraConfig(**kept), {n: t.detach().clone() for n, t in tensors.items()}, "", "the PeftModel")


def base_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model below adapters, by their names without them."""
    kept = {n: t for n, t in state.items() if ".lora_" not in n and ".modules_to_save." not in n}
    return {name.replace(".base_layer.", ".").replace(".original_module.", "."): t for name, t in kept.items()}


class Begun(NamedTuple):
    """A plain model that begins with an adapter, or without one.

    Attributes:
        model: with the layers of peft in it, unless the adapter was merged.
        weights: what is below the adapter; None for all weights of the model.
        adapter: None where there is none, or it was merged.
        options: of `Scope`.
    """

    model: Any
    weights: Mapping[str, Tensor] | None
    adapter: PeftAdapter | None
    options: Mapping[str, Any]


def begin(model: Any, options: Mapping[str, Any], *, name: str, connector: tuple[str, ...] | None) -> Begun:
    """Put the adapter that `options` names, or that a `PeftModel` has, into a model as `adapter_mode` says.

    Args:
        model: of `transformers`, or a `PeftModel` of one; changed in place.
        options: of the model.
        name: of the model, for messages.
        connector: prefixes of the connector's parameters; None for a family without low-rank matrices of its own.

    Raises:
        UserError: the adapter can't be read, is of another model or does not fit, or the options make no sense with it.
    """
    if given := not is_plain(model):
        if "adapter" in options:
            raise UserError("the PeftModel has an adapter already: leave out adapter=, or give the plain model")
        options = {**options, "adapter": "the PeftModel's"}
    mode = mode_of(options)
    if not options.get("adapter"):
        return Begun(model, None, None, options)
    adapter = _in_memory(model) if given else read_adapter(str(options["adapter"]))
    refuse_foreign(adapter, name)
    if connector is None and mode != "merge":
        raise UserError(f"{name} has no low-rank matrices of its own: take model.adapter_mode=merge ")
    if mode == "merge":
        made = model if given else _put_on(model, adapter, as_name=NEW)
        others = {key: value for key, value in options.items() if not key.startswith("adapter")}
        return Begun(_plain_again(made.merge_and_unload()), None, None, others)
    assert connector is not None
    scope = scope_options(options, adapter, mode=mode, connector=connector)
    weights = base_weights(plain_of(model).state_dict())
    base = _plain_again(model.unload()) if given else model
    return Begun(_laid_open(_put_on(base, adapter, as_name=_AS[mode]), _AS[mode]), weights, adapter, scope)


def is_plain(model: Any) -> bool:
    """Whether a model is no `PeftModel`."""
    from peft import PeftModel

    return not isinstance(model, PeftModel)


def plain_of(model: Any) -> Any:
    """The model of the library in a `PeftModel`; another as it is."""
    return model if is_plain(model) else model.get_base_model()


def _plain_again(model: Any) -> Any:
    vars(model).pop("peft_config", None)
    return model


def _laid_open(peft_model: Any, name: str) -> Any:
    """The plain model with peft's layers in it; modules that the adapter trained in full take their own places."""
    from peft.utils.other import ModulesToSaveWrapper

    model = peft_model.get_base_model()
    for path, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            above, _, last = path.rpartition(".")
            setattr(model.get_submodule(above), last, module.modules_to_save[name])
    return _plain_again(model)


def scope_options(
    options: Mapping[str, Any], adapter: PeftAdapter, *, mode: str, connector: tuple[str, ...]
) -> dict[str, Any]:
    """The options of `Scope` with an adapter; one that is continued decides rank and layers itself.

    Raises:
        UserError: an option that the adapter decides, or a scope without the low-rank matrices that `mode` is about.
    """
    given = {key: value for key, value in options.items() if not key.startswith("adapter")}
    own = _part(adapter.config)
    if mode == "continue":
        for key in ("r", "lora_alpha", "target_modules"):
            if key in given:
                raise UserError(
                    f"model.{key}: an adapter that is continued has its own; leave it out, or stack a new one"
                )
        also = any(f".{part.rstrip('.')}" in name for part in connector for name in adapter.tensors)
        given = {"scope": f"projection+{own}" if also else own, **given}
    scope = Scope(scope=str(given.get("scope", Scope().scope)))
    wanted = (own,) if mode == "continue" else ("lora", "dora")
    if scope.low_rank not in wanted:
        raise UserError(
            f"model.scope={scope.scope} does not train what model.adapter_mode={mode} is about: add "
            f"'{' or '.join(wanted)}' to it, or take model.adapter_mode=merge"
        )
    return {**given, "adapter": adapter.where, "adapter_mode": mode}


def _part(config: Any) -> str:
    return "dora" if config.use_dora else "lora"


def _folder_of(source: str) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        if is_hub_id(source):
            return adapter_folder(source)
        raise UserError(f"there is no adapter folder '{source}': give one with {CONFIG} and {WEIGHTS}")
    if not (folder / CONFIG).is_file():
        inner = next(iter(sorted(folder.glob(f"*/{CONFIG}"))), None)
        hint = f"it has adapters of several stages: give one, for example {inner.parent}" if inner else f"no {CONFIG}"
        raise UserError(f"{folder} is no adapter of peft: {hint}")
    return folder


def _config(path: Path) -> tuple[Any, str]:
    from peft import LoraConfig

    if path.stat().st_size > MOST_BYTES_OF_TEXT:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_BYTES_OF_TEXT:,} are read")
    content = read_object(path)
    _refuse_options(content, str(path))
    with reading(f"{path} can't be read as an adapter's configuration"):
        config = LoraConfig(**{key: content[key] for key in _DECIDING if content.get(key) is not None})
        ranks = [config.r, *config.rank_pattern.values()]
    if not all(isinstance(rank, int) and 1 <= rank <= LARGEST_RANK for rank in ranks):
        raise UserError(f"{path}: ranks must be 1 to {LARGEST_RANK:,}")
    return config, str(content.get("base_model_name_or_path") or "")


def _refuse_options(content: Mapping[str, Any], where: str) -> None:
    kind = getattr(content.get("peft_type"), "value", content.get("peft_type"))
    if kind != "LORA":
        raise UserError(f"{where}: an adapter of the kind {kind}; evertune begins with LoRA and DoRA")
    for key, value in content.items():
        plain = not value or value == "none"
        if key not in _NO_EFFECT and key not in _DECIDING and not plain and (key, value) != ("init_lora_weights", True):
            raise UserError(
                f"{where}: {key}={value!r:.60} is not supported: merge the adapter with peft (merge_and_unload), and "
                "give the folder of the result as the model"
            )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def refuse_layers(model: nn.Module) -> None:
    """Stop when a plain model has layers of peft, whose adapter is not known.

    Raises:
        UserError: it has.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise UserError(
            "the model has layers of peft (load_adapter, inject_adapter_in_model): give the PeftModel "
            "(PeftModel.from_pretrained), or the plain model and adapter=FOLDER"
        )
