"""A model of `transformers` as an LMM: `wrap` takes one that the caller has loaded, `from_folder` loads one first.

There is one way from model and processor to the LMM, so both give the same predictions, losses and fingerprint.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from evertune.models import compat
from evertune.models.connectors import KINDS
from evertune.models.families import FAMILIES, refuse_options
from evertune.models.file_bounds import reading, refuse_larger
from evertune.models.fingerprints import content_fingerprint
from evertune.models.hub import refuse_unsafe
from evertune.models.peft_adapters import begin, plain_of, refuse_layers
from evertune.models.presets import model_folder
from evertune.models.processors import load_processor
from evertune.models.protocol import LMM
from evertune.models.quantization import finish, loading_arguments, refuse_for_loaded
from evertune.models.weights import fingerprint_of
from evertune.models.wrap_checks import checked_model, refuse_processor
from evertune.utils.arguments import named_arguments
from evertune.utils.errors import UserError
from evertune.utils.files import digest, read_json
from evertune.utils.quiet import quiet_libraries

_WRAPPED = "evertune_wrapped"
"""Attribute of a model that was wrapped: the LMM, what it was made with, and the hash of what trains at that time."""


@named_arguments
def wrap(model: Any, processor: Any = None, *, name: str | None = None, seed: int = 0, **model_options: Any) -> LMM:
    """Make an LMM of a `transformers` model that is loaded already, and its processor: what `load_lmm` gives.

    The model is used as it is, on its device and in its dtype (float32 or bfloat16), and it is changed in place: its
    parameters are frozen, what `scope` names trains in float32, and on a CPU attention is `eager`, as in `load_lmm`.

    Args:
        model: of a supported family, with its LM head (`AutoModelForImageTextToText`), or a `PeftModel` of one.
        processor: of the same checkpoint (`AutoProcessor`), or the folder or hub id that it is loaded from; by default
            the one of the checkpoint that the model was loaded from.
        name: what the model is called in files and messages; by default its `name_or_path`.
        seed: decides what is random in new trainable parameters.
        model_options: what trains: `scope`, `r`, `lora_alpha`, `target_modules`, and what is done with an adapter that
            the model begins with: `adapter`, `adapter_mode` (`evertune.models.scopes.Scope`).

    Raises:
        UserError: the model is of no supported family or can't be trained as it is (quantised, on several devices, in
            float16), the processor does not fit it, or an option makes no sense.
    """
    quiet_libraries()
    refuse_for_loaded(model_options)
    plain = plain_of(model)
    checked_model(plain)
    called = name or str(getattr(plain, "name_or_path", "") or plain.config.model_type)
    processor = _processor_of(plain, processor)
    refuse_processor(processor, plain)
    if (before := vars(plain).get(_WRAPPED)) is not None:
        return _wrapped_before(before, (seed, model_options))
    if plain is model:
        refuse_layers(plain)
    if plain.device.type == "cpu":
        compat.use_eager_attention(plain)
    lmm = as_lmm(model, processor, name=called, seed=seed, options=model_options)
    vars(plain)[_WRAPPED] = (lmm, (seed, model_options), fingerprint_of(lmm.trainable()))
    return lmm


def as_lmm(model: Any, processor: Any, *, name: str, seed: int, options: Mapping[str, Any]) -> LMM:
    """The LMM of a model and a processor that were looked at before.

    Raises:
        UserError: the processor does not fit the model, or an option makes no sense.
    """
    model_type = plain_of(model).config.model_type
    family = FAMILIES[model_type]
    refuse_options(name, family, options)
    connector = KINDS[model_type].connector.parts if model_type in KINDS else None
    begun = begin(model, options, name=name, connector=connector)
    content = content_fingerprint(begun.model, processor, weights=begun.weights)
    if begun.adapter:
        content = digest(content, begun.adapter.fingerprint, str(begun.options["adapter_mode"]))
    module, _, function = family.maker.partition(":")
    make = getattr(importlib.import_module(module), function)
    return cast(LMM, make(begun.model, processor, name=name, seed=seed, options=begun.options, content=content))


def from_folder(
    folder: Path, *, dtype: torch.dtype, device: torch.device, quantization: str = "none"
) -> tuple[Any, Any]:
    """Model and processor of a checkpoint folder, by the library's own classes; its LM is quantized as it is read.

    Raises:
        UserError: a file is missing, broken or a pickle, or leads elsewhere.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    refuse_unsafe(folder)
    attention = "eager" if device.type == "cpu" else "sdpa"  # faster backward on a CPU for sequences this short
    kind = read_json(folder / "config.json").get("model_type")
    with reading(f"{folder} can't be read as a {kind} checkpoint"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        refuse_larger(folder, AutoModelForImageTextToText)
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            **loading_arguments(config, quantization, dtype=dtype, device=device),
        )
    finish(model)
    processor = load_processor(folder, config)
    refuse_processor(processor, model)
    return (model if quantization != "none" else model.to(device)).eval(), processor


def _processor_of(model: Any, given: Any) -> Any:
    """The processor itself, or the one of a folder, of a hub id, or of where the model was loaded from."""
    if given is not None and not isinstance(given, str | Path):
        return given
    source = str(given or getattr(model, "name_or_path", "") or "")
    if not source:
        raise UserError(
            "the model does not say where it was loaded from: give its processor too, for example "
            "evertune.wrap(model, AutoProcessor.from_pretrained(FOLDER))"
        )
    return load_processor(model_folder(source), model.config)


def _wrapped_before(before: tuple[LMM, Any, str], wanted: Any) -> LMM:
    """The LMM of a model that was wrapped before in the same way, and was not trained since."""
    lmm, made_with, start = before
    if made_with != wanted:
        raise UserError(
            f"{lmm.name} was wrapped before with other options, which changed it in place: load the model again, or "
            "keep these options"
        )
    if fingerprint_of(lmm.trainable()) != start:
        raise UserError(
            f"{lmm.name} was wrapped before and trained since: use the LMM of that time, or load the model again to "
            "begin with its weights"
        )
    return lmm
