"""Accumulates the gradient of an optimizer step over micro-batches, which are split if memory is short.

A micro-batch that does not fit into memory must not end a run of days: its halves, weighted by their share of samples,
give the same gradient up to rounding. All micro-batches of a step, on all processes, are its window.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evertune.data.task import Sample
from evertune.methods import Method
from evertune.methods.hook_results import terms_of
from evertune.models.protocol import Batch, LossMean, Trainable
from evertune.utils import distributed
from evertune.utils.errors import UserError


class NotFiniteError(UserError):
    """A loss or a gradient is not finite; `samples` are the ids of the samples that went into it."""

    def __init__(self, what: str, value: float, samples: Sequence[str]) -> None:
        super().__init__(
            f"the {what} is {value} at the samples {', '.join(samples)}; no step was taken. Lower train.learning_rate, "
            "or look at these samples"
        )
        self.what, self.samples = what, list(samples)


class Gradients:
    """Adds up the gradients of the micro-batches of a window.

    A sample counts 1, or as many as its answer has tokens (`loss_mean`), wherever it is: the loss of a step is the mean
    over its window, and so is each term of a method.

    Attributes:
        pieces: the number of splits of each micro-batch; doubles when memory does not suffice, and stays so.
    """

    def __init__(
        self,
        lmm: Trainable,
        methods: Sequence[Method],
        parameters: Mapping[str, nn.Parameter],
        order: Sequence[Sample],
        accelerator: Any,
        make_batch: Callable[[Sequence[Sample]], Batch],
        *,
        loss_mean: LossMean = "sample",
    ) -> None:
        self._lmm, self._methods, self._parameters = lmm, methods, parameters
        self._order, self._accelerator, self._make_batch = order, accelerator, make_batch
        self._loss_mean = loss_mean
        self._micro_batches: list[range] = []  # of this window so far
        self._loss = self._weight = 0.0  # their sums, over all processes
        self._terms: dict[str, float] = {}  # of this process
        self._has_terms = any(type(method).loss_terms is not Method.loss_terms for method in methods)
        self.pieces = 1

    def add(self, batch: Batch, whole: range, window: range) -> None:
        """Add the gradient of a micro-batch of `window`; `batch` is this process's part of it.

        Raises:
            NotFiniteError: the loss is not finite.
            UserError: a single sample does not fit into memory.
        """
        self._micro_batches.append(whole)
        try:
            if self.pieces > 1:
                self._in_pieces(whole, window)
            else:
                self._part(batch, whole, window, counts=bool(distributed.shard(whole)))
            return
        except torch.OutOfMemoryError as problem:
            if distributed.world_size() > 1:  # the other processes wait for this one's part
                raise
            message = str(problem)
        self._again(message, window)  # here, after the failed attempt's memory is freed

    def finish(self, window: range) -> float:
        """Make the gradients those of the window's mean, the same on all processes; returns its loss."""
        distributed.all_reduce_gradients(self._parameters)
        if self._weight != len(window):  # the number of tokens is known only now
            for parameter in self._parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(len(window) / self._weight)
        return self._loss / self._weight

    def refuse_not_finite(self, norm: Tensor) -> None:
        """Called once per step, with the norm of the gradient; the next micro-batch starts a new window."""
        self._refuse("gradient", norm.item(), [place for whole in self._micro_batches for place in whole])
        self._micro_batches, self._loss, self._weight, self._terms = [], 0.0, 0.0, {}

    def terms(self) -> dict[str, float]:
        """Each loss term of the methods by `METHOD/NAME`, its mean over the window; called before `finish`."""
        if not self._has_terms:  # the same on all processes
            return {}
        total: Counter[str] = Counter()
        for each in distributed.all_gather(self._terms):
            total.update(each)
        return {name: value / self._weight for name, value in total.items()}

    def _part(self, batch: Batch, places: range, window: range, *, counts: bool) -> None:
        """Add a part of the window; a part that does not count is computed only because other processes wait for it."""
        terms: dict[str, Tensor] = {}
        loss, weight = loss_of(self._lmm.module(), self._methods, batch, loss_mean=self._loss_mean, terms=terms)
        weight = weight if counts else 0.0
        for name, term in terms.items():
            self._refuse(f"loss term {name}", term.item(), places)
            self._terms[name] = self._terms.get(name, 0.0) + weight * term.item()
        total, weights = distributed.all_reduce_sum([weight * loss.item(), weight], device=loss.device)
        self._refuse("loss", total, places)
        self._accelerator.backward(reaching(weight / len(window) * loss, self._parameters))
        self._loss += total
        self._weight += weights

    def _in_pieces(self, whole: range, window: range) -> None:
        size = -(-len(whole) // self.pieces)
        for start in range(whole.start, whole.stop, size):
            places = range(start, min(start + size, whole.stop))
            rows = [self._order[place] for place in places]
            self._part(self._make_batch(rows).to(self._lmm.device), places, window, counts=True)

    def _again(self, message: str, window: range) -> None:
        """Repeat the window's micro-batches so far in smaller splits, until they fit."""
        while True:
            largest = max(len(whole) for whole in self._micro_batches)
            if self.pieces >= largest:
                raise UserError(
                    f"one sample alone does not fit into memory ({message}): "
                    "set train.gradient_checkpointing=true, or let less of the model train"
                )
            self.pieces *= 2
            for parameter in self._parameters.values():
                parameter.grad = None
            if self._lmm.device.type == "cuda":
                torch.cuda.empty_cache()
            self._loss = self._weight = 0.0
            self._terms = {}
            try:
                for whole in self._micro_batches:
                    self._in_pieces(whole, window)
                return
            except torch.OutOfMemoryError as problem:
                message = str(problem)

    def _refuse(self, what: str, value: float, places: Sequence[int]) -> None:
        if not math.isfinite(value):
            raise NotFiniteError(what, value, [self._order[place].id for place in places])


def loss_of(
    module: nn.Module,
    methods: Sequence[Method],
    batch: Batch,
    *,
    loss_mean: LossMean = "sample",
    terms: dict[str, Tensor] | None = None,
) -> tuple[Tensor, float]:
    """The loss of a batch with the methods' loss terms, a mean over the batch; and the weight of the batch.

    Each term is put into `terms` by `METHOD/NAME`, where that is wanted.
    """
    output = replace(module(batch), loss_mean=loss_mean)
    total: Tensor = output.loss
    for method in methods:
        for name, term in terms_of(method, batch, output).items():
            total = total + term
            if terms is not None:
                terms[f"{method.name}/{name}"] = term
    return total, float(output.weights.sum())


def reaching(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The loss. In a batch without images it may not depend on the trained parameters; then its gradient is 0."""
    return loss if loss.requires_grad else loss + sum((0 * p).sum() for p in parameters.values())
