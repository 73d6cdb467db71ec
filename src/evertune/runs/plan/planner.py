"""Plans a run and its cost without training: sizes, steps, parameters, memory, time.

The time is measured: one micro-batch is trained and one batch answered on this machine, and both are
scaled to the run. The memory is the peak of this process after them, with what a run has to import besides.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from evertune.data import Sample, Stream, Task
from evertune.methods import Context, Method, adapted
from evertune.methods.similarity import evenly_spaced
from evertune.models.feature_encoder import FeatureEncoder
from evertune.models.feature_policy import FeaturePolicy, Need
from evertune.models.features import FeatureStore, grey_features, sources_of
from evertune.models.protocol import LMM
from evertune.models.weights import copy_of, restore
from evertune.runs.cells import wanted_cells
from evertune.runs.feature_needs import image_needs
from evertune.runs.plan.features import FeaturePlan, plan_features
from evertune.training.evaluator import longest_answer
from evertune.training.gradients import reaching
from evertune.training.loop import Training, trained_parameters
from evertune.training.thinning import is_kept

ENCODED = 8
"""Images that are encoded to measure the time of one."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a planned run. `samples` is per epoch, before a method adds its own (replay adds a few)."""

    task: str
    samples: int
    steps: int
    test: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned run.

    Attributes:
        answers: questions that the run asks, over all cells that it evaluates.
        stage_bytes: disk space of a saved stage: the expert, or one copy of everything trained.
        stages_kept: how many stages keep their weights (`stages.keep`).
        encode_seconds: of the vision tower, with reading and preparing the images, in a run that finds none in the
            cache.
    """

    method: str
    stages: list[StagePlan]
    trained_parameters: int
    all_parameters: int
    train_seconds: float
    evaluate_seconds: float
    peak_memory_bytes: int
    dtype: str
    threads: int
    answers: int = 0
    stage_bytes: int = 0
    stages_kept: int = 0
    features: FeaturePlan | None = None
    encode_seconds: float = 0.0

    @property
    def disk_bytes(self) -> int:
        """Of the kept stages, without the samples and importances that a method stores."""
        return self.stage_bytes * self.stages_kept

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured on this machine: seconds per trained sample, answered one and encoded image; bytes of an image's
    features."""

    train: float
    answer: float
    encode: float
    image_bytes: int


def measure_pace(lmm: LMM, stream: Stream, training: Training, *, batch: int) -> Speed:
    """Train on one micro-batch and answer one batch, with features of grey images; the weights stay as they are."""
    first = stream.tasks[0]
    samples = _filled(first.train, training.batch_size)
    features = grey_features(lmm, sum(len(sample.images) for sample in samples))
    before = copy_of(lmm.trainable())
    seconds = []
    for _ in range(2):  # the first one also pays for memory and kernels
        start = time.perf_counter()
        reaching(lmm.module()(lmm.collate(samples, features)).loss, lmm.trainable()).backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - start)
    lmm.module().zero_grad()
    restore(lmm.trainable(), before)
    tested = _filled(first.test, batch)
    images, longest = [len(sample.images) for sample in tested], longest_answer(lmm, first, None)
    features = grey_features(lmm, sum(images))
    start = time.perf_counter()
    lmm.generate(features, [s.instruction for s in tested], max_new_tokens=longest, images=images)
    answer = (time.perf_counter() - start) / len(tested)
    encode, image_bytes = _encoding(lmm, evenly_spaced(first.train, ENCODED))
    return Speed(train=seconds[-1] / len(samples), answer=answer, encode=encode, image_bytes=image_bytes)


def _encoding(lmm: LMM, samples: Sequence[Sample]) -> tuple[float, int]:
    """Seconds per image of `samples`, read, prepared and encoded, and the bytes of its features."""
    sources = {source.sha256: source for sample in samples for source in sources_of(sample)}
    encoder = FeatureEncoder(lmm)
    encoder.encode_now(list(sources.values())[:1])  # the first one also pays for memory and kernels
    start = time.perf_counter()
    made = encoder.encode_now(list(sources.values()))
    images = max(1, len(made))
    return (time.perf_counter() - start) / images, sum(part.nbytes for part in made.values()) // images


def plan_run(
    lmm: LMM,
    methods: Sequence[Method],
    stream: Stream,
    *,
    name: str,
    training: Training,
    pace: Speed,
    cells: str = "all",
    keep: str = "all",
    policy: FeaturePolicy | None = None,
) -> Plan:
    """The plan of one method on one stream.

    `cells` as in `wanted_cells`, `keep` as in `thinning`; `policy` says where features are kept.
    """
    lmm = adapted(lmm, methods, seed=0)
    policy = policy or FeaturePolicy()
    context = Context(lmm=lmm, features=FeatureStore(lmm, policy=policy), seed=0, start=lmm.trainable())
    tasks: list[Task] = list(stream.tasks)
    for method in methods:
        method.setup(context)
    for method in methods:
        if type(method).stages is not Method.stages:  # its stages may include known tasks
            for task in stream.known:
                method.on_known_task(task)
        tasks = method.stages(tasks)
    stages = stages_of(tasks, training)
    seen = samples_seen(stages, training)
    answers = answers_of(cells, stream, tasks)
    trained = sum(p.numel() for p in trained_parameters(lmm, methods).values())
    images, uses = image_needs(stream, tasks, lambda task: training.fitted(len(task.train)))
    features = plan_features(policy, Need(images, pace.image_bytes, uses))
    return Plan(
        method=name,
        stages=stages,
        trained_parameters=trained,
        all_parameters=sum(p.numel() for p in lmm.module().parameters()),
        train_seconds=seen * pace.train,
        evaluate_seconds=answers * pace.answer,
        peak_memory_bytes=_peak_memory(),
        dtype=str(lmm.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        answers=answers,
        stage_bytes=stage_bytes(methods, trained, lmm.dtype),
        stages_kept=stages_kept(methods, keep, len(stages)),
        features=features,
        encode_seconds=features.encoded * pace.encode,
    )


def stages_kept(methods: Sequence[Method], keep: str, count: int) -> int:
    """How many of `count` stages keep their weights: all, where each has an expert that later ones refer to."""
    if any(method.in_model_dtype for method in methods):
        return count
    return sum(is_kept(keep, number, last=count) for number in range(1, count + 1))


def stage_bytes(methods: Sequence[Method], trained: int, dtype: torch.dtype) -> int:
    """Bytes of a saved stage: trained weights are float32, experts have the model's dtype."""
    return trained * (dtype if any(method.in_model_dtype for method in methods) else torch.float32).itemsize


def stages_of(tasks: Sequence[Task], training: Training) -> list[StagePlan]:
    """The stages of a run with their optimizer steps."""
    return [StagePlan(t.name, n := len(t.train), training.fitted(n).steps(n), len(t.test)) for t in tasks]


def samples_seen(stages: Sequence[StagePlan], training: Training) -> float:
    """Training samples of all stages, counted once per epoch."""
    return sum(training.fitted(stage.samples).epochs * stage.samples for stage in stages)


def answers_of(cells: str, stream: Stream, stages: Sequence[Task]) -> int:
    """How many questions the wanted cells have."""
    sizes = {task.name: len(task.test) for task in stream.columns}
    names = [task.name for task in stages]
    return sum(sizes[name] for _, name in wanted_cells(cells, list(sizes), known=len(stream.known), stages=names))


def _filled(samples: Sequence[Sample], count: int) -> list[Sample]:
    return [samples[i % len(samples)] for i in range(count)]


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
