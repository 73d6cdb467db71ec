"""`random`: the classes of `smol` with a few thousand random weights, for tests and for trying things out in seconds.

Its answers are noise before training; after it, it can learn a handful of samples by heart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evertune.utils.files import cache_folder, whole_folder

VERSION = 4
CONFIG: dict[str, Any] = {
    "family": "smol",
    "prompt": "{image}{instruction}\n",
    "end_token": "<|im_end|>",
    "image_side": 64,
    "vision_width": 1280,
    "visual_gain": 6.0,
    "vision": {"width_coefficient": 0.25, "depth_coefficient": 0.2},
    "lora_rank": 16,
    "lora_alpha": 32,
    "projection_rate": 1.0,
    "origin": "random weights",
}


def random_folder() -> Path:
    """Return the checkpoint folder of `random`, making it first when it is not in the cache."""
    folder = cache_folder() / "models" / f"random-{VERSION}"
    if not (folder / "config.json").exists():
        with whole_folder(folder, proof="config.json") as place:
            write_random(place)
    return folder


def _open_its_eyes(tower: Any, side: int) -> None:
    """Set the batch norms' statistics on noise: with the defaults, signals die out in a tower of random weights."""
    import torch

    norms = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain average
    coarse = torch.randn(64, 3, 4, 4)
    with torch.no_grad():
        tower.train().extract_features(torch.nn.functional.interpolate(coarse, size=side, mode="bilinear"))
    tower.eval()


def write_random(folder: Path) -> None:
    """Write a checkpoint of random weights, the same on every machine."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from evertune.models.smol import make_tower
    from evertune.models.smol_weights import write_config
    from evertune.utils.quiet import quiet_libraries

    quiet_libraries()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<|im_end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(vocabulary),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=512,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
                tie_word_embeddings=True,
                initializer_range=0.1,
            )
        )
        # Word embeddings, which are the head too, large enough for confident answers: only then can it learn by heart.
        torch.nn.init.normal_(lm.model.embed_tokens.weight, std=0.5)
        tower = make_tower(CONFIG)
        _open_its_eyes(tower, CONFIG["image_side"])
    lm.save_pretrained(folder / "lm")
    fast.save_pretrained(folder / "lm")
    save_file({name: t.contiguous() for name, t in tower.state_dict().items()}, folder / "vision.safetensors")
    write_config(folder, CONFIG)
