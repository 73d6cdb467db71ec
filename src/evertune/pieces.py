"""The gradient of an optimizer step, micro-batch by micro-batch: each whole, or in pieces where memory is short.

A micro-batch that is too large is no reason to end a run of days: its halves, each counting by its share of samples,
have the same gradient up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evertune import processes
from evertune.errors import UserError
from evertune.lmm.features import FeatureStore
from evertune.lmm.protocol import LMM, Batch
from evertune.methods import Method
from evertune.tasks.task import Sample


class NotFiniteError(UserError):
    """A loss or a gradient is not finite; `samples` are the ids of the samples that went into it."""

    def __init__(self, what: str, value: float, samples: Sequence[str]) -> None:
        super().__init__(
            f"the {what} is {value} at the samples {', '.join(samples)}; no step was taken. Lower train.learning_rate, "
            "or look at these samples"
        )
        self.what, self.samples = what, list(samples)


class Gradients:
    """Adds up the gradients of the micro-batches of a step.

    Attributes:
        pieces: into how many each micro-batch is cut; doubles when memory does not suffice, and stays so.
    """

    def __init__(
        self,
        lmm: LMM,
        methods: Sequence[Method],
        parameters: Mapping[str, nn.Parameter],
        order: Sequence[Sample],
        features: FeatureStore,
        accelerator: Any,
    ) -> None:
        self._lmm, self._methods, self._parameters = lmm, methods, parameters
        self._order, self._features, self._accelerator = order, features, accelerator
        self._micro_batches: list[range] = []  # of this step so far
        self.pieces = 1

    def add(self, batch: Batch, whole: range) -> Tensor:
        """Add the gradient of a micro-batch, which `batch` is this process's part of; returns its mean loss.

        Raises:
            NotFiniteError: the loss is not finite.
            UserError: a single sample does not fit into memory.
        """
        self._micro_batches.append(whole)
        try:
            return self._whole(batch, whole) if self.pieces == 1 else self._in_pieces(whole)
        except torch.OutOfMemoryError as problem:
            if processes.count() > 1:  # the others are waiting for this one's part
                raise
            message = str(problem)
        return self._again(message)  # here, where what the failed attempt held is free again

    def refuse_not_finite(self, norm: Tensor) -> None:
        """Called once per step, with the norm of the gradient; the next micro-batch is of another step."""
        self._refuse("gradient", norm, [place for whole in self._micro_batches for place in whole])
        self._micro_batches = []

    def _whole(self, batch: Batch, whole: range) -> Tensor:
        loss = weight(whole) * loss_of(self._lmm.module(), self._methods, batch)
        mean = processes.mean(loss.detach())
        self._refuse("loss", mean, whole)
        self._accelerator.backward(reaching(loss, self._parameters))
        return mean

    def _in_pieces(self, whole: range) -> Tensor:
        size = -(-len(whole) // self.pieces)
        total = torch.zeros((), device=self._lmm.device)
        for start in range(whole.start, whole.stop, size):
            places = range(start, min(start + size, whole.stop))
            rows = [self._order[place] for place in places]
            batch = self._lmm.collate(rows, self._features.get(rows)).to(self._lmm.device)
            loss = len(places) / len(whole) * loss_of(self._lmm.module(), self._methods, batch)
            self._refuse("loss", loss.detach(), places)
            self._accelerator.backward(reaching(loss, self._parameters))
            total += loss.detach()
        return total

    def _again(self, message: str) -> Tensor:
        """The step's micro-batches so far once more, in smaller pieces, until they fit."""
        while True:
            largest = max(len(whole) for whole in self._micro_batches)
            if self.pieces >= largest:
                raise UserError(
                    f"one sample alone does not fit into memory ({message}): set train.checkpointing=true, or let less "
                    "of the model train"
                )
            self.pieces *= 2
            for parameter in self._parameters.values():
                parameter.grad = None
            if self._lmm.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                return [self._in_pieces(whole) for whole in self._micro_batches][-1]
            except torch.OutOfMemoryError as problem:
                message = str(problem)

    def _refuse(self, what: str, value: Tensor, places: Sequence[int]) -> None:
        if not torch.isfinite(value):
            raise NotFiniteError(what, value.item(), [self._order[place].id for place in places])


def weight(whole: range) -> float:
    """What the mean over this process's part counts, so that the mean over processes is that over all samples."""
    return processes.count() * len(processes.share(whole)) / len(whole)


def loss_of(module: nn.Module, methods: Sequence[Method], batch: Batch) -> Tensor:
    """The loss of a batch with what the methods add to it."""
    output = module(batch)
    total: Tensor = output.loss
    for method in methods:
        for term in method.loss_terms(batch, output).values():
            total = total + term
    return total


def reaching(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The loss, which a batch without a picture may leave without a way back to what trains: its gradient is 0 then."""
    return loss if loss.requires_grad else loss + sum((0 * p).sum() for p in parameters.values())
