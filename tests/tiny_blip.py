"""BLIP-2 and InstructBLIP in miniature with OPT or Flan-T5 as LM: real classes, tiny sizes, random weights, no hub."""

from __future__ import annotations

import torch
import transformers
from tiny_chat import tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def _lm(kind, token):
    ends = {"pad_token_id": token.pad_token_id, "eos_token_id": token.eos_token_id}
    if kind == "opt":
        return transformers.OPTConfig(
            vocab_size=len(token),
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            dropout=0.0,
            tie_word_embeddings=False,
            **ends,
        )
    return transformers.T5Config(
        vocab_size=len(token),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=token.pad_token_id,
        **ends,
    )


def write_blip(family, lm, folder):
    """Write a checkpoint folder of `family` ('blip-2' or 'instructblip') with an LM ('opt' or 't5')."""
    token = tokenizer(image=None)  # the processor adds its own
    name = {"blip-2": "Blip2", "instructblip": "InstructBlip"}[family]
    images = transformers.BlipImageProcessorPil(size={"height": 28, "width": 28})
    tokenizers = [token, tokenizer(image=None)] if family == "instructblip" else [token]
    processor = getattr(transformers, f"{name}Processor")(images, *tokenizers, num_query_tokens=4)
    config = getattr(transformers, f"{name}Config")(
        vision_config={**SIZES, "image_size": 28, "patch_size": 7},
        qformer_config={**SIZES, "encoder_hidden_size": 32, "vocab_size": len(token), "pad_token_id": 0},
        text_config=_lm(lm, token).to_dict(),
        num_query_tokens=4,
        image_token_index=token.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.add_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
