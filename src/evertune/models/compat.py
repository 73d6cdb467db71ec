"""The private ways of `transformers` that evertune depends on, but for those of one file; docs/models.md lists all.

All versions are allowed that the suite has passed on (pyproject.toml). A newer one is probed when a model is loaded:
where a private way is gone, the public one is taken, with one warning.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTED = ("5.23", "5.24")
"""Minor versions of transformers that the whole suite has passed on."""


def installed() -> str:
    """Version of transformers that is imported."""
    import transformers

    return str(transformers.__version__)


def is_tested() -> bool:
    """Whether the suite has passed on the minor version that is installed."""
    return ".".join(installed().split(".")[:2]) in TESTED


def processor_of(folder: Path, config: Any) -> Any:
    """The library's processor of a checkpoint folder, for images and text, without its video part."""
    try:
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

        cls = _without_video(PROCESSOR_MAPPING[type(config)])
    except (ImportError, AttributeError) as problem:
        from transformers import AutoProcessor

        fall_back("a processor can't be loaded without its video part", problem, "loading it whole, with torchvision")
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return cls.from_pretrained(folder, trust_remote_code=False)


def classes_of(config: Any) -> tuple[Any, Any]:
    """The library's classes for the model of a configuration, with its LM head, and for its processor."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)], PROCESSOR_MAPPING[type(config)]


def use_eager_attention(model: Any) -> None:
    """Compute attention as `load_lmm` does on a CPU, whatever the model was loaded with."""
    if model.config._attn_implementation != "eager":
        model.set_attn_implementation("eager")


def new_cache() -> Any:
    """An empty cache of keys and values that keeps every token, also in layers with a sliding window."""
    from transformers import DynamicCache

    return DynamicCache()


def cache_argument(model: Any) -> str:
    """The name of the cache among the arguments of a model: transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def multimodal_positions(base: Any, ids: Any, attention: Any, taken: Mapping[str, Any]) -> Any:
    """(3, n, S) positions of Qwen-VL's tokens, padded on either side; None for a model that simply counts."""
    if not hasattr(base, "get_rope_index"):
        return None
    known = inspect.signature(base.get_rope_index).parameters
    return base.get_rope_index(
        input_ids=ids, attention_mask=attention, **{name: value for name, value in taken.items() if name in known}
    )[0]


def fall_back(what: str, problem: BaseException | str, instead: str) -> None:
    """Warn that a private way is missing, and what is done in its place."""
    reason = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
    warnings.warn(
        f"transformers {installed()}: {what} ({reason}); {instead}. Versions that were tested: {', '.join(TESTED)}",
        stacklevel=3,
    )


def _without_video(cls: Any) -> Any:
    """The processor class, with None for its video processor."""
    parts = cls.get_attributes()
    if "video_processor" not in parts:
        return cls
    _ = cls._get_arguments_from_pretrained  # where it is gone, AttributeError says so here

    class ImagesOnly(cls):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in parts if part != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *arguments: Any, **options: Any) -> list[Any]:
            found: list[Any] = super()._get_arguments_from_pretrained(*arguments, **options)
            found.insert(parts.index("video_processor"), None)
            return found

    ImagesOnly.__name__ = cls.__name__  # the library asks for it in what it reads and writes
    return ImagesOnly
