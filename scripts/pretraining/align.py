"""Third phase: the Q-Former learns soft tokens that represent the words of the caption; nothing else is trained.

Two steps, as in BLIP-2. First without the LM: each soft token is trained to match the embedding of the caption's word
at its position. Then through the frozen LM: the caption itself. The captions contain no written words and no blurred
images, so reading and "unanswerable" are left for the stream.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evertune.data.pocket.draw import draw
from evertune.data.pocket.questions import CAPTION, describe
from evertune.data.pocket.world import Scene
from evertune.data.task import Sample
from evertune.models.features import ENCODE_BATCH
from evertune.models.instructblip import InstructBlip
from evertune.models.protocol import Batch
from pretraining.corpus import PLAIN, caption_scene

SHARPNESS = 10.0
DRAWN = Path("drawn")
"""Placeholder path for a sample whose image is drawn in memory."""


class CaptionBank:
    """Images and captions of pretraining; the frozen tower's features are computed once and kept in memory."""

    def __init__(self, lmm: InstructBlip, *, images: int, name: str) -> None:
        choose = random.Random(f"captions {name}")
        scenes = [caption_scene(choose) for _ in range(images)]
        self.captions = [describe(scene) for scene in scenes]
        self.features = features_of(lmm, scenes, choose)

    def batch(self, lmm: InstructBlip, choose: random.Random, size: int) -> Batch:
        """`size` images with the instruction to describe them and their captions as answers."""
        rows = choose.sample(range(len(self.captions)), size)
        samples = [Sample(str(row), (DRAWN,), CAPTION, (self.captions[row],)) for row in rows]
        return lmm.collate(samples, self.features[rows])


def features_of(lmm: InstructBlip, scenes: Sequence[Scene], choose: random.Random) -> Tensor:
    """(n, V, D) frozen features of newly drawn scenes."""
    parts = [scenes[at : at + ENCODE_BATCH] for at in range(0, len(scenes), ENCODE_BATCH)]
    return torch.cat([lmm.encode([draw(scene, choose) for scene in part]) for part in parts])


def slot_loss(lmm: InstructBlip, bank: CaptionBank, choose: random.Random, *, batch: int) -> Tensor:
    """Each soft token should match its word: nearest to it among all words of the LM, and close to it."""
    drawn = bank.batch(lmm, choose, batch)
    soft = lmm.soft_tokens(drawn).flatten(0, 1)
    table: Tensor = lmm.blip.language_model.get_input_embeddings().weight
    words = lmm.processor.tokenizer([f"{PLAIN} {s.answers[0]}" for s in drawn.samples]).input_ids
    wanted = torch.tensor(words).flatten()
    # 1 is the mean squared distance of a word's embedding from the mean embedding.
    squared = soft.square().sum(1, keepdim=True) - 2 * soft @ table.T + table.square().sum(1)
    distance = squared / (table.var() * table.shape[1])
    return cross_entropy(-SHARPNESS * distance, wanted) + distance.gather(1, wanted[:, None]).mean()


def caption_loss(lmm: InstructBlip, bank: CaptionBank, choose: random.Random, *, batch: int) -> Tensor:
    """The LM's loss on the caption, through the frozen LM."""
    loss: Tensor = lmm(bank.batch(lmm, choose, batch)).loss
    return loss


def caption_accuracy(lmm: InstructBlip, bank: CaptionBank) -> dict[str, float]:
    """Share of captions generated exactly, and of words at the right position."""
    predicted = lmm.generate(bank.features, [CAPTION] * len(bank.captions), max_new_tokens=20)
    return caption_shares(predicted, bank.captions)


def caption_shares(predicted: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
    """Share of captions generated exactly, and the mean share of words at the right position."""
    words = [
        sum(a == b for a, b in zip(text.split(), caption.split(), strict=False)) / len(caption.split())
        for text, caption in zip(predicted, captions, strict=True)
    ]
    whole = sum(text == caption for text, caption in zip(predicted, captions, strict=True))
    return {"whole": whole / len(predicted), "words": sum(words) / len(words)}
