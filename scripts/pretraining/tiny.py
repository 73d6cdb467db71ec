"""`python scripts/pretrain.py tiny`: the paper's architecture in miniature, made from scratch on two cores.

    tower             the ViT learns to see          lookup, language   the decoder learns the language from text
    slots, captions   the Q-Former learns to describe         -> tiny-aligned, the BLIP-2 role
    instruct          joint tuning on the known tasks of b2   -> tiny-instruct, the InstructBLIP role

Deterministic and resumable: the same command resumes inside a phase.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from evertune.models import load_lmm
from evertune.utils.files import write_json
from pretraining.align import CaptionBank, caption_accuracy, caption_loss, slot_loss
from pretraining.card import write_card
from pretraining.corpus import document, lookup
from pretraining.instruct import instruct_loss, known_accuracy, known_samples
from pretraining.language import language_accuracy, language_loss
from pretraining.parts import VISION, make_model, make_processor, make_tokenizer, save_checkpoint
from pretraining.phases import LossAt, OnStep, Phase, run_phase
from pretraining.recipes import Recipe
from pretraining.tower import Tower, tower_accuracy, tower_loss

if TYPE_CHECKING:
    from evertune.models.instructblip import InstructBlip

Run = Callable[[Phase, Mapping[str, nn.Parameter], LossAt], None]


Scores = dict[str, dict[str, float]]


def pretrain_tiny(folder: Path, *, on_step: OnStep, recipe: Recipe | None = None) -> Scores:
    """Train `tiny-aligned` and `tiny-instruct` in `folder`; finished phases are reused.

    Args:
        folder: gets the two checkpoints, and `phases/` with the state for resuming.
        on_step: called after each step.
        recipe: default: that of the shipped ones.

    Returns:
        The scores after each phase, also written to `scores.json`.
    """
    recipe = recipe or Recipe()
    run = partial(run_phase, folder=folder / "phases", on_step=on_step)
    tokenizer = make_tokenizer(documents=recipe.documents)
    processor, model = make_processor(tokenizer), make_model(tokenizer)
    scores: Scores = {
        "tower": train_tower(model, processor, recipe, run),
        "language": train_language(model, tokenizer, recipe, run),
    }
    # From here on training starts from the written weights, which are in half precision.
    parts, aligned, instructed = folder / "phases" / "parts", folder / "tiny-aligned", folder / "tiny-instruct"
    save_checkpoint(model, processor, parts)
    lmm = _loaded(parts)
    scores["aligned"] = align(lmm, recipe, run)
    save_checkpoint(lmm.blip, lmm.processor, aligned)
    write_card(aligned, recipe, scores)
    lmm = _loaded(aligned)
    scores["instruct"] = instruct(lmm, recipe, run)
    save_checkpoint(lmm.blip, lmm.processor, instructed)
    write_card(instructed, recipe, scores)
    write_json(folder / "scores.json", scores)
    return scores


def train_tower(model: Any, processor: Any, recipe: Recipe, run: Run) -> dict[str, float]:
    """Train `model.vision_model`; returns its accuracy by head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grid = VISION["image_size"] // VISION["patch_size"]
        tower = Tower(model.vision_model, width=VISION["hidden_size"], grid=grid)
    loss = partial(tower_loss, tower, processor.image_processor, batch=recipe.batch)
    run(recipe.tower, dict(tower.named_parameters()), loss)
    return tower_accuracy(tower, processor.image_processor, count=recipe.checked)


def train_language(model: Any, tokenizer: Any, recipe: Recipe, run: Run) -> dict[str, float]:
    """Train `model.language_model`; returns the share of texts answered correctly, by role."""
    lm = model.language_model
    for phase, write in ((recipe.lookup, lookup), (recipe.language, document)):
        run(phase, dict(lm.named_parameters()), partial(language_loss, lm, tokenizer, write, batch=recipe.texts))
    return language_accuracy(lm, tokenizer, texts=recipe.checked)


def align(lmm: InstructBlip, recipe: Recipe, run: Run) -> dict[str, float]:
    """Train query tokens, Q-Former and projection on captions; returns the scores on new images."""
    bank = CaptionBank(lmm, images=recipe.images, name="training")
    for phase, loss in ((recipe.slots, slot_loss), (recipe.captions, caption_loss)):
        run(phase, lmm.trainable(), partial(loss, lmm, bank, batch=recipe.batch))
    return caption_accuracy(lmm, CaptionBank(lmm, images=recipe.checked, name="test"))


def instruct(lmm: InstructBlip, recipe: Recipe, run: Run) -> dict[str, float]:
    """Tune the same parameters jointly on the known tasks of `pocket-b2`; returns the scores by task."""
    samples, features = known_samples(lmm, count=recipe.per_task)
    loss = partial(instruct_loss, lmm, samples, features, batch=recipe.batch)
    run(recipe.instruct, lmm.trainable(), loss)
    return known_accuracy(lmm, count=recipe.checked)


def _loaded(folder: Path) -> InstructBlip:
    return cast("InstructBlip", load_lmm(str(folder), dtype="float32", device="cpu"))
