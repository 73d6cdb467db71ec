"""`evertune pretrain tiny`: the paper's architecture in miniature, made from scratch on two cores.

    tower             the ViT learns to see          lookup, language   the decoder learns the language from text
    slots, captions   the Q-Former learns to describe         -> tiny-aligned, the BLIP-2 role
    instruct          joint tuning on the known tasks of b2   -> tiny-instruct, the InstructBLIP role

Deterministic, and resumable: the same command goes on in the middle of a phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from evertune.files import write_json
from evertune.lmm.instructblip import load_instructblip
from evertune.pretrain.align import CaptionBank, caption_accuracy, caption_loss, slot_loss
from evertune.pretrain.corpus import document, lookup
from evertune.pretrain.instruct import instruct_loss, known_samples
from evertune.pretrain.language import language_accuracy, language_loss
from evertune.pretrain.parts import VISION, make_model, make_processor, make_tokenizer, save_checkpoint
from evertune.pretrain.phases import OnStep, Phase, run_phase
from evertune.pretrain.tower import Tower, tower_accuracy, tower_loss

if TYPE_CHECKING:
    from evertune.lmm.instructblip import InstructBlip

TOWER = Phase("tower", steps=3000, learning_rate=1e-3)
LOOKUP = Phase("lookup", steps=400, learning_rate=1e-3)
LANGUAGE = Phase("language", steps=1600, learning_rate=1e-3)
SLOTS = Phase("slots", steps=2500, learning_rate=1e-3)
CAPTIONS = Phase("captions", steps=500, learning_rate=3e-4)
INSTRUCT = Phase("instruct", steps=1500, learning_rate=5e-4)
BATCH = 64
TEXTS = 32
PICTURES = 16_384
Scores = dict[str, dict[str, float]]


def pretrain_tiny(folder: Path, *, on_step: OnStep) -> Scores:
    """Make `tiny-aligned` and `tiny-instruct` in `folder`; phases that were finished are taken over.

    Args:
        folder: the two checkpoints are written here, and `phases/` with what a resumed call needs.
        on_step: told about progress.

    Returns:
        What was measured after each phase, also written to `scores.json`.
    """
    phases = folder / "phases"
    tokenizer = make_tokenizer()
    processor, model = make_processor(tokenizer), make_model(tokenizer)
    scores: Scores = {
        "tower": train_tower(model, processor, folder=phases, on_step=on_step),
        "language": train_language(model, tokenizer, folder=phases, on_step=on_step),
    }
    # From here on everything starts from what was written, so that half precision is part of what is trained on.
    save_checkpoint(model, processor, phases / "parts")
    scores["aligned"] = align(_loaded(phases / "parts"), folder=phases, to=folder / "tiny-aligned", on_step=on_step)
    scores["instruct"] = instruct(
        _loaded(folder / "tiny-aligned"), folder=phases, to=folder / "tiny-instruct", on_step=on_step
    )
    write_json(folder / "scores.json", scores)
    return scores


def train_tower(model: Any, processor: Any, *, folder: Path, on_step: OnStep) -> dict[str, float]:
    """Train `model.vision_model`; returns how well it sees."""
    tower = Tower(model.vision_model, width=VISION["hidden_size"], grid=VISION["image_size"] // VISION["patch_size"])
    loss = partial(tower_loss, tower, processor.image_processor, batch=BATCH)
    _run(TOWER, dict(tower.named_parameters()), loss, folder=folder, on_step=on_step)
    return tower_accuracy(tower, processor.image_processor)


def train_language(model: Any, tokenizer: Any, *, folder: Path, on_step: OnStep) -> dict[str, float]:
    """Train `model.language_model`; returns the share of texts that it answers right."""
    lm = model.language_model
    for phase, write in ((LOOKUP, lookup), (LANGUAGE, document)):
        loss = partial(language_loss, lm, tokenizer, write, batch=TEXTS)
        _run(phase, dict(lm.named_parameters()), loss, folder=folder, on_step=on_step)
    return {"texts": language_accuracy(lm, tokenizer)}


def align(lmm: InstructBlip, *, folder: Path, to: Path, on_step: OnStep) -> dict[str, float]:
    """Train query tokens, Q-Former and projection on captions; returns how well new pictures are described."""
    bank = CaptionBank(lmm, pictures=PICTURES, name="training")
    for phase, loss in ((SLOTS, slot_loss), (CAPTIONS, caption_loss)):
        _run(phase, lmm.trainable(), partial(loss, lmm, bank, batch=BATCH), folder=folder, on_step=on_step)
    save_checkpoint(lmm.blip, lmm.processor, to)
    return caption_accuracy(lmm, CaptionBank(lmm, pictures=512, name="test"))


def instruct(lmm: InstructBlip, *, folder: Path, to: Path, on_step: OnStep) -> dict[str, float]:
    """Tune the same parameters jointly on the known tasks of `pocket-b2`."""
    loss = partial(instruct_loss, lmm, *known_samples(lmm), batch=BATCH)
    _run(INSTRUCT, lmm.trainable(), loss, folder=folder, on_step=on_step)
    save_checkpoint(lmm.blip, lmm.processor, to)
    return {}


def _run(phase: Phase, parameters: Mapping[str, nn.Parameter], loss: Any, *, folder: Path, on_step: OnStep) -> None:
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    run_phase(phase, parameters, loss, folder=folder, on_step=on_step)
    for parameter in parameters.values():
        parameter.requires_grad_(False)


def _loaded(folder: Path) -> InstructBlip:
    return load_instructblip(folder, name=folder.name, seed=0, dtype=torch.float32, device=torch.device("cpu"))
