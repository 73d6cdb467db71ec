"""Models of random weights in the shapes of published ones, with a processor of bytes: nothing is downloaded.

The sizes come from the configurations in `evertune/models/configs`; only the ids of special tokens are those of the
byte tokenizer. With `toy=True` the same classes have a few thousand weights, for a try on a CPU.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from evertune.data import Sample, Task
from evertune.models.compat import _without_video
from evertune.models.families import FAMILIES

SHAPES = {
    "llava": "llava-1.5-7b-hf",
    "qwen": "Qwen2.5-VL-3B-Instruct",
    "instructblip": "instructblip-vicuna-7b",
}
"""By short name, the preset whose configuration is taken."""
QUESTION, ANSWER = 40, 8
"""Characters, which are tokens here."""
TOY_LM = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
TOY_LM |= {"num_key_value_heads": 2, "vocab_size": 400, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TOY_SIDES = {"num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TOY: dict[str, dict[str, Any]] = {
    "llava": {"text_config": TOY_LM, "vision_config": {**TOY_SIDES, "image_size": 28}},
    "qwen": {
        **TOY_LM,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
    },
    "instructblip": {
        "text_config": TOY_LM,
        "vision_config": {**TOY_SIDES, "image_size": 28},
        "qformer_config": {**TOY_SIDES, "encoder_hidden_size": 32, "vocab_size": 400},
    },
}
CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{{ '</s>' if m['role'] == 'assistant' else ' ASSISTANT:' }}{% endfor %}"
)
IMAGE = {"llava": "<image>", "qwen": "<|vision_start|><|image_pad|><|vision_end|>"}


@dataclass(frozen=True)
class Shape:
    """A built model: the library's objects, and the configuration that they were made from."""

    name: str
    model: Any
    processor: Any
    config: Path


def build(name: str, *, toy: bool, device: torch.device, folder: Path, attention: str) -> Shape:
    """A model with random weights on `device`: bfloat16 on a GPU, float32 on a CPU; its config.json is in `folder`."""
    path = _written(name, toy, folder)
    config = AutoConfig.from_pretrained(path.parent)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    return Shape(name, model.eval(), _processor(name, config, toy), path)


def as_lmm(shape: Shape, options: Mapping[str, Any]) -> Any:
    """The LMM of a shape; its weights are random, so that no hash of them is needed."""
    import importlib

    module, _, maker = FAMILIES[shape.model.config.model_type].maker.partition(":")
    make = getattr(importlib.import_module(module), maker)
    about = {"name": shape.name, "seed": 0, "content": f"random {shape.name}"}
    return make(shape.model, shape.processor, options=options, **about)


def _written(name: str, toy: bool, folder: Path) -> Path:
    import evertune.models

    source = Path(evertune.models.__file__).parent / "configs" / SHAPES[name] / "config.json"
    content = json.loads(source.read_text())
    token = tokenizer()
    ids = {word: token.convert_tokens_to_ids(word) for word in ("<image>", "<|image_pad|>", "<|video_pad|>")}
    if name == "qwen":
        content |= {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"]}
        content["vision_start_token_id"] = token.convert_tokens_to_ids("<|vision_start|>")
        content["vision_end_token_id"] = token.convert_tokens_to_ids("<|vision_end|>")
    else:
        content["image_token_index"] = ids["<image>"]
    for key, value in (TOY[name] if toy else {}).items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and "type" not in value else value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "config.json"


def tokenizer() -> Any:
    """Bytes and special tokens: every text can be written."""
    special = [
        "<pad>",
        "<s>",
        "</s>",
        "<image>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
    ]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate([*special, *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": special[3:]}, replace_extra_special_tokens=False)
    return made


def _processor(name: str, config: Any, toy: bool) -> Any:
    token, side = tokenizer(), config.vision_config.image_size if name != "qwen" else 0
    if name == "instructblip":  # its processor has an image token of its own
        images = transformers.BlipImageProcessorPil(size={"height": side, "width": side})
        queries = config.num_query_tokens
        return transformers.InstructBlipProcessor(images, token, tokenizer(), num_query_tokens=queries)
    token.image_token = "<|image_pad|>" if name == "qwen" else "<image>"
    token.image_token_id = token.convert_tokens_to_ids(token.image_token)
    template = CHAT.replace("IMAGE", IMAGE[name])
    if name == "qwen":
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        unit = (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2
        size = {"shortest_edge": 4 * unit, "longest_edge": (8 if toy else 1280) * unit}
        images = Qwen2VLImageProcessorPil(patch_size=config.vision_config.patch_size, size=size)
        return _without_video(PROCESSOR_MAPPING[type(config)])(images, token, chat_template=template)
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    options["patch_size"] = config.vision_config.patch_size
    return PROCESSOR_MAPPING[type(config)](images, token, chat_template=template, **options)


def task_of(folder: Path, *, name: str = "noise", samples: int, side: tuple[int, int] = (640, 480)) -> Task:
    """A task of noise: JPEGs of `side` pixels, questions of 40 letters and answers of 8."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, choose = np.random.default_rng(0), random.Random(name)
    made = []
    for number in range(samples):
        path = folder / f"{name}-{number}.jpg"
        Image.fromarray(draw.integers(0, 255, (side[1], side[0], 3), dtype=np.uint8)).save(path)
        question, answer = ("".join(choose.choices("abcdefgh", k=length)) for length in (QUESTION, ANSWER))
        made.append(Sample(f"{name}-{number}", (path,), question, (answer,), origin=str(path)))
    return Task(name, tuple(made), tuple(made))
