"""The fingerprint of a model in memory: everything that decides its predictions before any training.

It is made of content, not of files: weights by name, shape, dtype and value, the configuration, the tokenizers, the
chat template and the preparation of images. So a model loaded by evertune and the same model handed over by the caller
have one fingerprint, and a run that began with one resumes with the other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from evertune.utils.files import digest

_NO_EFFECT = {
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "peft_version"),
    *("_attn_implementation", "_attn_implementation_internal", "attn_implementation", "auto_map", "processor_class"),
    *("gradient_checkpointing", "output_attentions", "output_hidden_states", "return_dict"),
}
"""Keys of a configuration that decide no prediction, or that the weights show (the dtype)."""
_TEXT_STATE = ("padding", "truncation")
"""What a call of a tokenizer leaves in it."""
_MOST_THREADS = 8


def content_fingerprint(model: Any, processor: Any, *, weights: Mapping[str, Tensor] | None = None) -> str:
    """Hash of the weights, the configuration and the processor of a `transformers` model as it is in memory.

    `weights`, by default all of the model's, are those below an adapter.
    """
    parts = [as_text(_without_effect(model.config.to_diff_dict()))]
    for name in ("tokenizer", "qformer_tokenizer"):
        if (tokenizer := getattr(processor, name, None)) is not None:
            parts += [name, tokenizer_text(tokenizer)]
    own = {key: value for key, value in vars(processor).items() if isinstance(value, int | float | str | list)}
    images = processor.image_processor.to_dict()
    parts += [as_text(_without_effect(kept)) for kept in (own, images)]
    parts.append(str(getattr(processor, "chat_template", None) or processor.tokenizer.chat_template))
    return digest(weights_digest(model.state_dict() if weights is None else weights), *parts)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and values, whatever device they are on; tensors are hashed side by side."""
    names = sorted(weights)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return digest(*pool.map(lambda name: f"{name} {_tensor_digest(weights[name])}", names))


def _tensor_digest(value: Tensor) -> str:
    here = value.detach().to("cpu").contiguous()
    content: Any = here.reshape(-1).view(torch.uint8).numpy() if here.numel() else b""
    return f"{tuple(here.shape)} {here.dtype} {hashlib.sha256(content).hexdigest()}"


def tokenizer_text(tokenizer: Any) -> str:
    """What decides the token ids of a text."""
    special = as_text(tokenizer.special_tokens_map)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in Python: its vocabulary and its class
        return as_text(tokenizer.get_vocab()) + type(tokenizer).__name__ + special
    content = json.loads(backend.to_str())
    return as_text({key: value for key, value in content.items() if key not in _TEXT_STATE}) + special


def _without_effect(value: Any) -> Any:
    """A configuration without the keys of `_NO_EFFECT`, at any depth, and without what is None."""
    if isinstance(value, Mapping):
        kept = {str(key): _without_effect(inner) for key, inner in value.items() if str(key) not in _NO_EFFECT}
        return {key: inner for key, inner in kept.items() if inner is not None}
    return [_without_effect(inner) for inner in value] if isinstance(value, list | tuple) else value


def as_text(value: Any) -> str:
    """A value as text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, default=str)
