"""What `wrap` refuses: an object that is no model of a supported family, one that can't train, a foreign processor."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from evertune.models.compat import classes_of
from evertune.models.families import FAMILIES
from evertune.utils.errors import UserError, kind_of

_LOAD = "for example evertune.wrap(AutoModelForImageTextToText.from_pretrained(X), AutoProcessor.from_pretrained(X))"
_TRAINED_IN = (torch.float32, torch.bfloat16)


def checked_model(model: Any) -> None:
    """Stop unless an object is a model of `transformers` that can be trained as it is.

    Raises:
        UserError: it is something else, of a family that is not supported, without a head, quantised, on several
            devices or in a dtype that does not train.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UserError(f"wrap takes a loaded transformers model, given {_given(model)}; {_LOAD}")
    _refuse_family(model)
    _refuse_quantised(model)
    _refuse_devices(model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    for dtype in sorted(dtypes - set(_TRAINED_IN), key=str):
        raise UserError(
            f"the model is in {_short(dtype)}, which does not train without loss scaling: load it with "
            "dtype=torch.bfloat16 or torch.float32"
        )


def _given(value: Any) -> str:
    """What an object is, with what to do where it only wraps a model."""
    for attribute, what in (("_orig_mod", "torch.compile"), ("module", "a parallel wrapper")):
        if isinstance(getattr(value, attribute, None), torch.nn.Module):
            return f"a {type(value).__name__} ({what}): take its .{attribute}"
    if hasattr(value, "trainable") and hasattr(value, "fingerprint"):
        return f"an LMM ({type(value).__name__}), which is wrapped already: use it as it is"
    if hasattr(value, "image_processor"):
        return f"a processor ({type(value).__name__}): the model comes first"
    return f"a string ({value!r}): load_lmm takes names and folders" if isinstance(value, str) else type(value).__name__


def _refuse_family(model: Any) -> None:
    own, known = model.config.model_type, [name for name, family in FAMILIES.items() if family.in_library]
    name = type(model).__name__
    if own not in known:
        text = "" if hasattr(model.config, "vision_config") else ", a model without a vision tower"
        near = difflib.get_close_matches(own, known, n=3, cutoff=0.5) or known
        raise UserError(f"evertune has no family {own!r} ({name}{text}); the nearest: {', '.join(near)}")
    wanted, _ = classes_of(model.config)
    if not isinstance(model, wanted):
        raise UserError(
            f"{name} can't generate answers: load the model as {wanted.__name__} (AutoModelForImageTextToText)"
        )


def _refuse_quantised(model: Any) -> None:
    method = getattr(getattr(model.config, "quantization_config", None), "quant_method", None)
    if method or getattr(model, "is_quantized", False):
        raise UserError(
            f"the model is quantised ({getattr(method, 'value', method) or 'unknown method'}): load it without "
            "quantization_config, with dtype=torch.bfloat16; or evertune.load_lmm(FOLDER, "
            "options={'quantization': '4bit'}) loads the exact checkpoint and quantizes its language model"
        )


def _refuse_devices(model: Any) -> None:
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    places |= {str(tensor.device) for tensor in model.parameters()}
    real = {f"cuda:{place}" if place.isdigit() else place for place in places}
    real = {"cuda:0" if place == "cuda" else place for place in real}
    if len(real) > 1 or real & {"meta", "disk"}:
        raise UserError(
            f"the model is spread over {', '.join(sorted(real))} (device_map): evertune trains a model on one device; "
            "load it without device_map, and several processes share the work (docs/processes.md)"
        )


def refuse_processor(processor: Any, model: Any) -> None:
    """Stop when a processor is not one for this model.

    Raises:
        UserError: it is a tokenizer or an image processor alone, of another class than the model's, or it
            has tokens that the model has no embedding for.
    """
    name, (_, wanted) = type(processor).__name__, classes_of(model.config)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        kind = "a tokenizer" if hasattr(processor, "convert_tokens_to_ids") else "no processor"
        given = name if kind == "a tokenizer" or hasattr(processor, "preprocess") else kind_of(processor)
        raise UserError(
            f"{given} is {kind}: give the processor for images and text, for example "
            "AutoProcessor.from_pretrained(FOLDER)"
        )
    if not isinstance(processor, wanted):
        raise UserError(
            f"{name} does not fit {type(model).__name__}, whose processor is a {wanted.__name__}: take both from one "
            "checkpoint"
        )
    _refuse_tokens(processor, model)


def _refuse_tokens(processor: Any, model: Any) -> None:
    own = str(getattr(processor, "image_token", ""))
    last = max(number for text, number in processor.tokenizer.get_vocab().items() if text != own)
    if last >= (rows := model.get_input_embeddings().weight.shape[0]):
        raise UserError(
            f"the processor does not fit the model: its tokenizer has ids up to {last}, the model has {rows} word "
            "embeddings; take both from one checkpoint, or call model.resize_token_embeddings(len(tokenizer))"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
