"""The family InstructBLIP: ViT -> instruction-aware Q-Former -> linear projection -> decoder LM, from Hugging Face.

The source paper's architecture. Query tokens, Q-Former and projection train; the vision tower and the LM are frozen.
A checkpoint is what `InstructBlipForConditionalGeneration.save_pretrained` and its processor write; `tiny-aligned` and
`tiny-instruct` are such folders, and so are the real ones with a decoder-only LM (Vicuna).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from evertune.errors import UserError
from evertune.files import digest, digest_of_file, read_json
from evertune.lmm import FAMILIES
from evertune.lmm.decoder import answer_rows, greedy_answers, loss_behind_image, mean_word_embeddings, pad
from evertune.lmm.protocol import Batch, Output
from evertune.lmm.weights import fingerprint_of
from evertune.tasks.task import Sample

TRAINED = ("blip.query_tokens", "blip.qformer.", "blip.language_projection.")


class InstructBlip(nn.Module):
    """The LMM protocol over the library's InstructBLIP classes."""

    pictures = FAMILIES["instructblip"].pictures

    def __init__(self, *, name: str, folder: Path, model: Any, processor: Any) -> None:
        super().__init__()
        self.name = name
        self.blip = model
        self.processor = processor
        self._end: int = processor.tokenizer.eos_token_id
        self._files = {p.name: digest_of_file(p) for p in sorted(folder.rglob("*")) if p.suffix in _DECIDING}
        self._texts: dict[str, list[int]] = {}

    @property
    def device(self) -> torch.device:
        """Where the LM is."""
        device: torch.device = self._table().device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the frozen LM."""
        return self._table().dtype

    @property
    def fingerprint(self) -> str:
        """Hash of every file of the checkpoint that decides an answer."""
        return digest(*(f"{name} {sha}" for name, sha in self._files.items()))

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of the tower's weights and the preparation of pictures: tuned siblings share their features."""
        tower = self.blip.vision_model.state_dict()
        return digest(fingerprint_of(tower), str(self.processor.image_processor.to_dict()))

    def module(self) -> nn.Module:
        """The object itself."""
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Query tokens, Q-Former and projection."""
        return {n: p for n, p in self.named_parameters() if n.startswith(TRAINED)}

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """`projection`: the linear layer before the LM; `qformer`: the Q-Former with its query tokens."""
        names = list(self.trainable())
        projection = [n for n in names if n.startswith("blip.language_projection.")]
        return {"projection": projection, "qformer": [n for n in names if n not in projection]}

    def rate(self, parameter: str) -> float:
        """All parts were pre-trained: one rate."""
        del parameter
        return 1.0

    def prompt(self, instruction: str) -> str:
        """The instruction behind the visual tokens, as the processor renders it."""
        return "{image}" + instruction

    def forward(self, batch: Batch) -> Output:
        """Loss of the answers of `batch`."""
        lm = self.blip.language_model
        return loss_behind_image(lm.model, lm.lm_head, self.soft_tokens(batch), self._words(), batch)

    def soft_tokens(self, batch: Batch) -> Tensor:
        """(B, queries, LM width): what stands before the instruction for the LM."""
        return self._visual(batch.features, batch.extras["qformer_ids"], batch.extras["qformer_attention"])

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, 1 + patches, width) hidden states of the tower, the [CLS] first, float16."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").pixel_values
        tower = self.blip.vision_model
        rows: Tensor = tower(pixels.to(self.device, tower.dtype)).last_hidden_state
        return rows.to("cpu", torch.float16).contiguous()

    def collate(self, samples: Sequence[Sample], features: Tensor) -> Batch:
        """The instruction stands twice: before the Q-Former and before the LM. Labels on answer and end token only."""
        prompts = [self._prompt_ids(s.instruction) for s in samples]
        answers = [self._answer_ids(s.answers[0]) for s in samples]
        ids, attention = self._qformer_text([s.instruction for s in samples])
        extras = {"qformer_ids": ids, "qformer_attention": attention}
        rows = answer_rows(prompts, answers, self._end)
        return Batch(features, *rows, tuple(samples), extras).to(self.device)

    @torch.inference_mode()
    def answer(
        self,
        features: Tensor,
        instructions: Sequence[str],
        *,
        max_new_tokens: int,
        pictures: Sequence[int] | None = None,
    ) -> list[str]:
        """Greedy answers, one picture each."""
        del pictures
        was_training = self.training
        self.eval()
        ids, attention = self._qformer_text(instructions)
        visual = self._visual(features.to(self.device), ids.to(self.device), attention.to(self.device))
        embeds = [
            torch.cat([image, self._words()(torch.tensor(self._prompt_ids(text), device=self.device))])
            for image, text in zip(visual, instructions, strict=True)
        ]
        lm, tokenizer = self.blip.language_model, self.processor.tokenizer
        answers = greedy_answers(lm, tokenizer, embeds, max_new_tokens=max_new_tokens, end=self._end)
        self.train(was_training)
        return answers

    def answer_tokens(self, answer: str) -> int:
        """Tokens of `answer` with its end token."""
        return len(self._answer_ids(answer))

    def embed_images(self, features: Tensor) -> Tensor:
        """The tower's [CLS], as in the paper."""
        return features[:, 0].float().cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Mean of the LM's frozen input embeddings over the text's tokens, (n, width)."""
        return mean_word_embeddings(self.processor.tokenizer, self._table(), texts)

    def _table(self) -> Tensor:
        return self._words().weight  # type: ignore[no-any-return]

    def _words(self) -> Any:
        return self.blip.language_model.get_input_embeddings()

    def _visual(self, features: Tensor, ids: Tensor, attention: Tensor) -> Tensor:
        """(B, queries, LM width) soft tokens of (B, V, D) features under (B, L) instructions."""
        pictures = features.to(self.blip.query_tokens.dtype)
        queries = self.blip.query_tokens.expand(len(pictures), -1, -1)
        ahead = attention.new_ones(queries.shape[:2])
        output = self.blip.qformer(
            input_ids=ids,
            attention_mask=torch.cat([ahead, attention], dim=1),
            query_embeds=queries,
            encoder_hidden_states=pictures,
        ).last_hidden_state[:, : queries.shape[1]]
        return self.blip.language_projection(output).to(self.dtype)  # type: ignore[no-any-return]

    def _qformer_text(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokenizer = self.processor.qformer_tokenizer
        rows = [self._ids(tokenizer, "q", text, special=True) for text in instructions]
        return pad(rows, tokenizer.pad_token_id), pad([[1] * len(row) for row in rows], 0)

    def _prompt_ids(self, instruction: str) -> list[int]:
        return self._ids(self.processor.tokenizer, "p", instruction, special=True)

    def _answer_ids(self, answer: str) -> list[int]:
        return [*self._ids(self.processor.tokenizer, "a", answer, special=False), self._end]

    def _ids(self, tokenizer: Any, kind: str, text: str, *, special: bool) -> list[int]:
        """Token ids, remembered: the same instructions come back in every epoch."""
        key = f"{kind} {text}"
        if key not in self._texts:
            if len(self._texts) > _REMEMBERED:
                self._texts.clear()
            self._texts[key] = list(tokenizer(text, add_special_tokens=special).input_ids)
        return self._texts[key]


_DECIDING = {".json", ".safetensors", ".txt", ".model"}
_REMEMBERED = 100_000


def load_instructblip(folder: Path, *, name: str, seed: int, dtype: torch.dtype, device: torch.device) -> InstructBlip:
    """Load a checkpoint folder. Nothing in it is random, so `seed` decides nothing.

    Raises:
        UserError: a file is missing or broken, or the LM is an encoder-decoder.
    """
    from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

    del seed
    if read_json(folder / "config.json").get("text_config", {}).get("is_encoder_decoder"):
        raise UserError(f"{folder}: an InstructBLIP with an encoder-decoder LM (Flan-T5) is not supported yet")
    attention = "eager" if device.type == "cpu" else "sdpa"  # faster backward on a CPU for sequences this short
    try:
        model = InstructBlipForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        processor = InstructBlipProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise UserError(f"{folder} can't be read as an InstructBLIP checkpoint: {problem}") from problem
    model = model.requires_grad_(False).to(device).eval()
    lmm = InstructBlip(name=name, folder=folder, model=model, processor=processor)
    for parameter in lmm.trainable().values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return lmm
