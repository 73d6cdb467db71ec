"""Second phase: the decoder learns the language from text alone, and is frozen from then on.

A frozen LM generates only words that it was trained to generate: a decoder trained on captions alone could not answer
with a number, whatever the Q-Former's output. So it is trained on scenes in words with questions of every role.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evertune.data.pocket.questions import ROLES
from evertune.data.pocket.world import draw_scene
from evertune.models.decoder import IGNORE, answer_loss, greedy_answers, pad
from pretraining.corpus import Document

Write = Callable[[random.Random], Document]


def language_loss(lm: Any, tokenizer: Any, write: Write, choose: random.Random, *, batch: int) -> Tensor:
    """Loss of all answers of one newly written batch of texts."""
    texts = [_tokens(tokenizer, write(choose)) for _ in range(batch)]
    labels = pad([labels for _, labels in texts], IGNORE)
    attention = pad([[1] * len(ids) for ids, _ in texts], 0)
    embeds = lm.get_input_embeddings()(pad([ids for ids, _ in texts], tokenizer.pad_token_id))
    return answer_loss(lm.model, lm.lm_head, embeds, attention, labels).loss


@torch.inference_mode()
def language_accuracy(lm: Any, tokenizer: Any, *, texts: int = 512) -> dict[str, float]:
    """Share of `texts` new texts that are answered exactly, by role."""
    right = {}
    for name, role in ROLES.items():
        choose = random.Random(f"language accuracy {name}")
        scenes = [draw_scene(choose, layout=choose.choice(role.layouts), split="pretrain") for _ in range(texts)]
        items = [role.ask(scene, choose) for scene in scenes]
        prompts = [
            [*tokenizer(f"{role.style} {scene.words}").input_ids, *tokenizer(item.instruction).input_ids]
            for scene, item in zip(scenes, items, strict=True)
        ]
        embeds = [lm.get_input_embeddings()(torch.tensor(ids)) for ids in prompts]
        answers = greedy_answers(lm, tokenizer, embeds, max_new_tokens=24, end=tokenizer.eos_token_id)
        right[name] = sum(a == item.answers[0] for a, item in zip(answers, items, strict=True)) / texts
    return right


def _tokens(tokenizer: Any, text: Document) -> tuple[list[int], list[int]]:
    """Token ids and labels; only answers and their end tokens have labels."""
    ids: list[int] = list(tokenizer(text.prefix).input_ids)
    labels = [IGNORE] * len(ids)
    for question, answer in text.questions:
        prompts, predicted = tokenizer(question).input_ids, [*tokenizer(answer).input_ids, tokenizer.eos_token_id]
        ids += [*prompts, *predicted]
        labels += [*[IGNORE] * len(prompts), *predicted]
    return ids, labels
