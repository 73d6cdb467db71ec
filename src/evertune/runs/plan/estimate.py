"""Estimates the cost of a run of a large model from its configuration: parameters, memory by part, hours per GPU.

An estimate, not a measurement: 2 operations per parameter and token in the forward pass and 2 to 4 in the backward
pass, memory of a plain training step. It shows whether a run is feasible and the order of its duration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch

from evertune.data import Sample, Stream, Task
from evertune.methods import Context, Method
from evertune.models.feature_policy import FeaturePolicy, Need
from evertune.models.features import FeatureStore
from evertune.models.meta import TRAINED_BYTES, MetaLMM, gigabytes
from evertune.models.protocol import LMM
from evertune.runs.feature_needs import image_needs
from evertune.runs.plan.features import FeaturePlan, plan_features
from evertune.runs.plan.planner import StagePlan, answers_of, samples_seen, stage_bytes, stages_kept, stages_of
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of a run.

    Attributes:
        answers: questions that the run asks, over all cells that it evaluates.
        memory: bytes by part, of a training step at the run's micro-batch.
        per_task_bytes: weights that the method keeps per task: an expert, an adapter; 0 where it trains one
            set of weights.
        stage_bytes: disk space of a saved stage: the expert, or one copy of everything trained.
        stages_kept: how many stages keep their weights (`stages.keep`).
        share_of_model: of the stage.
        tokens: of a sample: visual, and of text by the rule of four letters each.
    """

    method: str
    model: str
    stages: list[StagePlan]
    trained_parameters: int
    trained_by_part: dict[str, int]
    all_parameters: int
    per_task_bytes: int
    stage_bytes: int
    share_of_model: float
    memory: dict[str, int]
    tokens: dict[str, int]
    cards: list[CardPlan]
    dtype: str
    answers: int
    stages_kept: int
    features: FeaturePlan

    @property
    def disk_bytes(self) -> int:
        """Of the kept stages."""
        return self.stage_bytes * self.stages_kept

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def plan_on_paper(
    paper: MetaLMM,
    methods: Sequence[Method],
    stream: Stream,
    *,
    name: str,
    training: Training,
    dtype: str,
    cells: str = "all",
    keep: str = "all",
    policy: FeaturePolicy | None = None,
) -> Estimate:
    """The plan of one method on one stream.

    `cells` as in `wanted_cells`, `keep` as in `thinning`; `policy` says where features are kept.

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
    number = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    tokens = {"visual": paper.visual_tokens(), "text": _text_tokens(tasks)}
    memory = _memory(paper, trained=sum(trained.values()), tokens=sum(tokens.values()), training=training, dtype=number)
    stages = stages_of(tasks, training)
    answers = answers_of(cells, stream, tasks)
    work = _Work(paper, trained=sum(trained.values()), tokens=sum(tokens.values()), weight_bytes=number.itemsize)
    images, uses = image_needs(stream, tasks, lambda task: training.fitted(len(task.train)))
    features = plan_features(policy or FeaturePolicy(), Need(images, paper.bytes_per_image(), uses))
    amounts = _Amounts(features.encoded, samples_seen(stages, training), answers)
    has_experts = any(method.in_model_dtype for method in methods)
    kept = stage_bytes(methods, sum(trained.values()), number)
    made = Estimate(
        method=name,
        model=paper.name,
        stages=stages,
        trained_parameters=sum(trained.values()),
        trained_by_part={part: sum(trained.get(n, 0) for n in names) for part, names in paper.scopes().items()},
        all_parameters=paper.count(),
        per_task_bytes=kept if has_experts else sum(method.grows_by() for method in methods),
        stage_bytes=kept,
        share_of_model=kept / (paper.count() * number.itemsize),
        memory=memory,
        tokens=tokens,
        cards=[_on(card, work, memory=sum(memory.values()), amounts=amounts) for card in CARDS],
        features=features,
        dtype=str(number).removeprefix("torch."),
        answers=answers,
        stages_kept=stages_kept(methods, keep, len(stages)),
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
    return {
        "vision tower": paper.count(paper.tower) * dtype.itemsize,
        "other frozen weights": (paper.count() - paper.count(paper.tower) - trained) * dtype.itemsize,
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
        "less train (model.scope=projection), or take bfloat16"
    )
