"""Last phase: joint instruction tuning on the five tasks that `pocket-b2` takes as known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evertune.lmm.instructblip import InstructBlip
from evertune.tasks.pocket.draw import draw
from evertune.tasks.pocket.questions import ROLES
from evertune.tasks.pocket.world import draw_scene
from evertune.tasks.task import Sample

KNOWN = ("okvqa", "aokvqa", "textcaps", "vqav2", "ocrvqa")
PER_TASK = 4096


def known_samples(lmm: InstructBlip, *, count: int = PER_TASK) -> tuple[list[Sample], Tensor]:
    """`count` samples of each known task on scenes of the training split, and their features."""
    choose = random.Random("instruct")
    samples, rows = [], []
    for name in KNOWN:
        role = ROLES[name]
        for start in range(0, count, 64):
            scenes = [
                draw_scene(choose, layout=choose.choice(role.layouts), split="train")
                for _ in range(min(64, count - start))
            ]
            items = [role.ask(scene, choose) for scene in scenes]
            samples += [Sample(name, Path(), item.instruction, item.answers) for item in items]
            rows.append(lmm.encode([draw(scene, choose) for scene in scenes]))
    return samples, torch.cat(rows)


def instruct_loss(
    lmm: InstructBlip, samples: Sequence[Sample], features: Tensor, choose: random.Random, *, batch: int
) -> Tensor:
    """Loss of one batch, all tasks mixed."""
    rows = choose.sample(range(len(samples)), batch)
    loss: Tensor = lmm(lmm.collate([samples[row] for row in rows], features[rows])).loss
    return loss
