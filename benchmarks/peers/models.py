"""The models as the trainers want them: a Hugging Face model that takes pixels, and a collator that makes them.

Weights, dtype and what trains are those of evertune's own object: the peers get it loaded. What differs is what
those libraries do by themselves: images are opened and prepared for each batch, the tower runs in each step, and the
head makes logits at every position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from evertune.data.task import Sample
from evertune.models.decoder import IGNORE, pad
from evertune.models.instructblip import InstructBlip
from evertune.models.smol import Smol, _prepared

Row = dict[str, str]
"""`image` (a path), `instruction`, `answer`."""


class Peer(NamedTuple):
    """A model, its collator, and what turns text into tokens (a tokenizer or a processor)."""

    model: PreTrainedModel
    collate: Callable[[Sequence[Row]], dict[str, Tensor]]
    processing: Any


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    return [{"image": str(s.images[0]), "instruction": s.instruction, "answer": s.answers[0]} for s in samples]


def peer_of(lmm: Any) -> Peer:
    """The peer of a loaded model; it has the very same parameters."""
    if isinstance(lmm, InstructBlip):
        return Peer(lmm.blip, BlipCollator(lmm.processor), lmm.processor)
    return Peer(SmolWithImages(lmm), SmolCollator(lmm), lmm.tokenizer)


class BlipCollator:
    """By the model's processor; the answer stands behind the prompt, and only the prompt goes to the Q-Former."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        tokenizer = self._processor.tokenizer
        images = [Image.open(row["image"]).convert("RGB") for row in rows]
        made = self._processor(images=images, text=[row["instruction"] for row in rows])
        prompts, asked = made["input_ids"], made["qformer_input_ids"]
        answers = [
            [*tokenizer(row["answer"], add_special_tokens=False).input_ids, tokenizer.eos_token_id] for row in rows
        ]
        return {
            "pixel_values": torch.from_numpy(np.stack(made["pixel_values"])),
            "qformer_input_ids": pad(asked, self._processor.qformer_tokenizer.pad_token_id),
            "qformer_attention_mask": pad([[1] * len(row) for row in asked], 0),
            **_padded(prompts, answers, tokenizer.pad_token_id),
        }


class SmolCollator:
    """Pixels of the tower's size, and the prompt with its answer."""

    def __init__(self, lmm: Smol) -> None:
        self._side, self._end = int(lmm.config["image_side"]), lmm.config["end_token"]
        self._tokenizer, self._prompt = lmm.tokenizer, str(lmm.config["prompt"]).replace("{image}", "")

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        images = [Image.open(row["image"]).convert("RGB") for row in rows]
        texts = [self._prompt.replace("{instruction}", row["instruction"]) for row in rows]
        prompts = self._tokenizer(texts, add_special_tokens=False).input_ids
        answers = self._tokenizer([row["answer"] + self._end for row in rows], add_special_tokens=False).input_ids
        return {
            "pixel_values": torch.from_numpy(np.stack([_prepared(image, self._side) for image in images])),
            **_padded(prompts, answers, self._tokenizer.convert_tokens_to_ids(self._end)),
        }


def _padded(prompts: Sequence[list[int]], answers: Sequence[list[int]], fill: int) -> dict[str, Tensor]:
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORE] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return {
        "input_ids": pad(whole, fill),
        "attention_mask": pad([[1] * len(row) for row in whole], 0),
        "labels": pad(labels, IGNORE),
    }


class _Backbone(nn.Module):
    """Tower, projector and decoder: pixels and tokens to hidden states at the tokens."""

    def __init__(self, lmm: Smol) -> None:
        super().__init__()
        self.tower, self.projector, self.decoder = lmm._tower[0], lmm.projector, lmm.lm.get_base_model().model
        self.side = int(lmm.config["image_side"])

    def train(self, mode: bool = True) -> _Backbone:
        super().train(mode)
        self.tower.eval()  # frozen: its batch norms must not see the batch
        return self

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        pixels = pixel_values.contiguous(memory_format=torch.channels_last)
        grid = self.tower.extract_features(pixels).flatten(2).transpose(1, 2)
        words = self.decoder.embed_tokens(input_ids)
        ahead = self.projector(grid).to(words.dtype)
        attention = torch.cat([attention_mask.new_ones(ahead.shape[:2]), attention_mask], dim=1)
        embeds = torch.cat([ahead, words], dim=1)
        hidden = self.decoder(inputs_embeds=embeds, attention_mask=attention, use_cache=False).last_hidden_state
        return BaseModelOutput(last_hidden_state=hidden[:, ahead.shape[1] :])


class SmolWithImages(PreTrainedModel):
    """`smol` laid out as the library's own models with images are: a backbone, a head, a loss over all logits."""

    base_model_prefix = "model"

    def __init__(self, lmm: Smol) -> None:
        language = lmm.lm.get_base_model()
        super().__init__(language.config)
        self.model = _Backbone(lmm)
        self.lm_head = language.lm_head

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> CausalLMOutput:
        logits = self.lm_head(self.model(**inputs).last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)
