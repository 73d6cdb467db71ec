"""What evertune needs of a large multimodal model, and nothing more: an `LMM`, or the part of it that a caller takes.

A family is one file that offers an object with all members; `family_base.py` has those that families share. Vision
features are frozen: they are computed once per image (`encode`), and training and generation take them as input.
Everything that trains is in `trainable()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from evertune.data.task import Sample
from evertune.utils.errors import UserError

LossMean = Literal["sample", "token"]
Size = tuple[int, int]
"""(height, width) of an image in pixels."""
TYPICAL: Size = (448, 448)
"""Size of an image whose tokens are counted where its own is not known."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The first tokens of the samples of a batch, one copy for each group of samples that share them.

    Attributes:
        input_ids: (G, P) padded on the left; P is 0 where visual tokens alone are shared, and these are no ids.
        attention: (G, P) 1 where `input_ids` is a token, 0 where it is padding.
        groups: the number of the group of each of the B samples.
    """

    input_ids: Tensor
    attention: Tensor
    groups: tuple[int, ...]

    @property
    def first(self) -> list[int]:
        """The first sample of each group."""
        return [self.groups.index(group) for group in range(len(self.input_ids))]

    def to(self, device: torch.device) -> SharedPrefix:
        """The same on `device`."""
        return SharedPrefix(self.input_ids.to(device), self.attention.to(device), self.groups)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples ready for the model: B samples, V visual tokens of width D, L text tokens padded on the right.

    Attributes:
        features: (images, V, D) frozen vision features of all samples, one after another, half precision.
        input_ids: (B, L) instruction, answer and end token.
        attention: (B, L) 1 where `input_ids` is text, 0 where it is padding.
        labels: (B, L) the token id where it is part of the answer (end token included), -100 elsewhere.
        samples: what the rows are.
        extras: what a family needs besides, B rows each.
        prefix: what stands before `input_ids`, where samples share it; `features` are then those of each group once.
    """

    features: Tensor
    input_ids: Tensor
    attention: Tensor
    labels: Tensor
    samples: tuple[Sample, ...]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    prefix: SharedPrefix | None = None

    @property
    def image_counts(self) -> list[int]:
        """How many of the images each of the B samples has, or each group that shares its prefix; it may be none."""
        rows = range(len(self.samples)) if self.prefix is None else self.prefix.first
        return [len(self.samples[row].images) for row in rows]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        tensors = (self.features, self.input_ids, self.attention, self.labels)
        features, input_ids, attention, labels = (t.to(device) for t in tensors)
        extras = {name: t.to(device) for name, t in self.extras.items()}
        prefix = self.prefix and self.prefix.to(device)
        return Batch(features, input_ids, attention, labels, self.samples, extras, prefix)


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass says about the answers of a batch.

    Attributes:
        nll: (B,) negative log-likelihood of each whole answer, in nats: the sum over its tokens.
        tokens: (B,) number of answer tokens, end token included.
        logits: (N, vocabulary) at the N answer positions of the batch, sample after sample.
        loss_mean: what each counts the same in a mean over the batch: a sample, or an answer token.
    """

    nll: Tensor
    tokens: Tensor
    logits: Tensor
    loss_mean: LossMean = "sample"

    @property
    def weights(self) -> Tensor:
        """(B,) what each sample counts in a mean over the batch."""
        return self.tokens if self.loss_mean == "token" else torch.ones_like(self.tokens)

    def mean(self, each: Tensor) -> Tensor:
        """Mean over the batch of (B,) values, each of which is a mean over a sample's answer tokens."""
        return (self.weights * each).sum() / self.weights.sum() if self.loss_mean == "token" else each.mean()

    @property
    def loss(self) -> Tensor:
        """Mean over samples of the mean over answer tokens, or mean over the answer tokens of all samples."""
        return self.mean(self.nll / self.tokens)


class Generation(str):
    """A prediction. A string, because scores, caches and files need its text alone.

    Attributes:
        ids: the generated tokens, end token included.
        finished: whether the end token was reached; else `max_new_tokens` cut it off.
    """

    ids: tuple[int, ...]
    finished: bool

    def __new__(cls, text: str, ids: Sequence[int] = (), *, finished: bool = True) -> Generation:
        """The text with what it was decoded from."""
        made = super().__new__(cls, text)
        made.ids, made.finished = tuple(ids), finished
        return made


class Turn(NamedTuple):
    """The turns before a question: `images` of the sample's belong to it, in the order of the turns."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: int = 0


def refuse_context(name: str, context: Sequence[Turn]) -> None:
    """Stop a dialogue where a model reads single questions.

    Raises:
        UserError: there is a turn.
    """
    if context:
        raise UserError(f"{Path(name).name} reads single questions: leave out the system prompt and earlier turns")


class Length(NamedTuple):
    """Tokens that a part of the model reads of a sample, and how many it can read."""

    part: str
    tokens: int
    limit: int


class Model(Protocol):
    """What every part of the protocol has."""

    name: str
    images_per_sample: range
    """How many images a sample may have."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of what is frozen."""

    @property
    def unshared(self) -> str | None:
        """Why samples about the same images can't share a copy of their first tokens; None where they can."""


class Trainable(Model, Protocol):
    """What trains: the module, its parameters, and the batches that it reads."""

    hf_prefix: str
    """Where in `module()` the model of the library `transformers` is: what the names of its parameters begin with."""

    def module(self) -> nn.Module:
        """The module that trains; calling it with a `Batch` gives an `Output`."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that trains, by its name in `module()`; all in float32."""

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """Named groups of `trainable()` names; 'projection' is there in every family."""

    def lr_scale(self, parameter: str) -> float:
        """Factor of the learning rate for the parameter of this name."""

    def collate(self, samples: Sequence[Sample], features: Tensor, *, shared: bool = False) -> Batch:
        """Render prompts and answers of `samples` and put them beside the (images, V, D) features of all of them.

        With `shared`, samples about the same images get one copy of the tokens that they begin with (`SharedPrefix`),
        unless `unshared` says why not. The losses are the same.
        """

    def save(self, folder: Path) -> None:
        """Write the weights as they are now, with what says how they are read, as a checkpoint that this family loads.

        Low-rank matrices of the model's own are merged into their layers, so the model is spent afterwards. Other files
        of a checkpoint (tokenizer, preparation of images) are not written: they do not change.
        """


class Encoder(Model, Protocol):
    """What encodes: the frozen vision tower, whose output is cached, and frozen embeddings of images and texts."""

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of what decides `encode`: the vision tower and the preparation of images."""

    def prepare(self, image: Image.Image) -> Any:
        """What the tower takes of an RGB image, as tensors on the CPU: done in data workers, which have no GPU."""

    def encode_prepared(self, prepared: Sequence[Any]) -> Tensor | list[Tensor]:
        """(n, V, D) frozen vision features of n prepared images, half precision, on the CPU; never with dropout.

        A list of (V, D) where images have different numbers of rows; such a family finds them in padded ones itself.
        """

    def encode(self, images: Sequence[Image.Image]) -> Tensor | list[Tensor]:
        """`encode_prepared` of n RGB images."""

    def embed_images(self, features: Tensor) -> Tensor:
        """(n, D) one frozen vector per image from its (n, V, D) features, float32, on the CPU."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, width) frozen embeddings of instructions or answers, float32, on the CPU."""


class Generator(Model, Protocol):
    """What generates answers."""

    def generate(
        self,
        features: Tensor,
        instructions: Sequence[str],
        *,
        max_new_tokens: int,
        images: Sequence[int] | None = None,
        context: Sequence[Turn] = (),
    ) -> list[Generation]:
        """Greedy answers to n instructions with (images, V, D) features; the same whatever else is in the batch.

        Neighbours about the same images share the keys and values of these, unless `unshared` says why not.

        `images` says how many of the features belong to each instruction, 0 included; by default one. `context` is
        the turns before each of them; their images are the first of each.

        Raises:
            UserError: the model reads no dialogue, or not this one.
        """


class Described(Model, Protocol):
    """What describes a model and how it reads text, without running it."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides an answer before any training: weights, prompt, image preparation."""

    @property
    def image_token(self) -> str:
        """What stands for an image in a text that this model's tokenizer reads."""

    def prompt(self, instruction: str, *, images: int = 1) -> str:
        """The rendered prompt, `{image}` where the visual tokens of each image stand."""

    def answer_tokens(self, answer: str) -> int:
        """Number of tokens of `answer`, end token included."""

    def lengths(
        self, instruction: str, answer: str, images: Sequence[Size] = (TYPICAL,), context: Sequence[Turn] = ()
    ) -> tuple[Length, ...]:
        """What each part of the model reads of a sample with images of these sizes, answer and end token included.

        By sizes alone: no image is prepared. No part has more tokens of text than the text has bytes, but for those of
        the prompt around it; each image adds as many tokens as it does alone.

        Raises:
            DataError: an image of such a size can't be prepared; the message begins with 'an image of'.
            UserError: as `Generator.generate`.
        """

    def tokenizers(self) -> Mapping[str, Any]:
        """The tokenizer of each part that reads text; `language model` is there in every family, and first."""

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined they are the whole. Empty for a token that ends in the middle of a letter."""


class TrainableEncoder(Trainable, Encoder, Protocol):
    """What methods need of a model. A bare module of the library has it too (`integrations/bare_model.py`)."""


class LMM(TrainableEncoder, Generator, Described, Protocol):
    """A large multimodal model with a frozen, cacheable vision tower."""
