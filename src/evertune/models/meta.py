"""A model on the meta device: its real classes with its real configuration, sizes without weights.

Enough to know what would train, how much memory that takes and how long it would last; nothing can be computed with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evertune.models.file_bounds import reading, refuse_config
from evertune.models.quantization import NOTHING, Held, planned, quantization_of
from evertune.utils.errors import UserError
from evertune.utils.files import read_json

TRAINED_BYTES = 16
"""Of a trained parameter: weight, gradient and AdamW's two moments, float32 each."""
PHOTOGRAPH = (480, 640)
"""(height, width) that is assumed where the number of visual tokens depends on an image's size."""


@dataclass(frozen=True, slots=True)
class MetaLMM:
    """What is known of a model without weights: the part of the LMM protocol that methods look at before training.

    Attributes:
        language: path of the LM in `model`.
        tower: path of the vision tower.
        opened: {part: names of its parameters}.
        quantized: what of the LM is quantized.
    """

    name: str
    model: Any
    language: str
    tower: str
    opened: Mapping[str, Sequence[str]]
    quantized: Held = NOTHING

    def module(self) -> nn.Module:
        """The model on the meta device."""
        return self.model  # type: ignore[no-any-return]

    def trainable(self) -> dict[str, nn.Parameter]:
        """What would train, by name."""
        wanted = {name for names in self.opened.values() for name in names}
        return {name: p for name, p in self.model.named_parameters() if name in wanted}

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """Named groups of `trainable()`."""
        return self.opened

    def count(self, path: str = "") -> int:
        """Parameters below a path; all of them by default."""
        return sum(p.numel() for name, p in self.model.named_parameters() if name.startswith(path))

    def frozen_bytes(self, dtype: torch.dtype) -> int:
        """Of all that does not train, in memory."""
        trained = sum(p.numel() for p in self.trainable().values())
        return (self.count() - trained - self.quantized.parameters) * dtype.itemsize + self.quantized.bytes

    def lm_compute(self) -> int:
        """Parameters of the LM that every token passes: all but the table of word embeddings, with the head."""
        lm = self.model.get_submodule(self.language)
        words = self.model.get_input_embeddings().weight.numel()
        inside = sum(p.numel() for p in lm.parameters())
        text = self.model.config.get_text_config()
        head = text.vocab_size * text.hidden_size
        has_head = any(name.endswith("lm_head.weight") for name, _ in lm.named_parameters())
        return int(inside - words + (0 if has_head else head))

    def bytes_per_image(self) -> int:
        """Of the features of an image, in half precision."""
        return 2 * kept_values(self.model.config)

    def encode_compute(self) -> float:
        """Operations of the vision tower for an image: 2 per parameter and row."""
        return 2.0 * self.count(self.tower) * tower_rows(self.model.config)

    def visual_tokens(self) -> int:
        """Visual tokens of an image for the LM; of a photograph of 640 x 480 where its size decides."""
        return visual_tokens(self.model.config)


def on_paper(file: Path, *, name: str, options: Mapping[str, Any] | None = None) -> MetaLMM:
    """The model of a `config.json`, without weights.

    Raises:
        UserError: the configuration can't be read, or an option makes no sense.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    refuse_config(file)
    model_type = read_json(file).get("model_type")
    with reading(f"{file} can't be read as a configuration"):
        config = AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                config, dtype=torch.bfloat16, attn_implementation="eager", trust_remote_code=False
            )
            return _opened(model, model_type, name=name, options=options or {})


def _opened(model: Any, model_type: str, *, name: str, options: Mapping[str, Any]) -> MetaLMM:
    quantized = planned(model, quantization_of(options))
    if model_type in ("instructblip", "blip-2"):
        from evertune.models.instructblip import parts_of

        opened = parts_of([n for n, _ in model.named_parameters()])
        return MetaLMM(name, model, "language_model", "vision_model", opened, quantized)
    from evertune.models.connectors import KINDS
    from evertune.models.peft_adapters import planned_options
    from evertune.models.scopes import open_up, scope_of

    kind = KINDS[model_type]
    language, tower = f"model.{kind.language}", f"model.{kind.tower}"
    connector = [f"model.{part}" for part in kind.connector.parts]
    scope = scope_of(planned_options(options))
    opened = open_up(model, scope, connector=connector, language=language, tower=tower, seed=0)
    return MetaLMM(name, model, language, tower, opened, quantized)


def visual_tokens(config: Any) -> int:
    """Visual tokens of one image, from a configuration."""
    vision, kind = config.vision_config, config.model_type
    if kind in ("instructblip", "blip-2"):
        return int(config.num_query_tokens)
    if kind.startswith("qwen"):
        side = vision.patch_size * vision.spatial_merge_size
        return int((PHOTOGRAPH[0] // side) * (PHOTOGRAPH[1] // side))
    if kind == "gemma3":
        return int(config.mm_tokens_per_image)
    side = vision.image_size[0] if isinstance(vision.image_size, list | tuple) else vision.image_size
    patch = vision.patch_size[0] if isinstance(vision.patch_size, list | tuple) else vision.patch_size
    patches = (side // patch) ** 2
    if kind in ("idefics3", "smolvlm"):
        return int(patches // config.scale_factor**2 * 13)  # 4 x 3 tiles and an overview
    if kind == "internvl":
        return int(patches * config.downsample_ratio**2)
    return int(patches * (5 if kind in ("llava_next", "llava_onevision") else 1))  # 2 x 2 tiles and an overview


def tower_rows(config: Any) -> int:
    """Rows of an image in the vision tower, over all its tiles."""
    vision, kind = config.vision_config, config.model_type
    if kind.startswith("qwen"):
        return int(visual_tokens(config) * vision.spatial_merge_size**2)
    if kind in ("idefics3", "smolvlm"):
        return int(visual_tokens(config) * config.scale_factor**2)
    if kind == "internvl":
        return int(visual_tokens(config) * round(1 / config.downsample_ratio**2))
    if kind in ("instructblip", "blip-2", "gemma3"):
        side = int(vision.image_size // vision.patch_size)
        return side * side + int(kind != "gemma3")
    return visual_tokens(config)


def kept_values(config: Any) -> int:
    """Numbers that are kept of an image: the input of the connector, and a row with the image's size."""
    vision, kind = config.vision_config, config.model_type
    width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
    width *= 1 + len(getattr(vision, "deepstack_visual_indexes", None) or ())
    if kind in ("instructblip", "blip-2"):
        return tower_rows(config) * width
    rows = visual_tokens(config)
    return (rows + 1) * width * (tower_rows(config) // rows if kind != "gemma3" else 1)


def needed_bytes(paper: MetaLMM, dtype: torch.dtype) -> dict[str, int]:
    """Bytes by part that loading a model and training with the smallest batch take at least."""
    trained = sum(p.numel() for p in paper.trainable().values())
    return {
        "frozen weights": paper.frozen_bytes(dtype),
        "trained weights, gradients, AdamW": trained * TRAINED_BYTES,
    }


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return found["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else None


def surely_fits(folder: Path, *, device: torch.device) -> bool:
    """Whether a model fits even if all of it trained, by the size of its files: then nothing need be counted."""
    there = free_bytes(device)
    # At least a byte for each parameter: so this is never too little.
    return there is not None and sum(p.stat().st_size for p in folder.glob("*.safetensors")) * TRAINED_BYTES <= there


def refuse_too_large(paper: MetaLMM, *, dtype: torch.dtype, device: torch.device, free: int | None = None) -> None:
    """Raise when a model can't fit, before anything is loaded.

    Raises:
        UserError: what is needed, what is there, and what would fit.
    """
    there = free_bytes(device) if free is None else free
    parts = needed_bytes(paper, dtype)
    if there is None or sum(parts.values()) <= there:
        return
    listed = ", ".join(f"{gigabytes(size)} {what}" for what, size in parts.items())
    raise UserError(
        f"{paper.name} needs at least {gigabytes(sum(parts.values()))} as {_short(dtype)} ({listed}), and "
        f"{device} has {gigabytes(there)} free. {_what_would_fit(paper, dtype, there)}"
    )


def _what_would_fit(paper: MetaLMM, dtype: torch.dtype, there: int) -> str:
    half = sum(needed_bytes(paper, torch.bfloat16).values())
    if dtype != torch.bfloat16 and half <= there:
        return f"It would fit as bfloat16 ({gigabytes(half)}): --set dtype=bfloat16, in Python dtype='bfloat16'"
    frozen = paper.count() * torch.bfloat16.itemsize
    if frozen <= there and half > there:
        return "Less would have to train: model.scope=projection (--set), or a smaller model.r"
    four = replace(paper, quantized=planned(paper.model, "4bit"))
    if not {"full", "dora"} & set(paper.opened) and sum(needed_bytes(four, torch.bfloat16).values()) <= there:
        return "It would fit with its LM in 4 bits: --set model.quantization=4bit, options={'quantization': '4bit'}"
    return f"Take a smaller model, or a machine with {gigabytes(half)} free (as bfloat16)"


def gigabytes(size: float) -> str:
    """`14.2 GB`, decimal."""
    return f"{size / 1e9:.1f} GB"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
