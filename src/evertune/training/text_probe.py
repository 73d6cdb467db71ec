"""The text probe: the loss of a model on a fixed text, which shows whether its language suffers from what it learns.

The text is in the public domain (`text_probe.txt`). Each passage is the answer to one instruction without an image, so
the loss includes what the model is used to answer: one that was tuned to single words expects its end after the first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache as cached_once
from importlib import resources

import torch

from evertune.data.task import Sample
from evertune.methods import Method
from evertune.models.features import FeatureStore
from evertune.models.protocol import LMM, Output
from evertune.models.weights import copy_of, restore
from evertune.training.evaluator import PredictionCache
from evertune.training.routing import active, routes_of
from evertune.utils import distributed

INSTRUCTION = "Continue the text."
NAME = "(text)"
"""What stands for the task where a method needs one: no task has this name, so the base model answers."""
AT_ONCE = 4
"""Passages of a batch: the logits of an answer are as many as its tokens times the vocabulary."""


@cached_once
def passages() -> tuple[Sample, ...]:
    """The passages as samples without images."""
    text = (resources.files("evertune.training") / "text_probe.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(Sample(f"text-{n:02d}", (), INSTRUCTION, (line,)) for n, line in enumerate(lines, start=1))


def why_not(lmm: LMM) -> str | None:
    """Why a model has no loss on text alone; None where it has one."""
    if 0 not in lmm.images_per_sample:
        return f"{lmm.name} reads no text without an image"
    for sample in passages():
        for part, tokens, limit in lmm.lengths(INSTRUCTION, sample.answers[0], ()):
            if tokens > limit:
                return f"a passage has {tokens} tokens, and the {part} of {lmm.name} reads {limit}"
    return None


def text_losses(
    lmm: LMM, methods: Sequence[Method], features: FeatureStore, *, reuse: bool = True
) -> list[tuple[float, int]]:
    """Negative log-likelihood of each passage in nats, and its number of tokens, end token included.

    A method routes the passages as it routes questions of an unknown task. With `reuse`, losses of bit-identical
    weights are taken from the cache of predictions. The model is as before afterwards.
    """
    samples = passages()
    routes = distributed.broadcast(routes_of(methods, samples, NAME))
    before, module = copy_of(lmm.trainable()), lmm.module()
    trains, found = module.training, dict[int, tuple[float, int]]()
    module.eval()
    try:
        for route in sorted(set(routes), key=str):
            members = [at for at, own in enumerate(routes) if own == route]
            with active(lmm, methods, route), torch.no_grad():
                cached = reuse and not isinstance(route, tuple)
                cache = PredictionCache(lmm, max_new_tokens=0, reuse=cached, methods=methods)
                _fill(cache, lmm, [samples[at] for at in members], features)
            found |= {at: json.loads(cache[_key(samples[at])]) for at in members}
    finally:
        restore(lmm.trainable(), before)
        module.train(trains)
    return [(float(found[at][0]), int(found[at][1])) for at in range(len(samples))]


def _fill(cache: PredictionCache, lmm: LMM, samples: Sequence[Sample], features: FeatureStore) -> None:
    """Compute the losses that are not cached; every process computes all of them."""
    missing = distributed.broadcast([sample for sample in samples if _key(sample) not in cache])
    for start in range(0, len(missing), AT_ONCE):
        chunk = missing[start : start + AT_ONCE]
        output: Output = lmm.module()(lmm.collate(chunk, features.get(chunk)).to(lmm.device))
        pairs = zip(output.nll.tolist(), output.tokens.tolist(), strict=True)
        cache.add(map(_key, chunk), (json.dumps([nll, int(tokens)]) for nll, tokens in pairs))
    if missing and distributed.is_main_process():
        cache.save()


def _key(sample: Sample) -> Sample:
    """What the cache knows a passage by: its keys are instructions."""
    return replace(sample, instruction=f"{sample.instruction}\n{sample.answers[0]}")
