"""The untrained parts of `tiny`: the InstructBLIP classes with a few million parameters, and its tokenizer."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import torch

from evertune.data.pocket.draw import SIDE
from pretraining.corpus import SLOTS, document

VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 12,
    "initializer_range": 0.02,
}
QFORMER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "cross_attention_frequency": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 128,
}
LANGUAGE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.06,
}
SPECIAL = ("<pad>", "</s>", "<unk>", "<image>")


def make_tokenizer(*, documents: int = 20_000) -> Any:
    """A subword tokenizer that has one token for every word of `documents` texts and encodes any ASCII text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    words = pre_tokenizers.Split(Regex("▁?[A-Za-z0-9]+|▁?[^A-Za-z0-9▁]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always"), words])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=list(SPECIAL), initial_alphabet=[*string.printable.strip(), "▁"]
    )
    choose = random.Random("tokenizer")
    written = [document(choose) for _ in range(documents)]
    texts = [" ".join([d.prefix, *(text for pair in d.questions for text in pair)]) for d in written]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_processor(tokenizer: Any) -> Any:
    """Image preparation and both tokenizers, as InstructBLIP has them."""
    from transformers import BlipImageProcessorPil, InstructBlipProcessor

    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    return InstructBlipProcessor(images, tokenizer, tokenizer, num_query_tokens=SLOTS)


def make_model(tokenizer: Any, **sizes: Any) -> Any:
    """InstructBLIP with random weights, the same on every machine; `sizes` override those of all three parts."""
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, LlamaConfig

    size = len(tokenizer)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = InstructBlipConfig(
        vision_config={**VISION, **sizes},
        qformer_config={**QFORMER, **sizes, "vocab_size": size, "pad_token_id": tokenizer.pad_token_id},
        text_config=LlamaConfig(vocab_size=size, **{**LANGUAGE, **sizes}, **ends).to_dict(),
        num_query_tokens=SLOTS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = InstructBlipForConditionalGeneration(config)
        model.set_attn_implementation("eager")  # its backward pass is faster on a CPU for sequences this short
        # The library initialises them with zeros, so that all queries would stay equal.
        torch.nn.init.normal_(model.query_tokens, std=0.5)
    return model


def save_checkpoint(model: Any, processor: Any, folder: Path) -> None:
    """Write an ordinary checkpoint folder, weights in half precision."""
    kept = {name: p.data for name, p in model.named_parameters()}
    model.half().save_pretrained(folder)
    model.float()
    for name, parameter in model.named_parameters():
        parameter.data = kept[name]
    processor.save_pretrained(folder)
