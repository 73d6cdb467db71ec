"""`python scripts/pretrain.py smol`: only the projector of `smol` learns, from captions of images; its LM is frozen.

It takes the role of BLIP-2 in He et al. 2023: a model whose visual tokens are aligned with its LM and which was not
trained on questions, so that methods that train only projectors start fairly. Deterministic and resumable.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save
from torch import Tensor

from evertune.data import Sample, load_stream
from evertune.models import load_lmm, model_folder
from evertune.models.features import FeatureStore
from evertune.models.smol import Smol
from evertune.models.smol_weights import ABOUT_PROJECTOR, PROJECTOR, with_projector
from evertune.utils.files import digest_of_file, make_folder, read_json, write_atomically, write_json
from pretraining.align import caption_shares
from pretraining.captions import corpus
from pretraining.phases import OnStep, run_phase
from pretraining.recipes import SmolRecipe
from pretraining.smol_card import write_smol_card

BUCKETS = 4
CHECKED_AT_ONCE = 32
Scores = dict[str, dict[str, float]]


def pretrain_smol(folder: Path, *, on_step: OnStep, recipe: SmolRecipe | None = None) -> Scores:
    """Train the projector; an interrupted phase is resumed.

    Args:
        folder: gets `projector/` (the shipped weights), `smol-aligned/` (a checkpoint with them) and `phases/` (the
            state
            for resuming).
        on_step: called after each step, also while the frozen tower encodes all images.
        recipe: default: that of the shipped one.

    Returns:
        Scores of the base and the trained model on held-out captions, also written to `scores.json`.
    """
    recipe = recipe or SmolRecipe()
    lmm = _loaded(recipe.model)
    task = load_stream(recipe.corpus or str(corpus(folder / "captions"))).tasks[0]
    held_out = list(task.test[: recipe.checked])
    features = FeatureStore(lmm)
    features.ensure([*task.train, *held_out], progress=lambda done, total: on_step("images", done, total, 0.0))
    scores = {"smol": _base(lmm, held_out, features, make_folder(folder / "phases") / "base.json")}
    train_projector(lmm, list(task.train), features, recipe, folder=folder / "phases", on_step=on_step)
    base = model_folder(recipe.model)
    save_projector(lmm, folder / "projector", base=base)
    # Evaluate the weights as written, in half precision.
    aligned = _loaded(str(with_projector(base, folder / "projector", folder / "smol-aligned")))
    scores["smol-aligned"] = caption_scores(aligned, held_out, features)
    write_smol_card(folder / "projector", recipe, scores, captions=len(task.train))
    write_json(folder / "scores.json", scores)
    return scores


def train_projector(
    lmm: Smol, samples: Sequence[Sample], features: FeatureStore, recipe: SmolRecipe, *, folder: Path, on_step: OnStep
) -> None:
    """Train only the projector of `lmm` on the captions of `samples`; LoRA is untrained and has no effect."""
    lmm.module().requires_grad_(False)
    projector = {name: lmm.trainable()[name] for name in lmm.scopes()["projection"]}
    loss = partial(caption_loss, lmm, samples, features, batch=recipe.batch)
    run_phase(recipe.captions, projector, loss, folder=folder, on_step=on_step)


def caption_loss(
    lmm: Smol, samples: Sequence[Sample], features: FeatureStore, choose: random.Random, *, batch: int
) -> Tensor:
    """Loss of `batch` captions of similar length: with random lengths, padding would cost a fifth of a step."""
    drawn = sorted(choose.choices(range(len(samples)), k=BUCKETS * batch), key=lambda at: _length(samples[at]))
    rows = [samples[at] for at in drawn[choose.randrange(BUCKETS) * batch :][:batch]]
    loss: Tensor = lmm(lmm.collate(rows, features.get(rows))).loss
    return loss


def _length(sample: Sample) -> int:
    return len(sample.instruction) + len(sample.answers[0])


@torch.inference_mode()
def caption_scores(lmm: Smol, samples: Sequence[Sample], features: FeatureStore) -> dict[str, float]:
    """Loss per token of captions, and the `caption_shares` of greedy generation."""
    nll, tokens, predicted = 0.0, 0, []
    longest = max(lmm.answer_tokens(sample.answers[0]) for sample in samples)
    for start in range(0, len(samples), CHECKED_AT_ONCE):
        part = samples[start : start + CHECKED_AT_ONCE]
        output = lmm(lmm.collate(part, features.get(part)))
        nll, tokens = nll + float(output.nll.sum()), tokens + int(output.tokens.sum())
        predicted += lmm.generate(features.get(part), [s.instruction for s in part], max_new_tokens=longest)
    return {"loss": nll / tokens, **caption_shares(predicted, [s.answers[0] for s in samples])}


def save_projector(lmm: Smol, folder: Path, *, base: Path) -> None:
    """Write the projector in half precision, with the hash of the checkpoint that it was trained with."""
    tensors = {name: p.detach().half().contiguous() for name, p in lmm.projector.state_dict().items()}
    write_atomically(folder / PROJECTOR, save(tensors))
    config = read_json(base / "config.json")
    about = {
        "projector_sha256": digest_of_file(folder / PROJECTOR),
        "projector_origin": f"captions, with the LM {config['origin']} ({config['lm_sha256'][:12]})",
    }
    write_json(folder / ABOUT_PROJECTOR, about)


def _base(lmm: Smol, held_out: Sequence[Sample], features: FeatureStore, path: Path) -> dict[str, float]:
    """Scores before the training, cached in `path` for a resumed call."""
    if not path.exists():
        write_json(path, caption_scores(lmm, held_out, features))
    kept: dict[str, float] = read_json(path)
    return kept


def _loaded(name: str) -> Smol:
    return cast(Smol, load_lmm(name, seed=0, dtype="float32", device=torch.device("cpu")))
