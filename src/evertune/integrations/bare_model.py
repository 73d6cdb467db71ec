"""A model of the library `transformers` and the rows that it reads, as methods want a model (`TrainableEncoder`).

A bare module with the part of the LMM protocol that methods use: parameters, the loss of each sample, its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from evertune.data.task import Sample
from evertune.integrations.rows import ANSWER, PROMPT, Row, Rows
from evertune.models.decoder import IGNORE, output_of_logits
from evertune.models.protocol import Batch, Output
from evertune.utils.errors import UserError

T = TypeVar("T")
Collate = Callable[[list[Row]], Mapping[str, Any]]


class NoFeatures:
    """Features of samples whose images, if any, are inside their rows."""

    def ensure(self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
        """There is nothing to encode."""

    def ahead(self, batches: Iterable[Sequence[Sample]]) -> AbstractContextManager[None]:
        """There is nothing to prepare."""
        return nullcontext()

    def ahead_of(self, loader: Iterable[T], batches: Iterable[Sequence[Sample]]) -> Iterator[T]:
        """The items of the loader."""
        return iter(loader)

    def get(self, samples: Sequence[Sample]) -> Tensor:
        """None."""
        return self.like[:0]

    @property
    def like(self) -> Tensor:
        """Of the smallest shape."""
        return torch.zeros(1, 1, 1)


class BareModel(nn.Module):
    """The model, called with a `Batch`; what it reads besides labels is in the batch's `extras`.

    Args:
        model: any module that gives `logits`: of a causal LM (with or without images), of an encoder-decoder, or of a
            classifier.
        rows: what samples refer to.
        collate: makes the model's inputs of rows.
        dtype: what the model computes in.
        words: the table of word embeddings that texts are embedded by; None: the model's own, as it is at first use.
    """

    hf_prefix = "model."
    images_per_sample = range(1)
    encoder_fingerprint = ""

    def __init__(
        self,
        model: nn.Module,
        rows: Rows,
        collate: Collate,
        *,
        dtype: torch.dtype = torch.float32,
        words: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.name = type(model).__name__
        self.dtype = dtype
        self.words = words
        self._rows, self._collate = rows, collate
        self._shifted = not getattr(getattr(model, "config", None), "is_encoder_decoder", False)

    @property
    def training(self) -> bool:
        """The mode of the model, which the Trainer changes without this module."""
        return self.model.training

    @training.setter
    def training(self, mode: bool) -> None:
        """`train` and `eval` apply to the model."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def module(self) -> nn.Module:
        """The object itself."""
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that requires a gradient."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """There are none."""
        return {}

    def lr_scale(self, parameter: str) -> float:
        """1 for all."""
        return 1.0

    def save(self, folder: Path) -> None:
        """As the library writes it."""
        self.model.save_pretrained(folder)  # type: ignore[operator]

    @property
    def unshared(self) -> str | None:
        """The Trainer's collator decides what a batch is."""
        return "a Trainer makes its batches"

    def collate(self, samples: Sequence[Sample], features: Tensor, *, shared: bool = False) -> Batch:
        """The inputs that the Trainer's collator makes of the samples' rows."""
        inputs = self._collate([self._rows.of(sample.id) for sample in samples])
        return batch_of(inputs, samples=tuple(samples)).to(self.device)

    def forward(self, batch: Batch) -> Output:
        """Loss and logits of each sample."""
        labels = {} if self._shifted else {"labels": batch.labels}
        return self.output_of(batch, self.model(**batch.extras, **labels))

    def output_of(self, batch: Batch, outputs: Any) -> Output:
        """The same from what the library's model has returned for this batch."""
        logits = logits_of(outputs)
        if logits is None:
            raise UserError(f"{self.name} returns no logits, so its loss is not known sample by sample")
        labels = batch.labels
        if labels.ndim == 1:  # one class per sample
            logits, labels = logits[:, None], labels[:, None]
        elif self._shifted:
            logits, labels = logits[:, -labels.shape[1] : -1], labels[:, 1:]  # virtual tokens stand before the others
        output = output_of_logits(logits[labels != IGNORE].float(), labels)
        return Output(output.nll, output.tokens, output.logits, loss_mean="token")

    def prepare(self, image: Image.Image) -> Any:
        """Images are inside the rows."""
        return self.encode([image])

    def encode_prepared(self, prepared: Sequence[Any]) -> Tensor:
        """Images are inside the rows."""
        return self.encode(prepared)

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Images are inside the rows."""
        raise UserError(f"{self.name} has no frozen vision tower of its own here")

    def embed_images(self, features: Tensor) -> Tensor:
        """Of no image: they are inside the rows."""
        return features.mean(1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, width) sum of the word embeddings over the tokens of each prompt or answer that is referred to.

        Where the table trains, a copy of the first call is used in all tasks: what is compared must not move.
        """
        table = self._words() if self.words is None else self.words
        return torch.stack([table[self._tokens(text).to(table.device)].float().sum(0).cpu() for text in texts])

    def _words(self) -> Tensor:
        embeddings = getattr(self.model, "get_input_embeddings", lambda: None)()
        if embeddings is None:
            raise UserError(f"{self.name} has no word embeddings, by which tasks would be compared: leave out 'tir'")
        table: Tensor = embeddings.weight.detach()
        if embeddings.weight.requires_grad:
            self.words = table = table.to("cpu", copy=True)
        return table

    def _tokens(self, text: str) -> Tensor:
        """Token ids of the prompt or the answer of a row; a class has none."""
        batch = batch_of(self._collate([self._rows.of(text.removeprefix(PROMPT).removeprefix(ANSWER))]))
        is_answer = batch.labels != IGNORE
        if text.startswith(ANSWER):
            return batch.labels[is_answer] if batch.labels.ndim > 1 else batch.labels[:0]
        is_prompt = batch.attention.bool()
        return batch.input_ids[is_prompt & ~is_answer if self._shifted and batch.labels.ndim > 1 else is_prompt]


def batch_of(inputs: Mapping[str, Any], *, samples: tuple[Sample, ...] = ()) -> Batch:
    """What a collator has made, as a `Batch`.

    Raises:
        UserError: there are no labels, or they are no classes.
    """
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim not in (1, 2):
        raise UserError(
            "the batches of this Trainer have no `labels` of token ids or classes, from which the loss of each sample "
            "is computed: give the Trainer a data_collator that makes them"
        )
    ids = inputs.get("input_ids")
    ids = ids if isinstance(ids, Tensor) else labels.new_zeros(len(labels), 0)
    attention = inputs.get("attention_mask")
    attention = attention if isinstance(attention, Tensor) else torch.ones_like(ids)
    extras = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and name != "labels"}
    return Batch(ids.new_zeros(0, 1, 1).float(), ids, attention, labels, samples, extras)


def logits_of(outputs: Any) -> Tensor | None:
    """Of a `ModelOutput`, or of a tuple that may begin with the loss."""
    if isinstance(outputs, tuple):
        return next((part for part in outputs if isinstance(part, Tensor) and part.ndim > 1), None)
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return logits if isinstance(logits, Tensor) else None
