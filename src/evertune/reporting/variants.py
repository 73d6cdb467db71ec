"""Variants: runs of one method that differ in their settings, and the names that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evertune.reporting.matrix import Matrix
from evertune.utils.config_io import setting_text


def settings_of(matrix: Matrix) -> dict[str, Any]:
    """The settings of a run, flat, named as in `--set`: `train.epochs`, `ewc.strength`, `limit`."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        else:
            flat[path.removeprefix("options.")] = value

    walk(matrix.settings, "")
    return flat


def shared_settings(matrix: Matrix) -> dict[str, Any]:
    """What a run shares with its bounds: everything but the options of its methods."""
    return {key: value for key, value in matrix.settings.items() if key != "options"}


def variant_names(matrices: Sequence[Matrix]) -> list[str]:
    """For runs of one method: what is special about each (`strength=1e6`); empty where all are set alike."""
    settings = [settings_of(matrix) for matrix in matrices]
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]
    return [
        ", ".join(setting_text(key, one[key], method=matrix.method) for key in differing if key in one)
        for matrix, one in zip(matrices, settings, strict=True)
    ]
