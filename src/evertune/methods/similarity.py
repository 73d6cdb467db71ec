"""How similar tasks are, from frozen embeddings of their images, instructions and answers (He et al. 2023).

Used by methods (which weights to protect, which expert to reuse) and by the analysis (which tasks interfere). Plain
functions: methods that need embeddings of earlier tasks keep them in their own state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evertune.data.task import Sample
from evertune.methods.base import Context
from evertune.models.features import Features, embed_images
from evertune.models.modes import evaluating
from evertune.models.protocol import Encoder
from evertune.utils.errors import UserError
from evertune.utils.files import digest

MODALITIES = ("image", "instruction", "answer")
SAMPLES = 1000
GRADIENT = "gradient"
GRADIENT_SAMPLES, GRADIENTS_AT_ONCE, SKETCH = 128, 8, 4096

SimilarityBy = Literal["product", "image", "instruction", "answer", "gradient"]
"""What tells how similar two tasks are: the paper's product over the modalities, one of them, or the directions of the
tasks' mean gradients."""

TaskEmbedding = Mapping[str, Tensor]
"""{modality: (width,) float32 of length 1} of one task."""
TextEncoder = Callable[[Sequence[str]], Tensor]
"""Texts -> (n, width) float32 on the CPU."""


def embed_task(
    lmm: Encoder,
    features: Features,
    samples: Sequence[Sample],
    *,
    count: int = SAMPLES,
    text_encoder: TextEncoder | None = None,
) -> dict[str, Tensor]:
    """Mean of the normalised embeddings of up to `count` evenly spaced samples, normalised, per modality.

    The paper normalises the mean only; docs/analysis.md has the difference.

    Args:
        lmm: its frozen vision tower gives the images' embeddings.
        features: has seen every sample.
        samples: the task's training set; one is enough.
        count: the paper uses about 1,000.
        text_encoder: of instructions and answers; default: the LMM's own frozen one.

    Raises:
        UserError: there are no samples, or an embedding is not finite; the message names it.
    """
    if not samples:
        raise UserError("a task without training samples has no embedding")
    chosen = evenly_spaced(samples, count)
    text = text_encoder or lmm.embed_texts
    rows = {
        "image": embed_images(lmm, features, chosen),
        "instruction": text([s.instruction for s in chosen]),
        "answer": text([s.answers[0] for s in chosen]),
    }
    for modality, values in rows.items():
        if not torch.isfinite(values).all():
            raise UserError(f"the {modality} embedding of a task has a value that is not finite ({chosen[0].origin})")
    return {modality: mean_direction(values) for modality, values in rows.items()}


def task_embedding(context: Context, samples: Sequence[Sample], by: SimilarityBy) -> dict[str, Tensor]:
    """The embedding of a task that its similarity by `by` needs; its features are encoded where they are not yet."""
    if by == GRADIENT:
        return {GRADIENT: gradient_direction(context, samples)}
    context.features.ensure(evenly_spaced(samples, SAMPLES))
    return embed_task(context.lmm, context.features, samples)


def gradient_direction(context: Context, samples: Sequence[Sample], *, count: int = GRADIENT_SAMPLES) -> Tensor:
    """Direction of the mean gradient of the loss at the present weights, as a count sketch: (4096,) of length 1.

    A sketch keeps the cosines of gradients up to about 0.02 (Charikar et al. 2002): each trained scalar is added to one
    of 4,096 sums, with a sign; both are drawn by the parameter's name, alike for all tasks.
    """
    chosen, parameters = evenly_spaced(samples, count), context.parameters
    context.features.ensure(chosen)
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    with evaluating(context.lmm.module()):
        for start in range(0, len(chosen), GRADIENTS_AT_ONCE):
            some = chosen[start : start + GRADIENTS_AT_ONCE]
            output = context.lmm.module()(context.lmm.collate(some, context.features.get(some)))
            loss = (output.nll / output.tokens).sum()
            if loss.requires_grad:
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        total[name] += gradient.float()
    sketch = torch.zeros(SKETCH)
    for name, value in total.items():
        draw = torch.Generator().manual_seed(int(digest("sketch", name)[:8], 16))
        place = torch.randint(SKETCH, (value.numel(),), generator=draw)
        sign = torch.randint(2, (value.numel(),), generator=draw) * 2.0 - 1.0
        sketch.index_add_(0, place, sign * value.flatten().cpu())
    if not torch.isfinite(sketch).all():
        raise UserError(f"the gradient of a task is not finite ({chosen[0].origin})")
    return normalize(sketch, dim=0)


def check_similarity(by: str, *, option: str) -> None:
    """Raise a UserError where `by` is no way to compare tasks."""
    if by not in get_args(SimilarityBy):
        raise UserError(f"{option}={by!r}: choose one of {', '.join(get_args(SimilarityBy))}")


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` of `samples`, at equal distances, the first always among them."""
    count = min(count, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def mean_direction(rows: Tensor) -> Tensor:
    """Normalised mean of the normalised rows: (n, D) -> (D,); all zero when the rows cancel out."""
    return normalize(normalize(rows, dim=1).mean(0), dim=0)


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two vectors; 0 when one of them is zero. (D,), (D,) -> [-1, 1]."""
    return float(normalize(a, dim=0) @ normalize(b, dim=0))


def pair_cosines(tasks: Mapping[str, TaskEmbedding]) -> dict[str, dict[tuple[str, str], float]]:
    """{modality: {(task, task): cosine}} of all unordered pairs of different tasks."""
    return {modality: _cosines(tasks, modality) for modality in MODALITIES}


def _cosines(tasks: Mapping[str, TaskEmbedding], of: str) -> dict[tuple[str, str], float]:
    return {(a, b): cosine(tasks[a][of], tasks[b][of]) for a, b in itertools.combinations(tasks, 2)}


def similarity_to(
    new: TaskEmbedding, old: Mapping[str, TaskEmbedding], *, name: str, by: SimilarityBy = "product"
) -> dict[str, float]:
    """s(k) of every old task k to the new one, each in 0..1: the paper's rule, or its factor of one modality.

    Per modality, all pairwise cosines C among the old tasks and the new one are standardised, z = (C - mean C) / std C
    (sample standard deviation), and s_m(k) = sigmoid(z) at the pair (new, k). With a single pair there is nothing to
    standardise: its cosine is taken, 0 when negative. Where all cosines are equal z is 0. s(k) = Π_m s_m(k), over the
    modalities that some task has: where all samples are text, images say nothing.

    Raises:
        UserError: `name` is among the old tasks; the similarity of a task with itself says nothing.
    """
    if name in old:
        raise UserError(f"task '{name}' is among the tasks it would be compared with")
    tables = _tables({**old, name: new}, by)
    return {k: math.prod(table[k, name] for table in tables) for k in old}


def _tables(tasks: Mapping[str, TaskEmbedding], by: SimilarityBy = "product") -> list[dict[tuple[str, str], float]]:
    """Standardised cosines of all pairs, of each modality that some task has; of all where no task has any."""
    if by != "product":
        return [_standardised(_cosines(tasks, by))]
    cosines = pair_cosines(tasks)
    used = [m for m in MODALITIES if any(bool(task[m].any()) for task in tasks.values())]
    return [_standardised(cosines[m]) for m in used or MODALITIES]


def _standardised(table: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    if len(table) == 1:
        return {pair: max(0.0, value) for pair, value in table.items()}
    values = torch.tensor(list(table.values()), dtype=torch.float64)
    spread = float(values.std())
    # Equal cosines differ in their last bits: a standard deviation of that size counts as 0.
    z = (values - values.mean()) / spread if spread > 1e-6 else torch.zeros_like(values)
    return dict(zip(table, torch.sigmoid(z).tolist(), strict=True))


def similarity_matrix(tasks: Mapping[str, TaskEmbedding]) -> dict[str, dict[str, float | None]]:
    """Similarity between all tasks of a stream, standardised over all its pairs; None on the diagonal."""
    tables = _tables(tasks)

    def value(a: str, b: str) -> float | None:
        return None if a == b else math.prod(t.get((a, b), t.get((b, a), 0.0)) for t in tables)

    return {a: {b: value(a, b) for b in tasks} for a in tasks}
