"""Tiny chat models (`tiny_chat`), loaded by evertune and by transformers alone."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from evertune.models import load_lmm
from evertune.models.processors import load_processor


def load(folder, **options):
    return load_lmm(str(folder), dtype="float32", device=torch.device("cpu"), options=options)


def of_library(folder):
    """Model and processor as anybody would use them."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.generation_config = GenerationConfig()
    return model.eval(), load_processor(folder, AutoConfig.from_pretrained(folder))
