"""What every family with a decoder LM shares: the loss at answer positions and batched greedy answers.

Functions over a Hugging Face decoder; the families in this folder stay thin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evertune.data.images import short
from evertune.metrics.reasoning_tags import without_thoughts
from evertune.models.protocol import Batch, Generation, Output
from evertune.utils.errors import UserError

IGNORE = -100


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(n, longest) int64 tensor of `rows`, filled up on the right with `value`."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """(n, longest) token ids of `rows`, filled up on the left with `value`, and their attention."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*[value] * (longest - len(row)), *row] for row in rows], dtype=torch.long)
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def answer_rows(prompts: Sequence[list[int]], answers: Sequence[list[int]], fill: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L) input ids, attention and labels of prompts followed by answers, filled up on the right with `fill`."""
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORE] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return pad(rows, fill), pad([[1] * len(row) for row in rows], 0), pad(labels, IGNORE)


def behind_images(visual: Tensor, words: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, M * V + L, width) input embeddings of `batch` and their attention: each text behind its sample's images.

    M is the most images that a sample has. Those with fewer begin with padding, so that the last image stands right
    before the text whatever else is in the batch.

    Args:
        visual: (images, V, width) visual tokens of all samples, one after another.
        words: token ids -> embeddings.
        batch: B samples with L tokens of text.
    """
    ahead, there = visual, batch.attention.new_ones(visual.shape[:2])
    if set(batch.image_counts) != {1}:
        rows = [part.flatten(0, 1) for part in torch.split(visual, batch.image_counts)]
        longest = max(len(row) for row in rows)
        ahead = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        real = torch.arange(longest, 0, -1)[None] <= torch.tensor([[len(row)] for row in rows])
        there = real.to(batch.attention)
    return torch.cat([ahead, words(batch.input_ids)], dim=1), torch.cat([there, batch.attention], dim=1)


def loss_behind_image(decoder: nn.Module, head: nn.Module, visual: Tensor, words: nn.Module, batch: Batch) -> Output:
    """Loss of the answers of `batch`, as `behind_images` lays it out."""
    embeds, attention = behind_images(visual, words, batch)
    labels = nn.functional.pad(batch.labels, (attention.shape[1] - batch.labels.shape[1], 0), value=IGNORE)
    return answer_loss(decoder, head, embeds, attention, labels)


def answer_loss(decoder: nn.Module, head: nn.Module, embeds: Tensor, attention: Tensor, labels: Tensor) -> Output:
    """Negative log-likelihood of the labelled tokens.

    Args:
        decoder: the LM without its head; called with `inputs_embeds`.
        head: hidden state -> vocabulary.
        embeds: (B, S, width) input embeddings, padded on the right.
        attention: (B, S) 1 for inputs, 0 for padding.
        labels: (B, S) token id or -100; the token at position p is predicted from position p - 1.
    """
    hidden = decoder(inputs_embeds=embeds, attention_mask=attention, use_cache=False).last_hidden_state
    return nll_of_hidden(hidden, head, labels)


def loss_of_encoder_decoder(lm: Any, visual: Tensor, words: nn.Module, batch: Batch) -> Output:
    """Loss of the answers of `batch`, whose `input_ids` the encoder reads, as `behind_images` lays them out."""
    embeds, attention = behind_images(visual, words, batch)
    output = lm(inputs_embeds=embeds, attention_mask=attention, labels=batch.labels, use_cache=False)
    return output_of_logits(output.logits[batch.labels != IGNORE].float(), batch.labels)


def nll_of_hidden(hidden: Tensor, head: nn.Module, labels: Tensor) -> Output:
    """The same from (B, S, width) last hidden states."""
    row, column = (labels != IGNORE).nonzero(as_tuple=True)
    # Gathering first keeps the head to the few answer positions, and its input contiguous: a strided slice would make
    # the CPU's product copy the whole vocabulary matrix for each row.
    return output_of_logits(head(hidden[row, column - 1]).float(), labels)


def output_of_logits(logits: Tensor, labels: Tensor) -> Output:
    """From (N, vocabulary) logits at the N labelled places, sample after sample."""
    row, column = (labels != IGNORE).nonzero(as_tuple=True)
    token_nll = nn.functional.cross_entropy(logits, labels[row, column], reduction="none")
    nll = torch.zeros(len(labels), device=labels.device).index_add(0, row, token_nll)
    return Output(nll=nll, tokens=(labels != IGNORE).sum(1), logits=logits)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token of `ids`: what it adds to the text of those before it.

    A token alone would lose its leading space, and the bytes of a letter may be spread over several tokens: those are
    put to the last of them.
    """
    texts: list[str] = []
    before, start = 0, 0
    for end in range(1, len(ids) + 1):
        known = tokenizer.decode(ids[before:start], clean_up_tokenization_spaces=False)
        text = tokenizer.decode(ids[before:end], clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(known) :])
        before, start = start, end
    return texts


def token_ids(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    """Token ids of a text, with the tokenizer's special tokens around it or without.

    Raises:
        UserError: the tokenizer's own library gives up, as on a regular expression that backtracks without end.
    """
    try:
        return list(tokenizer(text, add_special_tokens=special).input_ids)
    except BaseException as problem:
        if type(problem).__name__ != "PanicException":  # of Rust, which is no `Exception`
            raise
        raise UserError(f"the model's tokenizer can't read {short(text)}: {problem}") from problem


@torch.inference_mode()
def mean_word_embeddings(tokenizer: Any, table: Tensor, texts: Sequence[str]) -> Tensor:
    """(n, width) mean of the rows of the LM's embedding `table` over each text's tokens; float32, on the CPU."""
    rows = [token_ids(tokenizer, text) for text in texts]
    return torch.stack([table[row].float().mean(0).cpu() for row in rows])


def prompts_after_images(
    visual: Tensor, words: nn.Module, texts: Sequence[Sequence[int]], images: Sequence[int]
) -> list[Tensor]:
    """(length, width) embeddings of each prompt for `greedy_answers`: its images' visual tokens, then its text."""
    parts = torch.split(visual, list(images))
    ids = [torch.tensor(text, device=visual.device) for text in texts]
    return [torch.cat([part.flatten(0, 1), words(text)]) for part, text in zip(parts, ids, strict=True)]


@torch.inference_mode()
def greedy_answers(
    lm: Any, tokenizer: Any, embeds: Sequence[Tensor], *, max_new_tokens: int, end: int
) -> list[Generation]:
    """Greedy continuations of n prompts given as (length, width) embeddings, padded on the left.

    Position ids follow the attention mask, so that padding never changes an answer.
    """
    longest = max(len(e) for e in embeds)
    batch = embeds[0].new_zeros(len(embeds), longest, embeds[0].shape[-1])
    attention = torch.zeros(len(embeds), longest, dtype=torch.long, device=batch.device)
    for row, prompt in enumerate(embeds):
        batch[row, longest - len(prompt) :] = prompt
        attention[row, longest - len(prompt) :] = 1
    skip = int(lm.config.is_encoder_decoder)  # its decoder begins with a token of its own
    inputs = {"inputs_embeds": batch, "attention_mask": attention}
    return generated(lm, tokenizer, max_new_tokens=max_new_tokens, end=end, skip=skip, **inputs)


def generated(
    lm: Any, tokenizer: Any, *, max_new_tokens: int, end: int, skip: int = 0, **inputs: Any
) -> list[Generation]:
    """Greedy answers of a batch, up to the token `end`; `skip` tokens of each prompt are given back before them."""
    tokens = lm.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end)
    return [_generation(tokenizer, row, end) for row in tokens[:, skip:].tolist()]


def _generation(tokenizer: Any, tokens: list[int], end: int) -> Generation:
    """Of a row of tokens, filled up with `end` where it ended before others."""
    finished = end in tokens
    ids = tokens[: tokens.index(end) + 1] if finished else tokens
    text = str(tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=True)).strip()
    return Generation(without_thoughts(text), ids, finished=finished)
