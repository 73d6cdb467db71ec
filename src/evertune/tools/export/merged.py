"""A stage of a run as a checkpoint that others load: `evertune export RUN --to FOLDER`.

Low-rank matrices are merged into their layers. The folder is loaded again before it gets its name, and its logits are
compared with those of the run.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from evertune.assets import Progress
from evertune.data.task import Sample
from evertune.models import load_lmm, model_folder
from evertune.models.adapters import merged
from evertune.models.protocol import Encoder, Trainable
from evertune.models.quantization import quantization_of
from evertune.runs.api import config_of
from evertune.tools.export.base import Base, opened
from evertune.tools.export.card import OF_EVERTUNE, OF_TRANSFORMERS, card_of
from evertune.training.answer_files import read_answers
from evertune.training.learner import Learner
from evertune.utils.errors import RunFolderError, UserError, unknown
from evertune.utils.files import make_folder, whole_folder, write_atomically

COMPARED = 16
"""Questions whose logits are compared, at most."""
APART = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 3e-2}
"""How far logits may lie apart, as a share of the largest: merged weights are rounded to this format."""
COPIED = re.compile(
    r"((lm|qformer_tokenizer)/)?"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|normalizer|tekken|chat_template"
    r"|preprocessor_config|processor_config|video_preprocessor_config)\.json"
    r"|((lm|qformer_tokenizer)/)?((vocab|merges)\.txt|(tokenizer|spiece|sentencepiece|sentencepiece\.bpe)\.model)"
    r"|chat_template\.jinja|additional_chat_templates/[\w-]+\.jinja"
    r"|(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)(\.md|\.txt)?"
)
"""Files that are copied from the folder of the base model: tokenizer, preprocessing, chat template, licence."""


class Merged(NamedTuple):
    """What was written: of which stage and expert, the largest difference of a logit, and the largest logit."""

    stage: int
    expert: str | None
    apart: float
    largest: float


def export_merged(
    run: Path, out: Path, *, base: Base, stage: int | None, expert: str | None, progress: Progress | None
) -> Merged:
    """Write the model of a run as a checkpoint folder; the arguments are those of `export`.

    Raises:
        UserError: there is no such stage or expert; the run's adapters can't be merged, or its LM is quantized; or the
            logits of what was written are not those of the run: then nothing stays.
        RunFolderError: it is no run.
    """
    config = config_of(run)
    if quantization_of(config.model_options) != "none":
        raise UserError(
            "adapters can't be merged into quantized weights: write them with --adapters (adapters=True), and merge "
            "them into the exact model with peft (merge_and_unload)"
        )
    learner, number = opened(run, stage, progress)
    learner.load(number)
    expert = _activate(learner, expert)
    samples, features = _probe_samples(run, learner.lmm)
    wanted = _logits(learner.lmm, samples, features)
    source = model_folder(config.model, progress=progress)
    dtype = learner.lmm.dtype
    with whole_folder(out) as place:
        merged(learner.lmm).save(place)
        del learner  # a large model has no place for two
        _take_over(source, place)
        again = load_lmm(str(place), dtype=str(dtype).removeprefix("torch."), seed=config.seed)
        found = _logits(again, samples, features)
        apart, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
        if not apart <= APART[dtype] * largest:
            raise UserError(f"the logits of {out} lie {apart:.3g} from those of {run}: nothing was exported")
        checked = (
            f"the largest difference between a logit of this folder and of the run is {apart:.1e}, the largest logit "
            f"{largest:.1f} (up to {COMPARED} questions of the run on images of noise)"
        )
        form = OF_EVERTUNE if base.is_smol else OF_TRANSFORMERS
        card = card_of(run, base, form, stage=number, expert=expert, checked=checked)
        write_atomically(place / "README.md", card)
    return Merged(number, expert, apart, largest)


def _activate(learner: Learner, expert: str | None) -> str | None:
    """Put the weights of `expert`, or of the only one, into the model; return its name, None where there are none."""
    learned = [stage.task for stage in learner.stages[: learner.current]]
    experts = list(dict.fromkeys(own for task in learned if (own := learner.expert_of(task)) is not None))
    if not experts and expert is not None:
        raise UserError(f"this run has one model and no experts: leave --expert {expert} out")
    if expert is None and len(experts) == 1:
        (expert,) = experts
    if experts and expert is None:
        raise UserError(f"every task has an expert of its own: say --expert {' or '.join(experts)}")
    if expert is not None:
        if expert not in experts:
            raise unknown("expert", expert, experts)
        learner.activate(expert)
    return expert


def _probe_samples(run: Path, lmm: Encoder) -> tuple[list[Sample], Tensor]:
    """Questions of the run with their first answers, and features of images of noise: the real ones may be gone."""
    rows = [row for path in sorted(run.glob("answers/00/*.jsonl")) for row in read_answers(path)[:2]]
    if not rows:
        raise RunFolderError(f"{run} has no answers: run the same command again to make them")
    noise = random.Random(0)
    image = Path("noise")
    samples = [Sample(str(row["id"]), (image,), row["instruction"], (row["gold"][0],)) for row in rows[:COMPARED]]
    images = [Image.frombytes("RGB", (64, 64), noise.randbytes(3 * 64 * 64)) for _ in samples]
    return samples, torch.stack(list(lmm.encode(images)))


@torch.no_grad()
def _logits(lmm: Trainable, samples: Sequence[Sample], features: Tensor) -> Tensor:
    logits: Tensor = lmm.module().eval()(lmm.collate(samples, features)).logits
    return logits.float().cpu()


def _take_over(source: Path, place: Path) -> None:
    """Copy the files beside the weights that do not change, of the files in `COPIED`.

    Raises:
        UserError: one of them is a link that leads out of the model's folder, or no regular file.
    """
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        kept = place / name
        if not COPIED.fullmatch(name.as_posix()) or kept.exists():
            continue
        if not path.is_file() or not any(path.resolve().is_relative_to(own.resolve()) for own in _own(source)):
            raise UserError(
                f"{path} is no regular file of the model's folder, so it is not copied: put the file itself there"
            )
        make_folder(kept.parent)
        shutil.copyfile(path, kept)


def _own(source: Path) -> list[Path]:
    """Where the files of a model are: its folder, and in the hub's cache the blobs that its links lead to."""
    return [source, source.parent.parent / "blobs"] if source.parent.name == "snapshots" else [source]
