"""The families InstructBLIP and BLIP-2: ViT -> Q-Former -> linear projection -> LM, from Hugging Face.

The source paper's architecture. Query tokens, Q-Former and projection train; the vision tower and the LM are frozen.
InstructBLIP's Q-Former reads the instruction, BLIP-2's does not. The LM is a decoder (Vicuna, OPT), or an
encoder-decoder (Flan-T5) that reads image and instruction with its encoder and answers with its decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evertune.data.placeholders import IMAGE_MARK
from evertune.data.task import Sample
from evertune.models.behind_image import (
    answers_behind_images,
    loss_behind_image,
    loss_of_encoder_decoder,
    share_images,
)
from evertune.models.decoder import IGNORE, answer_rows, pad, pad_right, token_ids
from evertune.models.families import FAMILIES
from evertune.models.family_base import FamilyLMM, Questions
from evertune.models.file_bounds import one_line
from evertune.models.modes import evaluating
from evertune.models.processors import PROBE
from evertune.models.protocol import TYPICAL, Batch, Generation, Length, Output, Size, Turn, refuse_context
from evertune.models.shared_prefix import same_images
from evertune.models.weights import fingerprint_of
from evertune.utils.errors import UserError
from evertune.utils.files import digest


def parts_of(names: Sequence[str], *, prefix: str = "") -> dict[str, list[str]]:
    """The parameters that train, by part, from all names; `prefix` stands before each.

    `projection`: the linear layer before the LM; `qformer`: the Q-Former with its query tokens.
    """
    starts = {"projection": ("language_projection.",), "qformer": ("query_tokens", "qformer.")}
    found = {part: tuple(prefix + start for start in wanted) for part, wanted in starts.items()}
    return {part: [n for n in names if n.startswith(wanted)] for part, wanted in found.items()}


class InstructBlip(FamilyLMM):
    """The LMM protocol over the library's InstructBLIP classes."""

    hf_prefix = "blip."
    images_per_sample = FAMILIES["instructblip"].images_per_sample
    image_token = IMAGE_MARK

    def __init__(self, *, name: str, model: Any, processor: Any, content: str) -> None:
        super().__init__()
        self.name = name
        self.blip = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._end: int = processor.tokenizer.eos_token_id
        self._content = content
        self._texts: dict[str, list[int]] = {}
        self._encodes = bool(model.language_model.config.is_encoder_decoder)

    @property
    def fingerprint(self) -> str:
        """Hash of the model and processor as they were loaded."""
        return self._content

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of the tower's weights and the preparation of images: tuned siblings share their features."""
        tower = self.blip.vision_model.state_dict()
        return digest(fingerprint_of(tower), str(self.processor.image_processor.to_dict()))

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """`projection`: the linear layer before the LM; `qformer`: the Q-Former with its query tokens."""
        return parts_of([name for name, _ in self.named_parameters()], prefix="blip.")

    def prompt(self, instruction: str, *, images: int = 1) -> str:
        """The instruction behind the visual tokens, as the processor renders it."""
        return "{image}" * images + instruction

    def forward(self, batch: Batch) -> Output:
        """Loss of the answers of `batch`."""
        lm = self.blip.language_model
        if self._encodes:
            return loss_of_encoder_decoder(lm, self.soft_tokens(batch), self._words(), batch)
        return loss_behind_image(lm.model, lm.lm_head, self.soft_tokens(batch), self._words(), batch)

    def soft_tokens(self, batch: Batch) -> Tensor:
        """(images, queries, LM width): what stands before the instructions for the LM."""
        return self._visual(batch.features, batch.extras, batch.image_counts)

    def prepare(self, image: Image.Image) -> Tensor:
        """(3, side, side) pixels."""
        pixels: Tensor = self.processor.image_processor([image], return_tensors="pt").pixel_values[0]
        return pixels

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Tensor]) -> Tensor:
        """(n, 1 + patches, width) hidden states of the tower, the [CLS] first, float16."""
        tower = self.blip.vision_model
        with evaluating(tower):
            pixels = torch.stack(list(prepared)).to(self.device, tower.dtype)
            rows: Tensor = tower(pixels).last_hidden_state
        return rows.to("cpu", torch.float16).contiguous()

    @property
    def unshared(self) -> str | None:
        """Neither for a Q-Former nor for an encoder that reads image and question together."""
        if self._encodes:
            return "its language model encodes image and question together"
        return "its Q-Former reads the question" if hasattr(self.processor, "qformer_tokenizer") else None

    def collate(self, samples: Sequence[Sample], features: Tensor, *, shared: bool = False) -> Batch:
        """The instruction stands twice: before the Q-Former and before the LM. Labels on answer and end token only.

        With an encoder-decoder, `input_ids` is what the encoder reads and `labels` what the decoder says.
        """
        prompts = [self._prompt_ids(s.instruction) for s in samples]
        answers = [self._answer_ids(s.answers[0]) for s in samples]
        extras, prefix = self._qformer_text([s.instruction for s in samples]), None
        if self._encodes:
            rows = (*pad_right(prompts, self._end), pad(answers, IGNORE))
        else:
            rows = answer_rows(prompts, answers, self._end)
        if shared and not self.unshared:
            same, counts = [s.image_digests for s in samples], [len(s.images) for s in samples]
            prefix, features = share_images(same, features, counts)
        return Batch(features, *rows, tuple(samples), extras, prefix).to(self.device)

    def _generate(self, features: Tensor, questions: Questions) -> list[Generation]:
        """Greedy answers."""
        refuse_context(self.name, questions.context)
        instructions, counts = questions.instructions, questions.counts
        read = {name: part.to(self.device) for name, part in self._qformer_text(instructions).items()}
        prefix = None
        if not self.unshared:
            prefix, features = share_images(same_images(features, counts), features, counts)
        return answers_behind_images(
            self.blip.language_model,
            self.tokenizer,
            self._visual(features.to(self.device), read, counts),
            self._words(),
            [self._prompt_ids(text) for text in instructions],
            counts,
            prefix,
            max_new_tokens=questions.max_new_tokens,
            end=self._end,
        )

    def lengths(
        self, instruction: str, answer: str, images: Sequence[Size] = (TYPICAL,), context: Sequence[Turn] = ()
    ) -> tuple[Length, ...]:
        """The instruction in the Q-Former, if that reads it; soft tokens, instruction, answer and its end in the LM."""
        refuse_context(self.name, context)
        config, found = self.blip.config, []
        if tokenizer := getattr(self.processor, "qformer_tokenizer", None):
            length = len(self._ids(tokenizer, "q", instruction, special=True))
            found.append(Length("Q-Former", length, config.qformer_config.max_position_embeddings))
        if limit := getattr(config.text_config, "max_position_embeddings", None):  # T5's positions have no end
            text = len(self._prompt_ids(instruction)) + len(self._answer_ids(answer))
            visual = self.blip.query_tokens.shape[1] * len(images)
            found.append(Length("language model", visual + text, limit))
        return tuple(found)

    def tokenizers(self) -> Mapping[str, Any]:
        """The LM's, and that of a Q-Former that reads text."""
        tokenizer = getattr(self.processor, "qformer_tokenizer", None)
        return {**super().tokenizers(), **({"Q-Former": tokenizer} if tokenizer else {})}

    def save(self, folder: Path) -> None:
        """As the library's own classes write it."""
        self.blip.save_pretrained(folder)

    def embed_images(self, features: Tensor) -> Tensor:
        """The tower's [CLS], as in the paper."""
        return features[:, 0].float().cpu()

    def _words(self) -> Any:
        return self.blip.language_model.get_input_embeddings()

    def _visual(self, features: Tensor, read: Mapping[str, Tensor], counts: Sequence[int]) -> Tensor:
        """(images, queries, LM width) soft tokens of (images, V, D) features.

        Each image by itself: with several, the Q-Former reads the instruction beside each, as InstructBLIP does with
        the frames of a video. `read` has a row for each instruction, `counts` says how many images it has.
        """
        images = features.to(self.blip.query_tokens.dtype)
        queries = self.blip.query_tokens.expand(len(images), -1, -1)
        if not len(images):  # the library's Q-Former can't read nothing
            return self.blip.language_projection(queries).to(self.dtype)  # type: ignore[no-any-return]
        text = {}
        if read:
            ids, prompt_mask = (_for_each_image(read[name], counts) for name in ("qformer_ids", "qformer_attention"))
            text = {
                "input_ids": ids,
                "attention_mask": torch.cat([prompt_mask.new_ones(queries.shape[:2]), prompt_mask], dim=1),
            }
        output = self.blip.qformer(query_embeds=queries, encoder_hidden_states=images, **text).last_hidden_state
        output = output[:, : queries.shape[1]]
        return self.blip.language_projection(output).to(self.dtype)  # type: ignore[no-any-return]

    def _qformer_text(self, instructions: Sequence[str]) -> dict[str, Tensor]:
        """What the Q-Former reads: nothing where it has no tokenizer (BLIP-2)."""
        tokenizer = getattr(self.processor, "qformer_tokenizer", None)
        if tokenizer is None:
            return {}
        rows = [self._ids(tokenizer, "q", text, special=True) for text in instructions]
        attention = pad([[1] * len(row) for row in rows], 0)
        return {"qformer_ids": pad(rows, tokenizer.pad_token_id), "qformer_attention": attention}

    def _prompt_ids(self, instruction: str) -> list[int]:
        return self._ids(self.tokenizer, "p", instruction, special=True)

    def _answer_ids(self, answer: str) -> list[int]:
        return [*self._ids(self.tokenizer, "a", answer, special=False), self._end]

    def _ids(self, tokenizer: Any, kind: str, text: str, *, special: bool) -> list[int]:
        """Token ids, remembered: the same instructions come back in every epoch."""
        key = f"{kind} {text}"
        found = self._texts.get(key)
        if found is None:
            found = token_ids(tokenizer, text, special=special)
            if len(self._texts) > _REMEMBERED:
                self._texts.clear()
            self._texts[key] = found
        return found  # not read again: a server's threads share this, and another may have cleared it


def _for_each_image(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Each instruction's row as often as it has images."""
    return rows.repeat_interleave(torch.tensor(counts, device=rows.device), dim=0)


_REMEMBERED = 100_000


def wrap_instructblip(
    model: Any, processor: Any, *, name: str, seed: int, options: Mapping[str, Any], content: str
) -> InstructBlip:
    """The LMM of a model of the library and its processor. Nothing in it is random, and it has no options.

    Raises:
        UserError: the processor does not fit the model.
    """
    del seed, options
    lmm = InstructBlip(name=name, model=model.requires_grad_(False), processor=processor, content=content)
    for parameter in lmm.trainable().values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    lmm.eval()
    try:
        lmm.encode([Image.new("RGB", PROBE)])
    except Exception as problem:  # what does not fit raises errors of many kinds
        raise UserError(f"{name}: the processor does not fit the model: {one_line(problem)}") from problem
    return lmm
