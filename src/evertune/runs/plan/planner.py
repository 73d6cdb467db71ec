"""Plans a run and its cost without training: sizes, steps, parameters, memory, time.

The time is measured: one micro-batch is trained and one batch answered on this machine, and both are
scaled to the run. The memory is the peak of this process after them, with what a run has to import besides.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evertune.data import Sample, Stream, Task
from evertune.methods import Context, Method, adapted
from evertune.methods.similarity import evenly_spaced
from evertune.models.feature_encoder import FeatureEncoder
from evertune.models.features import FeatureStore, grey_features, sources_of
from evertune.models.protocol import LMM
from evertune.models.quantization import count_parameters
from evertune.models.weights import copy_of, restore
from evertune.runs.plan.outline import Outline, PlanSettings, outline, samples_seen
from evertune.training.evaluator import longest_answer
from evertune.training.gradients import reaching
from evertune.training.loop import Training, trained_parameters

ENCODED = 8
"""Images that are encoded to measure the time of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Outline):
    """A planned run, measured on this machine.

    Attributes:
        encode_seconds: of the vision tower, with reading and preparing the images, in a run that finds none in the
            cache.
    """

    train_seconds: float
    evaluate_seconds: float
    peak_memory_bytes: int
    threads: int
    encode_seconds: float


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


def plan_run(lmm: LMM, methods: Sequence[Method], stream: Stream, *, name: str, how: PlanSettings, pace: Speed) -> Plan:
    """The plan of one method on one stream."""
    lmm = adapted(lmm, methods, seed=0)
    context = Context(lmm=lmm, features=FeatureStore(lmm, policy=how.policy), seed=0, start=lmm.trainable())
    tasks: list[Task] = list(stream.tasks)
    for method in methods:
        method.setup(context)
    for method in methods:
        if type(method).stages is not Method.stages:  # its stages may include known tasks
            for task in stream.known:
                method.on_known_task(task)
        tasks = method.stages(tasks)
    trained = sum(p.numel() for p in trained_parameters(lmm, methods).values())
    made = outline(methods, stream, tasks, how=how, trained=trained, dtype=lmm.dtype, image_bytes=pace.image_bytes)
    return Plan(
        method=name,
        all_parameters=count_parameters(lmm.module()),
        train_seconds=samples_seen(made["stages"], how.training) * pace.train,
        evaluate_seconds=made["answers"] * pace.answer,
        peak_memory_bytes=_peak_memory(),
        threads=torch.get_num_threads(),
        encode_seconds=made["features"].encoded * pace.encode,
        **made,
    )


def _filled(samples: Sequence[Sample], count: int) -> list[Sample]:
    return [samples[i % len(samples)] for i in range(count)]


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
