"""First phase: the vision tower is trained with labels for the content of each place (the words of the captions).

Trained through the whole model on captions alone, the tower learned almost nothing in thousands of steps, so it gets
dense supervision. The patches of each place predict its colour, its thing and its written word; the [CLS] token
predicts what is in the image. Each patch also predicts its place: otherwise the tower's output lacks the position of a
patch, and the Q-Former, which gets no positions, can't attend to one place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from evertune.data.pocket.draw import draw
from evertune.data.pocket.world import AUTHORS, COLOURS, KINDS, PLACES, SIGNS, TITLES, Scene
from pretraining.corpus import caption_scene

WHATS = ("nothing", "sign", "title", "author", *KINDS)
WORDS = ("", *SIGNS, *TITLES, *AUTHORS)
HUES = ("", *COLOURS)


class Tower(nn.Module):
    """The vision tower with heads that are dropped after the phase."""

    def __init__(self, vision: nn.Module, *, width: int, grid: int) -> None:
        super().__init__()
        self.vision, self.grid = vision, grid
        self.heads = nn.ModuleList(nn.Linear(width, len(names)) for names in (WHATS, WORDS, HUES))
        self.whole = nn.Linear(width, len(WHATS))
        self.where = nn.Linear(width, len(PLACES))

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """[(B, 4, names) per head], (B, names) of the whole, (B, patches, 4) places; from (B, 3, side, side)."""
        rows = self.vision(pixels).last_hidden_state
        places = rows[:, 1:].unflatten(1, (2, self.grid // 2, 2, self.grid // 2)).mean((2, 4)).flatten(1, 2)
        return [head(places) for head in self.heads], self.whole(rows[:, 0]), self.where(rows[:, 1:])


def tower_loss(tower: Tower, image_processor: Any, choose: random.Random, *, batch: int) -> Tensor:
    """Loss of one batch of newly drawn scenes."""
    scenes = [caption_scene(choose) for _ in range(batch)]
    per_place, whole, where = tower(pixels_of([draw(s, choose) for s in scenes], image_processor))
    losses = [cross_entropy(p.flatten(0, 1), t.flatten()) for p, t in zip(per_place, _targets(scenes), strict=True)]
    losses.append(cross_entropy(where.flatten(0, 1), place_of_patch(tower.grid).repeat(batch)))
    return torch.stack(losses).sum() + binary_cross_entropy_with_logits(whole, _present(scenes))


def place_of_patch(grid: int) -> Tensor:
    """(grid * grid,) index into `PLACES` of each patch, row by row."""
    half = torch.arange(grid) // (grid // 2)
    return (2 * half[:, None] + half[None, :]).flatten()


def pixels_of(images: Sequence[Image.Image], image_processor: Any) -> Tensor:
    """(n, 3, side, side) the same values as `image_processor` for images of its own size, ten times as fast."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    mean, std = torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)
    return (stacked / 255 - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def tower_accuracy(tower: Tower, image_processor: Any, *, count: int = 512) -> dict[str, float]:
    """Accuracy by head on images of scenes that are not in the training."""
    choose = random.Random("tower accuracy")
    scenes = [caption_scene(choose) for _ in range(count)]
    images: list[Image.Image] = [draw(s, choose) for s in scenes]
    per_place, _, where = tower(pixels_of(images, image_processor))
    right = [(p.argmax(-1) == t) for p, t in zip(per_place, _targets(scenes), strict=True)]
    written = _targets(scenes)[1] > 0
    return {
        "what": float(right[0].float().mean()),
        "word": float(right[1][written].float().mean()),
        "colour": float(right[2].float().mean()),
        "where": float((where.argmax(-1) == place_of_patch(tower.grid)).float().mean()),
    }


def _targets(scenes: Sequence[Scene]) -> list[Tensor]:
    cells = [[(c.what, c.word, c.colour) if c else ("nothing", "", "") for c in s.cells] for s in scenes]
    names = (WHATS, WORDS, HUES)
    return [
        torch.from_numpy(np.array([[known.index(cell[i]) for cell in row] for row in cells]))
        for i, known in enumerate(names)
    ]


def _present(scenes: Sequence[Scene]) -> Tensor:
    table = torch.zeros(len(scenes), len(WHATS))
    for row, scene in enumerate(scenes):
        for _, cell in scene.filled():
            table[row, WHATS.index(cell.what)] = 1
    return table
