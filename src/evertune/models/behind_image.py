"""What the families share whose visual tokens stand before all text (smol, InstructBLIP, BLIP-2): loss and answers.

Samples about the same images may share one copy of their visual tokens (`shared_prefix.py`), where no text is part of
these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evertune.models.decoder import (
    IGNORE,
    answer_loss,
    generated,
    greedy_answers,
    nll_of_hidden,
    output_of_logits,
    pad_right,
)
from evertune.models.protocol import Batch, Generation, Output, SharedPrefix
from evertune.models.shared_prefix import Behind, Part, images_of, inputs_behind, rows_by_images, run_behind


def share_images(same: Sequence[Any], features: Tensor, counts: Sequence[int]) -> tuple[SharedPrefix | None, Tensor]:
    """Which of n samples are about the same images, and the features of each of these once; None where no two are.

    Args:
        same: equal for samples about the same images; false for one without images.
        features: (images, V, D) of all samples.
        counts: how many images each sample has.
    """
    groups = rows_by_images(same)
    if len(groups) == len(counts):
        return None, features
    nothing = torch.zeros(len(groups), 0, dtype=torch.long)
    number = {row: group for group, rows in enumerate(groups) for row in rows}
    prefix = SharedPrefix(nothing, nothing, tuple(number[row] for row in range(len(counts))))
    return prefix, images_of(features, counts, prefix.first)


def behind_images(visual: Tensor, words: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, M * V + L, width) input embeddings of `batch` and their attention: each text behind its sample's images.

    M is the most images that a sample has. Those with fewer begin with padding, so that the last image stands right
    before the text whatever else is in the batch.

    Args:
        visual: (images, V, width) visual tokens of all samples, one after another.
        words: token ids -> embeddings.
        batch: B samples with L tokens of text.
    """
    ahead, there = _images_alone(visual, batch.image_counts)
    return torch.cat([ahead, words(batch.input_ids)], dim=1), torch.cat([there, batch.attention], dim=1)


def _images_alone(visual: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(n, M * V, width) visual tokens of n rows with so many images each, padded on the left, and their attention."""
    if set(counts) == {1}:
        return visual, torch.ones(visual.shape[:2], dtype=torch.long, device=visual.device)
    rows = [part.flatten(0, 1) for part in torch.split(visual, list(counts))]
    longest = max(len(row) for row in rows)
    ahead = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    real = torch.arange(longest, 0, -1)[None] <= torch.tensor([[len(row)] for row in rows])
    return ahead, real.long().to(visual.device)


def loss_behind_image(decoder: nn.Module, head: nn.Module, visual: Tensor, words: nn.Module, batch: Batch) -> Output:
    """Loss of the answers of `batch`, as `behind_images` lays it out; samples may share their images."""
    if batch.prefix is not None:
        behind = _run_behind(decoder, visual, words, batch.image_counts, batch.prefix, batch.input_ids, batch.attention)
        return nll_of_hidden(behind.hidden, head, batch.labels)
    embeds, attention = behind_images(visual, words, batch)
    labels = nn.functional.pad(batch.labels, (attention.shape[1] - batch.labels.shape[1], 0), value=IGNORE)
    return answer_loss(decoder, head, embeds, attention, labels)


def loss_of_encoder_decoder(lm: Any, visual: Tensor, words: nn.Module, batch: Batch) -> Output:
    """Loss of the answers of `batch`, whose `input_ids` the encoder reads, as `behind_images` lays them out."""
    embeds, attention = behind_images(visual, words, batch)
    output = lm(inputs_embeds=embeds, attention_mask=attention, labels=batch.labels, use_cache=False)
    return output_of_logits(output.logits[batch.labels != IGNORE].float(), batch.labels)


def answers_behind_images(
    lm: Any,
    tokenizer: Any,
    visual: Tensor,
    words: nn.Module,
    texts: Sequence[Sequence[int]],
    counts: Sequence[int],
    prefix: SharedPrefix | None = None,
    **how: Any,
) -> list[Generation]:
    """Greedy answers to texts behind their images.

    Args:
        lm: the library's model with its head.
        tokenizer: of the LM.
        visual: (images, V, width) visual tokens of all texts, or those that they share, once.
        words: token ids -> embeddings.
        texts: token ids of each prompt without its images.
        counts: how many images each text has.
        prefix: which texts share their images.
        how: `max_new_tokens` and `end`, as of `generated`.
    """
    if prefix is None:
        return greedy_answers(lm, tokenizer, _prompts(visual, words, texts, counts), **how)
    ids, attention = (part.to(visual.device) for part in pad_right([text[:-1] for text in texts], how["end"]))
    images = [counts[row] for row in prefix.first]
    behind = _run_behind(lm.model, visual, words, images, prefix, ids, attention)
    return generated(lm, tokenizer, **how, **inputs_behind(lm, behind, [text[-1] for text in texts]))


def _run_behind(
    decoder: nn.Module,
    visual: Tensor,
    words: nn.Module,
    counts: Sequence[int],
    prefix: SharedPrefix,
    ids: Tensor,
    attention: Tensor,
) -> Behind:
    """Run (B, L) tokens behind the images that they share."""
    ahead, there = _images_alone(visual, counts)
    images, own = Part({"inputs_embeds": ahead}, there), Part({"inputs_embeds": words(ids)}, attention)
    return run_behind(decoder, images, own, prefix.groups)


def _prompts(visual: Tensor, words: nn.Module, texts: Sequence[Sequence[int]], images: Sequence[int]) -> list[Tensor]:
    """(length, width) embeddings of each prompt for `greedy_answers`: its images' visual tokens, then its text."""
    parts = torch.split(visual, list(images))
    ids = [torch.tensor(text, device=visual.device) for text in texts]
    return [torch.cat([part.flatten(0, 1), words(text)]) for part, text in zip(parts, ids, strict=True)]
