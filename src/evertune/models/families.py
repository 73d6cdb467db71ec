"""The families of models by name: the loader of each, and how many images a sample may have. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from evertune.utils.errors import UserError
from evertune.utils.plugins import Registry

ONE, SEVERAL = range(2), range(17)


class Family(NamedTuple):
    """What makes the LMM of a family, imported when it is needed, and how many images a sample may have for it.

    `maker` names a function: of a model and its processor, or of a checkpoint folder where `in_library` is False (the
    model is no class of `transformers`). `options` says whether it takes options of the model (`model_options`: what
    trains), and `large` whether its models may be too large for a machine, so that their size is looked at before they
    are fetched or loaded.
    """

    maker: str
    images_per_sample: range
    options: bool = False
    large: bool = True
    in_library: bool = True


_CHAT = Family("evertune.models.chat:wrap_chat", images_per_sample=SEVERAL, options=True)
_CHAT_ONE = _CHAT._replace(images_per_sample=ONE)
_BUILT_IN = {
    "smol": Family("evertune.models.smol:load_smol", images_per_sample=SEVERAL, large=False, in_library=False),
    "instructblip": Family("evertune.models.instructblip:wrap_instructblip", images_per_sample=SEVERAL),
    "blip-2": Family("evertune.models.instructblip:wrap_instructblip", images_per_sample=SEVERAL),
    "llava": _CHAT_ONE,
    "llava_next": _CHAT_ONE,
    "llava_onevision": _CHAT_ONE,
    "qwen2_vl": _CHAT,
    "qwen2_5_vl": _CHAT,
    "qwen3_vl": _CHAT,
    "idefics3": _CHAT,
    "smolvlm": _CHAT,
    "internvl": _CHAT,
    "paligemma": _CHAT_ONE,
    "gemma3": _CHAT,
}


def _refuse_unusable(_name: str, family: Any) -> None:
    if not isinstance(family, Family):
        raise UserError(f"it is {family!r:.80}, and a family is an evertune.models.families.Family")


FAMILIES: Registry[Family] = Registry("models", _BUILT_IN, check=_refuse_unusable)
"""By `family` or `model_type` in a checkpoint's config.json."""


def refuse_options(name: str, family: Family, options: Mapping[str, Any] | None) -> None:
    """Stop when options are given for a family that has none; any of the library takes adapters and quantization.

    Raises:
        UserError: with their names.
    """
    taken = ("adapter", "adapter_mode", "quantization") if family.in_library else ()
    if not family.options and (given := [key for key in options or () if key not in taken]):
        raise UserError(f"the model {name} has no options: leave out model.{', model.'.join(given)}")
