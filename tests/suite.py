"""Which tests belong to `make unit` and `make test`: marks that follow from fixtures, parameters and durations."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

import yaml

WITH_A_MODEL = {"tasks", "toy_stream", "lmm", "new_lmm", "features", "store_of", "taught", "colours"}
WITH_A_MODEL |= {"tiny_chat", "tiny_blip", "mini_blip"}
"""Fixtures that load or train a model. In tests/unit what uses one is `slow`."""
OTHER_CHAT_FAMILIES = {"llava_next", "llava_onevision", "qwen2_vl", "qwen3_vl", "idefics3", "internvl"}
"""Their unit tests are `thorough`: each differs little from one of llava, qwen2_5_vl, smolvlm, paligemma and gemma3."""


@functools.cache
def chosen() -> dict[str, dict[str, list[str]]]:
    """By file and function, the parameters that stay in `make test`."""
    found: dict[str, dict[str, list[str]]] = yaml.safe_load(Path(__file__).with_name("thorough.yaml").read_text())
    return found


def marks_of(path: str, function: str, parameters: str, fixtures: Collection[str]) -> set[str]:
    """The marks of a test.

    Args:
        path: of its file, from the repository's root.
        function: its name without parameters.
        parameters: as they stand in brackets behind its name; empty without any.
        fixtures: names of all that it uses.
    """
    stay = chosen().get(path, {}).get(function)
    unit = path.startswith("tests/unit/")
    other = unit and OTHER_CHAT_FAMILIES & set(parameters.split("-"))
    marks = {"thorough"} if other or (stay is not None and parameters not in stay) else set()
    return marks | ({"slow"} if unit and WITH_A_MODEL & set(fixtures) else set())
