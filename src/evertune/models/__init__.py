"""Large multimodal models: `load_lmm` takes a preset's name or a checkpoint folder, `wrap` a loaded model."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.assets import Progress
from evertune.models.families import FAMILIES, Family, refuse_options
from evertune.models.presets import PRESETS, has_weights, model_config, model_folder
from evertune.models.quantization import quantization_of, refuse_missing
from evertune.utils.arguments import named_arguments
from evertune.utils.errors import UserError, kind_of
from evertune.utils.files import read_json
from evertune.utils.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch

    from evertune.models.meta import MetaLMM
    from evertune.models.protocol import LMM

__all__ = [
    "PRESETS",
    "has_weights",
    "images_taken",
    "load_lmm",
    "load_on_paper",
    "model_config",
    "model_folder",
    "model_identity",
]


@named_arguments
def load_lmm(
    name: str | Path,
    *,
    seed: int = 0,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
    adapter_mode: str | None = None,
    progress: Progress | None = None,
) -> LMM:
    """Load a model for training and asking.

    Args:
        name: a preset (`evertune ls models`), a checkpoint folder or a hub id.
        seed: decides what is random in new trainable parameters; the base model's answers don't depend on it.
        dtype: 'auto' (measured), 'float32' or 'bfloat16', or torch's own; of the frozen LM, what trains is always
            float32.
        device: such as 'cpu' or 'cuda:1', or torch's own; default: the GPU when there is one.
        options: what trains, for families that leave it open, and whether the LM is quantized
            (`evertune.models.scopes.Scope`).
        adapter: folder or hub id of a PEFT adapter that the model begins with; also `options["adapter"]`.
        adapter_mode: 'continue' (default) trains that adapter on, 'stack' trains a new one beside it, 'merge' adds it
            to the weights first; also `options["adapter_mode"]`.
        progress: called while weights are downloaded or converted.
    """
    from evertune.models.auto_dtype import pick_dtype
    from evertune.utils.device import pick_device

    _refuse_other_kinds(name, options)
    name = str(name)
    given = {"adapter": str(adapter) if adapter else None, "adapter_mode": adapter_mode}
    options = {**(options or {}), **{key: value for key, value in given.items() if value is not None}}
    family = _family(model_config(name, progress=progress))
    refuse_options(name, family, options)
    refuse_missing(quantization := quantization_of(options))
    place = pick_device(device)
    number = pick_dtype(dtype, place)
    if family.large and not (has_weights(name) and _surely_fits(name, place)):
        from evertune.models.meta import refuse_too_large

        refuse_too_large(load_on_paper(name, options=options), dtype=number, device=place)
    folder = model_folder(name, progress=progress)
    quiet_libraries()
    if not family.in_library:
        module, _, function = family.maker.partition(":")
        make = getattr(importlib.import_module(module), function)
        return make(folder, name=name, seed=seed, dtype=number, device=place)  # type: ignore[no-any-return]
    from evertune.models.wrap import as_lmm, from_folder

    model, processor = from_folder(folder, dtype=number, device=place, quantization=quantization)
    return as_lmm(model, processor, name=name, seed=seed, options=options)


def _refuse_other_kinds(name: Any, options: Any) -> None:
    """Raise where the model's name or its options are something else.

    Raises:
        UserError: they are.
    """
    if not isinstance(name, str | Path):
        already = ", which is loaded: use it as it is" if hasattr(name, "collate") else ""
        raise UserError(
            f"the model is {kind_of(name)}{already}; load_lmm takes a preset's name, a checkpoint folder or a hub id, "
            "and evertune.wrap(model, processor) a loaded model of transformers"
        )
    if not isinstance(options, Mapping | None):
        raise UserError(f"options is {kind_of(options)}; taken is a dictionary, such as options={{'scope': 'lora'}}")


def _surely_fits(name: str, place: torch.device) -> bool:
    from evertune.models.meta import surely_fits

    return surely_fits(model_folder(name), device=place)


def images_taken(name: str) -> range:
    """How many images a sample may have for a model, before its weights are fetched or loaded."""
    return (FAMILIES[PRESETS[name]["family"]] if name in PRESETS else _family(model_config(name))).images_per_sample


def load_on_paper(name: str, *, options: Mapping[str, Any] | None = None) -> MetaLMM:
    """A large model without weights: its sizes, for `evertune plan`.

    Raises:
        UserError: the model can't be found, or is of a family without a configuration of the library (smol).
    """
    from evertune.models.meta import on_paper

    quiet_libraries()
    file = model_config(name)
    family = _family(file)
    refuse_options(name, family, options)
    return on_paper(file, name=name, options=options)


def model_identity(name: str, options: Mapping[str, Any], *, progress: Progress | None = None) -> dict[str, Any]:
    """What decides a model as far as small files say: its `config.json`, and the files of an adapter."""
    content: dict[str, Any] = read_json(model_config(name, progress=progress))
    if options.get("adapter"):
        from evertune.models.peft_adapters import adapter_digest

        content = {**content, "adapter": adapter_digest(str(options["adapter"]))}
    return content


def _family(config: Path) -> Family:
    """The family of a checkpoint's config.json."""
    content = read_json(config)
    family = content.get("family") or content.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{config}: evertune has no family {family!r}; it has: {', '.join(FAMILIES)}")
    return FAMILIES[family]
