"""Last phase: joint instruction tuning on the five known tasks of `pocket-b2`."""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor

from evertune.data.pocket.questions import ROLES
from evertune.data.pocket.world import Split, draw_scene
from evertune.data.task import Sample
from evertune.models.instructblip import InstructBlip
from pretraining.align import DRAWN, features_of

KNOWN = ("okvqa", "aokvqa", "textcaps", "vqav2", "ocrvqa")


def known_samples(lmm: InstructBlip, *, count: int, split: Split = "train") -> tuple[list[Sample], Tensor]:
    """`count` samples of each known task on scenes of a split, and their features; `id` is the task's name."""
    choose = random.Random(f"instruct {split}")
    samples, scenes = [], []
    for name in KNOWN:
        role = ROLES[name]
        drawn = [draw_scene(choose, layout=choose.choice(role.layouts), split=split) for _ in range(count)]
        items = [role.ask(scene, choose) for scene in drawn]
        samples += [Sample(name, (DRAWN,), item.instruction, item.answers) for item in items]
        scenes += drawn
    return samples, features_of(lmm, scenes, choose)


def instruct_loss(
    lmm: InstructBlip, samples: Sequence[Sample], features: Tensor, choose: random.Random, *, batch: int
) -> Tensor:
    """Loss of one batch, all tasks mixed."""
    rows = choose.sample(range(len(samples)), batch)
    loss: Tensor = lmm(lmm.collate([samples[row] for row in rows], features[rows])).loss
    return loss


def known_accuracy(lmm: InstructBlip, *, count: int) -> dict[str, float]:
    """Share of new questions of each known task that are answered exactly."""
    samples, features = known_samples(lmm, count=count, split="test")
    predicted = lmm.generate(features, [s.instruction for s in samples], max_new_tokens=24)
    right = [text == sample.answers[0] for text, sample in zip(predicted, samples, strict=True)]
    return {name: sum(r for r, s in zip(right, samples, strict=True) if s.id == name) / count for name in KNOWN}
