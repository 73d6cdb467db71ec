"""Second phase: the decoder learns the language from text alone, and is frozen from then on.

A frozen LM can only say what it was taught to say: a decoder that had read captions alone could not say a number,
whatever the Q-Former gave it. So it reads scenes in words, with questions of every form and their answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evertune.lmm.decoder import IGNORE, answer_loss, greedy_answers, pad
from evertune.pretrain.corpus import Document, document


def language_loss(lm: Any, tokenizer: Any, choose: random.Random, *, batch: int) -> Tensor:
    """Loss of the answers of one batch of texts that are written now."""
    documents = [document(choose) for _ in range(batch)]
    asked = [_question(tokenizer, d) for d in documents]
    said = [[*tokenizer(d.answer).input_ids, tokenizer.eos_token_id] for d in documents]
    rows = [a + s for a, s in zip(asked, said, strict=True)]
    labels = pad([[IGNORE] * len(a) + s for a, s in zip(asked, said, strict=True)], IGNORE)
    attention = pad([[1] * len(row) for row in rows], 0)
    embeds = lm.get_input_embeddings()(pad(rows, tokenizer.pad_token_id))
    return answer_loss(lm.model, lm.lm_head, embeds, attention, labels).loss


@torch.inference_mode()
def language_accuracy(lm: Any, tokenizer: Any, *, texts: int = 512) -> float:
    """Share of new texts answered word by word."""
    choose = random.Random("language accuracy")
    documents: Sequence[Document] = [document(choose) for _ in range(texts)]
    embeds = [lm.get_input_embeddings()(torch.tensor(_question(tokenizer, d))) for d in documents]
    end = tokenizer.eos_token_id
    answers = greedy_answers(lm, tokenizer, embeds, max_new_tokens=24, end=end)
    return sum(a == d.answer for a, d in zip(answers, documents, strict=True)) / texts


def _question(tokenizer: Any, text: Document) -> list[int]:
    """The words before the question, as they are followed by the question itself."""
    return [*tokenizer(text.prefix).input_ids, *tokenizer(text.prompt).input_ids]
