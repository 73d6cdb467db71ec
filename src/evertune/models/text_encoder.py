"""A sentence encoder from Hugging Face for task similarity; the paper takes the [CLS] of BERT-base.

An LMM has a text encoder of its own (mean of the LM's frozen input embeddings), so that nothing else must be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evertune.models.file_bounds import reading, refuse_larger
from evertune.models.hub import hub_folder, is_hub_id, refuse_unsafe

BATCH = 64
LONGEST = 512


def load_text_encoder(name: str) -> Callable[[Sequence[str]], Tensor]:
    """Load the encoder `name`, a folder or a name on the hub; returns texts -> (n, width), float32 on the CPU.

    Where the tokenizer begins each text with a [CLS] (BERT and its kin), that token's last hidden state is the
    embedding; otherwise it is the mean over the text's tokens. Of an encoder-decoder the encoder is taken.

    Raises:
        UserError: it is not there, can't be read, has no tokenizer, or no weights as safetensors.
    """
    from transformers import AutoModel, AutoTokenizer

    from evertune.utils.quiet import quiet_libraries

    quiet_libraries()
    with reading(f"text encoder '{name}' can't be loaded"):
        folder = hub_folder(name) if is_hub_id(name) and not Path(name).is_dir() else name
        if Path(folder).is_dir():
            refuse_unsafe(Path(folder))
            refuse_larger(Path(folder), AutoModel)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval()

    def encode(texts: Sequence[str]) -> Tensor:
        rows = [_embedded(tokenizer, model, texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return torch.cat(rows)

    return encode


@torch.inference_mode()
def _embedded(tokenizer: Any, model: Any, texts: Sequence[str]) -> Tensor:
    """(n, width) embeddings of one batch; the padding has no say."""
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    states: Tensor = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
    if tokenizer.cls_token_id is not None and bool((inputs.input_ids == tokenizer.cls_token_id).any(1).all()):
        first = (inputs.input_ids == tokenizer.cls_token_id).int().argmax(1)
        return states[torch.arange(len(states)), first].float()
    mask = inputs.attention_mask.unsqueeze(-1)
    mean: Tensor = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
    return mean.float()
