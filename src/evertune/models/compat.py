"""Every private way of `transformers` that evertune depends on: where it is, and what happens without it.

All versions are allowed that the suite has passed on (pyproject.toml). A newer one is probed when a model is loaded:
where a private way is gone, the public one is taken, with one warning.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

TESTED = ("5.23", "5.24")
"""Minor versions of transformers that the whole suite has passed on."""


class PrivateApi(NamedTuple):
    """One private way: the module that takes it, what it is of the library, and what is done where it is missing."""

    module: str
    what: str
    fallback: str


PRIVATE = (
    PrivateApi(
        "models/vision_inputs.py",
        "`mm_encoder_outputs`, an argument of forward and generate: visual tokens that were made beforehand",
        "images go through the whole model, `Pixels`",
    ),
    PrivateApi(
        "models/connectors.py",
        "names of towers, connectors and their parts (`multi_modal_projector`, `visual.merger`, `pack_image_features`, "
        "`mm_soft_emb_norm`, ...) and what enters them, read by forward hooks",
        "images go through the whole model, `Pixels`; without the tower's name the checkpoint is refused",
    ),
    PrivateApi(
        "models/compat.py",
        "`get_rope_index`: the multimodal positions of Qwen-VL's tokens, where samples share an image; and the name of "
        "the cache among the arguments of a model",
        "none: the tests compare losses, gradients and answers with those of separate passes",
    ),
    PrivateApi(
        "models/compat.py",
        "`PROCESSOR_MAPPING` and `ProcessorMixin._get_arguments_from_pretrained`: a processor without its video part, "
        "which would need torchvision",
        "`AutoProcessor`, which needs torchvision for some families",
    ),
    PrivateApi(
        "models/compat.py",
        "`MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING`, `PROCESSOR_MAPPING` and `config._attn_implementation`: the classes "
        "that fit a configuration, and how attention is computed, when a loaded model is wrapped",
        "none: a model of another class is refused by the classes that these name",
    ),
    PrivateApi(
        "models/processors.py",
        "`ProcessorMixin._get_num_multimodal_tokens`: how many tokens an image takes, by its size alone",
        "a grey image of this size is prepared, once for all sizes of as many patches",
    ),
    PrivateApi(
        "models/instructblip.py",
        "the parts of an (Instruct)BLIP-2: `vision_model`, `qformer`, `language_projection`, `query_tokens`",
        "none: these names are the checkpoint format of the family",
    ),
    PrivateApi(
        "integrations/transformers.py",
        "the order of a step of a Trainer: `compute_loss` inside `training_step`, `accelerator.sync_gradients` set for "
        "the last micro-batch, clipping and the optimizer after it, `on_step_end` after the optimizer",
        "none: a test compares the weights after each step with those of evertune's own loop",
    ),
    PrivateApi(
        "integrations/trainer_task.py",
        "how a Trainer weighs its loss: `num_items_in_batch`, `model_accepts_loss_kwargs`, `loss_is_scaled_for_ga`, "
        "`current_gradient_accumulation_steps`, `average_tokens_across_devices`; `collate_fn` of its loader",
        "none: the same test",
    ),
)


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
