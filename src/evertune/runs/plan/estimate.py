"""Estimates the cost of a run of a large model from its configuration: parameters, memory by part, hours per GPU.

An estimate, not a measurement: 2 operations per parameter and token in the forward pass and 2 to 4 in the backward
pass, memory of a plain training step. It shows whether a run is feasible and the order of its duration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch

from evertune.data import Sample, Stream, Task
from evertune.methods import Context, Method
from evertune.models.features import FeatureStore
from evertune.models.meta import TRAINED_BYTES, MetaLMM, gigabytes
from evertune.models.protocol import LMM
from evertune.runs.plan.outline import Outline, PlanSettings, outline, samples_seen
from evertune.training.loop import Training, trained_parameters
from evertune.utils.errors import UserError

UTILISATION = 0.35
"""Share of a GPU's peak performance that training of such models reaches in practice."""
BYTES_PER_LAYER = 34
"""Bytes of activations per token and unit of width, in half precision (Korthikanti et al. 2022, arXiv 2205.05198)."""
LETTERS_PER_TOKEN = 4.0
ANSWER_TOKENS = 8
USABLE = 0.92
"""Share of a GPU's memory that a process can use."""
LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: memory in GB, dense bfloat16 operations per second in 10^12, memory bandwidth in GB/s."""

    name: str
    memory: float
    speed: float
    bandwidth: float


CARDS = (
    Card("L4 24 GB", 24, 121, 300),
    Card("RTX 4090 24 GB", 24, 165, 1008),
    Card("A100 40 GB", 40, 312, 1555),
    Card("A100 80 GB", 80, 312, 2039),
    Card("H100 80 GB", 80, 989, 3350),
)
"""Makers' data sheets."""


@dataclass(frozen=True, slots=True)
class CardPlan:
    """One GPU: whether the run fits, and the hours it would take (None where it does not)."""

    name: str
    fits: bool
    encode_hours: float | None
    train_hours: float | None
    evaluate_hours: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Outline):
    """The estimate of a run.

    Attributes:
        memory: bytes by part, of a training step at the run's micro-batch.
        per_task_bytes: weights that the method keeps per task: an expert, an adapter; 0 where it trains one
            set of weights.
        share_of_model: of a saved stage.
        tokens: of a sample: visual, and of text by the rule of four letters each.
    """

    model: str
    trained_by_part: dict[str, int]
    per_task_bytes: int
    share_of_model: float
    memory: dict[str, int]
    tokens: dict[str, int]
    cards: list[CardPlan]


def plan_on_paper(
    paper: MetaLMM, methods: Sequence[Method], stream: Stream, *, name: str, how: PlanSettings, dtype: str
) -> Estimate:
    """The plan of one method on one stream.

    Raises:
        UserError: the method's stages depend on images, or the run fits on none of the cards.
    """
    lmm = cast(LMM, paper)
    context = Context(lmm=lmm, features=cast(FeatureStore, None), seed=0, start=paper.trainable())
    tasks: list[Task] = list(stream.tasks)
    for method in methods:
        method.setup(context)
        if stream.known and type(method).stages is not Method.stages:
            raise UserError(f"{name} on {stream.name} can't be estimated: its stages depend on images")
        tasks = method.stages(tasks)
    trained = {n: p.numel() for n, p in trained_parameters(lmm, methods).items()}
    total = sum(trained.values())
    number = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    tokens = {"visual": paper.visual_tokens(), "text": _text_tokens(tasks)}
    memory = _memory(paper, trained=total, tokens=sum(tokens.values()), training=how.training, dtype=number)
    plan = outline(methods, stream, tasks, how=how, trained=total, dtype=number, image_bytes=paper.bytes_per_image())
    work = _Work(paper, trained=total, tokens=sum(tokens.values()), weight_bytes=number.itemsize)
    amounts = _Amounts(plan["features"].encoded, samples_seen(plan["stages"], how.training), plan["answers"])
    has_experts = any(method.in_model_dtype for method in methods)
    made = Estimate(
        method=name,
        model=paper.name,
        trained_by_part={part: sum(trained.get(n, 0) for n in names) for part, names in paper.scopes().items()},
        all_parameters=paper.count(),
        per_task_bytes=plan["stage_bytes"] if has_experts else sum(method.grows_by() for method in methods),
        share_of_model=plan["stage_bytes"] / (paper.count() * number.itemsize),
        memory=memory,
        tokens=tokens,
        cards=[_on(card, work, memory=sum(memory.values()), amounts=amounts) for card in CARDS],
        **plan,
    )
    _refuse_if_nowhere(made)
    return made


@dataclass(frozen=True, slots=True)
class _Work:
    """Operations and bytes of one sample."""

    paper: MetaLMM
    trained: int
    tokens: int
    weight_bytes: int

    def train(self) -> float:
        """Operations of one training sample: forward 2, backward through frozen weights 2, to trained ones 2 more."""
        return (4.0 * self.paper.lm_compute() + 6.0 * self.trained) * self.tokens

    def answer(self) -> float:
        """Operations of one answer."""
        return 2.0 * self.paper.lm_compute() * (self.tokens + ANSWER_TOKENS)

    def weights(self) -> int:
        """Bytes of the LM's weights, which every generated token reads once per batch."""
        return self.paper.lm_compute() * self.weight_bytes


class _Amounts(NamedTuple):
    """Encoded images, trained samples and answers of a run."""

    encoded: int
    samples: float
    answers: int


ANSWER_BATCH = 32


def _on(card: Card, work: _Work, *, memory: int, amounts: _Amounts) -> CardPlan:
    """Hours on one card; reading the weights for each generated token is shared by a batch of answers."""
    if memory > USABLE * card.memory * 1e9:
        return CardPlan(card.name, fits=False, encode_hours=None, train_hours=None, evaluate_hours=None)
    speed = UTILISATION * card.speed * 1e12
    reading = ANSWER_TOKENS * work.weights() / (card.bandwidth * 1e9) / ANSWER_BATCH
    return CardPlan(
        card.name,
        fits=True,
        encode_hours=amounts.encoded * work.paper.encode_compute() / speed / 3600,
        train_hours=amounts.samples * work.train() / speed / 3600,
        evaluate_hours=amounts.answers * (work.answer() / speed + reading) / 3600,
    )


def _memory(paper: MetaLMM, *, trained: int, tokens: int, training: Training, dtype: torch.dtype) -> dict[str, int]:
    """Bytes by part of a training step without gradient checkpointing."""
    text = paper.module().config.get_text_config()  # type: ignore[operator, union-attr]
    per_layer = BYTES_PER_LAYER * tokens * training.batch_size * int(text.hidden_size)
    tower, quantized = paper.count(paper.tower) * dtype.itemsize, paper.quantized.bytes
    return {
        "vision tower": tower,
        **({"quantized weights of the LM": quantized} if quantized else {}),
        "other frozen weights": (paper.count() - trained - paper.quantized.parameters) * dtype.itemsize - tower,
        "trained weights, gradients, AdamW": trained * TRAINED_BYTES,
        f"activations of {training.batch_size} samples": per_layer * int(text.num_hidden_layers) * dtype.itemsize // 2,
    }


def _text_tokens(tasks: Sequence[Task]) -> int:
    """Tokens of instruction and answer of a sample, by its letters."""
    samples: list[Sample] = [sample for task in tasks for sample in task.train[:LOOKED_AT]]
    letters = sum(len(sample.instruction) + len(sample.answers[0]) for sample in samples)
    return round(letters / LETTERS_PER_TOKEN / max(1, len(samples))) + 1


def _refuse_if_nowhere(made: Estimate) -> None:
    """Raise when a plan fits on none of the cards.

    Raises:
        UserError: with what is needed, and what would help.
    """
    if any(card.fits for card in made.cards):
        return
    parts = ", ".join(f"{gigabytes(size)} {part}" for part, size in made.memory.items())
    raise UserError(
        f"{made.model} with {made.method} needs {gigabytes(sum(made.memory.values()))} ({parts}), more than any single "
        f"GPU here has ({CARDS[-1].name}). Lower train.batch_size and raise train.gradient_accumulation_steps, let "
        "less train (model.scope=projection), or take bfloat16 or model.quantization=4bit"
    )
