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
from evertune.models.protocol import Generation, Output
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


def pad_right(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """(n, longest) token ids of `rows`, filled up on the right with `value`, and their attention."""
    return pad(rows, value), pad([[1] * len(row) for row in rows], 0)


def answer_rows(prompts: Sequence[list[int]], answers: Sequence[list[int]], fill: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L) input ids, attention and labels of prompts followed by answers, filled up on the right with `fill`."""
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORE] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return *pad_right(rows, fill), pad(labels, IGNORE)


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
    inputs = {"inputs_embeds": batch, "attention_mask": attention}
    return generated(lm, tokenizer, max_new_tokens=max_new_tokens, end=end, **inputs)


def generated(lm: Any, tokenizer: Any, *, max_new_tokens: int, end: int, **inputs: Any) -> list[Generation]:
    """Greedy answers of a batch, up to the token `end`."""
    tokens = lm.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end)
    # given back before them: the ids of a prompt, or the first token of a decoder behind an encoder
    skip = inputs["input_ids"].shape[1] if "input_ids" in inputs else int(lm.config.is_encoder_decoder)
    return [_generation(tokenizer, row, end) for row in tokens[:, skip:].tolist()]


def _generation(tokenizer: Any, tokens: list[int], end: int) -> Generation:
    """Of a row of tokens, filled up with `end` where it ended before others."""
    finished = end in tokens
    ids = tokens[: tokens.index(end) + 1] if finished else tokens
    text = str(tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=True)).strip()
    return Generation(without_thoughts(text), ids, finished=finished)
