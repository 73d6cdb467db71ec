"""What the families of models repeat: a frozen LM that says where the model is, and texts that its tokenizer reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from evertune.models.decoder import mean_word_embeddings, token_texts
from evertune.models.modes import evaluating
from evertune.models.protocol import Generation, Turn


class Questions(NamedTuple):
    """The questions of a batch: `counts` says how many images each instruction has."""

    instructions: Sequence[str]
    counts: Sequence[int]
    context: Sequence[Turn]
    max_new_tokens: int


class FamilyLMM(nn.Module):
    """The part of the LMM protocol that all families answer alike; a subclass is the module that trains."""

    name: str
    tokenizer: Any
    """Of the LM."""

    @abstractmethod
    def scopes(self) -> Mapping[str, Sequence[str]]:
        """Named groups of what trains."""

    @abstractmethod
    def _words(self) -> Any:
        """The LM's table of word embeddings, a module; always frozen."""

    @abstractmethod
    def _answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer, end token included."""

    @abstractmethod
    def _generate(self, features: Tensor, questions: Questions) -> list[Generation]:
        """Greedy answers, in evaluation mode without gradients."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """What the tower takes of an RGB image, as tensors on the CPU."""

    @abstractmethod
    def encode_prepared(self, prepared: Sequence[Any]) -> Tensor | list[Tensor]:
        """Frozen vision features of prepared images."""

    def encode(self, images: Sequence[Image.Image]) -> Tensor | list[Tensor]:
        """Frozen vision features of RGB images."""
        return self.encode_prepared([self.prepare(image) for image in images])

    @property
    def device(self) -> torch.device:
        """Where the LM is."""
        return self._words().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen LM."""
        return self._words().weight.dtype  # type: ignore[no-any-return]

    @property
    def unshared(self) -> str | None:
        """The family does not support it, unless it says so."""
        return "its family does not support it"

    def module(self) -> nn.Module:
        """The object itself."""
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters of all scopes, in the module's order."""
        wanted = {name for names in self.scopes().values() for name in names}
        return {name: p for name, p in self.named_parameters() if name in wanted}

    def lr_scale(self, parameter: str) -> float:
        """1 for all."""
        return 1.0

    @torch.inference_mode()
    def generate(
        self,
        features: Tensor,
        instructions: Sequence[str],
        *,
        max_new_tokens: int,
        images: Sequence[int] | None = None,
        context: Sequence[Turn] = (),
    ) -> list[Generation]:
        """Greedy answers; as `Generator.generate`."""
        with evaluating(self):
            questions = Questions(instructions, images or [1] * len(instructions), context, max_new_tokens)
            return self._generate(features, questions)

    def answer_tokens(self, answer: str) -> int:
        """Tokens of `answer` with its end token."""
        return len(self._answer_ids(answer))

    def tokenizers(self) -> Mapping[str, Any]:
        """The LM's."""
        return {"language model": self.tokenizer}

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text before it."""
        return token_texts(self.tokenizer, ids)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Mean of the LM's frozen input embeddings over the text's tokens, (n, width)."""
        return mean_word_embeddings(self.tokenizer, self._words().weight, texts)
