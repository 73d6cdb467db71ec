"""The family of chat LMMs: LLaVA, Qwen-VL, SmolVLM, InternVL, PaliGemma, Gemma-3, through the library's own classes.

The frozen tower's output is computed once per image; connector, masks, positions and generation are the library's,
which takes visual tokens made beforehand (`vision_inputs.py`). What differs between models is in `connectors.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from evertune.data.task import Sample
from evertune.models import compat
from evertune.models.adapters import merge_peft
from evertune.models.connectors import KINDS, Kind
from evertune.models.decoder import (
    IGNORE,
    answer_rows,
    generated,
    nll_of_hidden,
    pad_left,
    pad_right,
    token_ids,
)
from evertune.models.families import FAMILIES
from evertune.models.family_base import FamilyLMM, Questions
from evertune.models.file_bounds import one_line
from evertune.models.modes import evaluating
from evertune.models.processors import (
    PROBE,
    ChatProcessor,
    PreparedImage,
    alike,
    encoder_arguments,
    stacked_facts,
)
from evertune.models.protocol import TYPICAL, Batch, Generation, Length, Output, SharedPrefix, Size, Turn
from evertune.models.scopes import Scope, open_up, scope_of
from evertune.models.shared_prefix import (
    Behind,
    Part,
    groups_of,
    images_of,
    inputs_behind,
    prefix_of,
    run_behind,
    same_images,
)
from evertune.models.vision_inputs import CachedTower, Pixels
from evertune.models.weights import fingerprint_of
from evertune.utils.errors import UserError
from evertune.utils.files import digest

DIGITS = 3
"""An image's first row holds height, width and number of rows in base 256: exact in every half precision."""


class ChatLMM(FamilyLMM):
    """The LMM protocol over a chat LMM of the library."""

    hf_prefix = "model."

    def __init__(
        self, *, name: str, model: Any, prompts: ChatProcessor, kind: Kind, scope: Scope, content: str
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.images_per_sample = FAMILIES[model.config.model_type].images_per_sample
        self.prompts = prompts
        self.tokenizer = prompts.tokenizer
        self._kind = kind
        self._scope = scope
        self._content = content
        self._opened: dict[str, list[str]] = {}
        self._inputs: CachedTower | Pixels = CachedTower(kind.connector)
        self._kept = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float16

    def open_up(self, seed: int) -> None:
        """Make trainable what the scope says; the rest is frozen."""
        connector = [f"model.{part}" for part in self._kind.connector.parts]
        language = f"model.{self._kind.language}"
        tower = f"model.{self._kind.tower}"
        found = open_up(self.model, self._scope, connector=connector, language=language, tower=tower, seed=seed)
        self._opened = {part: [f"model.{name}" for name in names] for part, names in found.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of the model and processor as they were loaded, of what trains, and of the prompt's lead and end."""
        scope = str(
            sorted(
                (key, value)
                for key, value in asdict(self._scope).items()
                if not key.startswith(("adapter", "quantization"))
            )
        )
        return digest(self._content, scope, str(self.prompts.end), *self.prompts.lead)

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of the tower's weights, the preparation of images and what is kept of them."""
        tower = {n: p for n, p in self._tower().state_dict().items() if not self._trains(n)}
        images = self.prompts.inner.image_processor.to_dict()
        return digest(self._inputs.tag, fingerprint_of(tower), str(sorted(images.items(), key=str)), str(self._kept))

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """`projection`, the connector (empty where the scope leaves it frozen), and `lora`, `dora` or `full`."""
        return self._opened

    def prompt(self, instruction: str, *, images: int = 1) -> str:
        """The rendered chat template, `{image}` where an image stands."""
        return self.prompts.prompt(instruction, images=images).replace(self.prompts.image, "{image}")

    def forward(self, batch: Batch) -> Output:
        """Loss of the answers of `batch`."""
        if batch.prefix is not None:
            hidden = self._behind(batch.prefix, batch.features, batch.input_ids, batch.attention).hidden
            return nll_of_hidden(hidden, self.model.lm_head, batch.labels)
        hidden = self._base()(
            input_ids=batch.input_ids,
            attention_mask=batch.attention,
            use_cache=False,
            **self._behind_tower(batch.features, batch.input_ids, batch.labels),
        ).last_hidden_state
        return nll_of_hidden(hidden, self.model.lm_head, batch.labels)

    def _behind(self, prefix: SharedPrefix, features: Tensor, ids: Tensor, attention: Tensor) -> Behind:
        """Run (B, L) tokens behind their shared prefixes, whose images `features` are."""
        taken, nothing = self._behind_tower(features, prefix.input_ids), features[:0]
        own = {"input_ids": ids, **self._behind_tower(nothing, ids)}
        positions = compat.multimodal_positions(self._base(), prefix.input_ids, prefix.attention, taken)
        return run_behind(
            self._base(),
            Part({"input_ids": prefix.input_ids, **taken}, prefix.attention),
            Part(own, attention),
            prefix.groups,
            positions,
        )

    def prepare(self, image: Image.Image) -> PreparedImage:
        """Pixels and layout by the checkpoint's processor."""
        pixels, size = self.prompts.pixels(image), (image.height, image.width)
        return PreparedImage(size, pixels, self.prompts.layout(size))

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[PreparedImage]) -> list[Tensor]:
        """(1 + V, D) of each image: a row with its size, then what enters the connector; half precision, on the CPU.

        Images whose pixels have equal shapes go through the tower together.

        Raises:
            UserError: a value does not fit into half precision.
        """
        made: dict[int, Tensor] = {}
        with evaluating(self._tower()):
            for places in alike(prepared):
                group = [prepared[place] for place in places]
                made |= zip(places, map(self._with_head, group, self._rows(group)), strict=True)
        return [made[place] for place in range(len(prepared))]

    def _rows(self, group: Sequence[PreparedImage]) -> list[Tensor]:
        """What enters the connector, of each image of a group with pixels of equal shapes."""
        for image in group:  # a data worker's layouts end with it
            self.prompts.keep_layout(image.size, image.layout)
        names = group[0].pixels
        pixels = {name: torch.cat([image.pixels[name] for image in group]).to(self.device) for name in names}
        rows = [part.to("cpu", self._kept) for part in self._inputs.rows(self._base(), pixels, len(group))]
        if not all(torch.isfinite(part).all() for part in rows):
            raise UserError(f"the tower of {self.name} makes values too large for {self._kept}: take dtype=bfloat16")
        return rows

    def _with_head(self, image: PreparedImage, rows: Tensor) -> Tensor:
        head = torch.zeros(1, rows.shape[1], dtype=rows.dtype)
        head[0, : 3 * DIGITS] = torch.tensor([d for n in (*image.size, len(rows)) for d in _digits(n)])
        return torch.cat([head, rows])

    def collate(self, samples: Sequence[Sample], features: Tensor, *, shared: bool = False) -> Batch:
        """Prompts by the chat template, answers and end token; labels on these two only."""
        sizes = iter(sizes_in(features))
        rows = [self.prompts.ids(s.instruction, s.answers[0], list(islice(sizes, len(s.images)))) for s in samples]
        prompts, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
        end, prefix = self.prompts.end, None
        if shared:
            same, counts = [s.image_digests for s in samples], [len(s.images) for s in samples]
            prefix, prompts, features = self._shared(same, prompts, features, counts)
        return Batch(features, *answer_rows(prompts, answers, end), tuple(samples), prefix=prefix).to(self.device)

    @property
    def unshared(self) -> str | None:
        """The family's reason, or that of the chat template."""
        return self._kind.unshared or self.prompts.unshared

    def _shared(
        self, same: Sequence[Any], prompts: list[list[int]], features: Tensor, counts: Sequence[int]
    ) -> tuple[SharedPrefix | None, list[list[int]], Tensor]:
        """The prefixes that prompts about the `same` images share, what is behind them, and their features.

        All as it was, and None, where no two share one.
        """
        groups = [] if self.unshared else groups_of(same, prompts, self._image_token())
        if not groups:
            return None, prompts, features
        prefix, own = prefix_of(prompts, groups, self.prompts.end)
        return prefix, own, images_of(features, counts, prefix.first)

    def _generate(self, features: Tensor, questions: Questions) -> list[Generation]:
        """Greedy answers."""
        sizes, counts, end = iter(sizes_in(features)), questions.counts, self.prompts.end
        prompts = [
            self.prompts.ids(text, None, list(islice(sizes, count)), questions.context)[0]
            for text, count in zip(questions.instructions, counts, strict=True)
        ]
        prefix, own, images = self._shared(same_images(features, counts), prompts, features, counts)
        if prefix is None:
            ids, attention = (part.to(self.device) for part in pad_left(prompts, end))
            inputs = {"input_ids": ids, "attention_mask": attention, **self._behind_tower(features, ids)}
        else:
            ids, attention = (part.to(self.device) for part in pad_right([row[:-1] for row in own], end))
            behind = self._behind(prefix.to(self.device), images, ids, attention)
            inputs = inputs_behind(self.model, behind, [row[-1] for row in own])
        return generated(self.model, self.tokenizer, max_new_tokens=questions.max_new_tokens, end=end, **inputs)

    def _answer_ids(self, answer: str) -> list[int]:
        return self.prompts.answer_ids(answer)

    def lengths(
        self, instruction: str, answer: str, images: Sequence[Size] = (TYPICAL,), context: Sequence[Turn] = ()
    ) -> tuple[Length, ...]:
        """The LM's sequence: visual tokens, prompt, answer and end token."""
        limit: int = self.model.config.get_text_config().max_position_embeddings
        return (Length("language model", self.prompts.count(instruction, answer, images, context), limit),)

    @property
    def image_token(self) -> str:
        """The processor's."""
        return self.prompts.image

    def save(self, folder: Path) -> None:
        """As the library's own classes write it, low-rank matrices merged."""
        from transformers import GenerationConfig

        merge_peft(self.model)
        self.model.generation_config = GenerationConfig(eos_token_id=self.prompts.end)
        self.model.save_pretrained(folder)

    def embed_images(self, features: Tensor) -> Tensor:
        """One frozen vector per image: the mean of the rows that enter the connector."""
        layouts = [self.prompts.layout(size) for size in sizes_in(features)]
        pairs = zip(rows_in(features), layouts, strict=True)
        return torch.stack([self._inputs.vector(self._base(), rows, layout) for rows, layout in pairs]).cpu()

    def check_fit(self) -> None:
        """Prove with a small image that processor, model and what is kept of an image fit each other.

        Where the installed library has no way in behind the tower, pixels are kept from here on, with a warning.

        Raises:
            UserError: the processor does not fit the model.
        """
        image = Image.linear_gradient("L").resize(PROBE).convert("RGB")
        places = self._places()
        try:
            count = self._checked(image)
        except UserError:
            raise
        except Exception as problem:  # whatever a changed library raises
            slow = "images go through the whole model in every step, which gives the same numbers and is slower"
            compat.fall_back("visual tokens can't be computed ahead", problem, slow)
            owners = {name.rpartition(".")[0] for name in self._opened["projection"]}
            self._inputs = Pixels([self.get_submodule(owner) for owner in owners])
            self._refuse_unread(image)
            return
        if (left := places.count(self._image_token())) != count:
            raise UserError(
                f"{self.name}: the processor does not fit the model: it leaves {left} places for an image of "
                f"{PROBE[0]} x {PROBE[1]} pixels, and the model makes {count} visual tokens; take both from one "
                "checkpoint"
            )

    def _places(self) -> list[int]:
        """Token ids that the processor inserts for the small image."""
        try:
            text = self.prompts.layout(PROBE).text
        except UserError:
            raise
        except Exception as problem:  # of the library, which computes with sizes that do not fit
            raise UserError(f"{self.name}: the processor does not fit the model: {one_line(problem)}") from problem
        return token_ids(self.tokenizer, text)

    @torch.inference_mode()
    def _refuse_unread(self, image: Image.Image) -> None:
        """Raise when the library's own way fails with what the processor makes of an image."""
        pixels = {name: value.to(self.device) for name, value in self.prompts.pixels(image).items()}
        try:
            self._base().get_image_features(**pixels)
        except Exception as problem:  # what does not fit raises errors of many kinds
            raise UserError(f"{self.name}: the processor does not fit the model: {one_line(problem)}") from problem

    def _checked(self, image: Image.Image) -> int:
        """Visual tokens of an image, once what makes them has been compared with the library's own way."""
        features = self.encode_prepared([self.prepare(image)])[0][None]
        pixels = {name: value.to(self.device) for name, value in self.prompts.pixels(image).items()}
        count = CachedTower(self._kind.connector).check(self._base(), pixels, rows_in(features)[0], PROBE)
        if "mm_encoder_outputs" not in inspect.signature(self.model.forward).parameters:
            raise AttributeError("forward takes no mm_encoder_outputs")
        if not compat.is_tested():
            self.generate(features, ["?"], max_new_tokens=1)
        return count

    def _behind_tower(self, features: Tensor, ids: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """What the library's model takes in place of pixels: visual tokens, facts about images, types of tokens."""
        labels = torch.full_like(ids, IGNORE) if labels is None else labels
        taken: dict[str, Any] = {}
        if len(features):
            sizes = sizes_in(features)
            layouts = [self.prompts.layout(size) for size in sizes]
            facts = stacked_facts(layouts)
            taken |= self._inputs.inputs(self._base(), rows_in(features), sizes, layouts)
            taken |= {name: value.to(self.device) for name, value in facts.items()}
        if self._kind.types:
            name, types = self._kind.types
            taken[name] = types(ids == self._image_token(), labels)
        return taken

    def _base(self) -> Any:
        return self.model.model

    def _tower(self) -> nn.Module:
        return self._base().get_submodule(self._kind.tower)  # type: ignore[no-any-return]

    def _words(self) -> Any:
        return self.model.get_input_embeddings()

    def _image_token(self) -> int:
        return int(self.model.config.image_token_id)

    def _trains(self, name: str) -> bool:
        """Whether a parameter of the tower belongs to the connector (a merger is part of Qwen's tower)."""
        return f"{self._kind.tower}.{name}".startswith(self._kind.connector.parts)


def _digits(number: int) -> list[int]:
    return [number // 256**place % 256 for place in range(DIGITS)]


def _numbers(features: Tensor) -> list[tuple[int, int, int]]:
    """(height, width, rows) of each image."""
    scale = torch.tensor([256**place for place in range(DIGITS)])
    heads = features[:, 0, : 3 * DIGITS].cpu().long().view(len(features), 3, DIGITS) * scale
    return [(int(h), int(w), int(v)) for h, w, v in heads.sum(-1).tolist()]


def sizes_in(features: Tensor) -> list[Size]:
    """(height, width) of the images that (n, 1 + V, D) features were made of."""
    return [(height, width) for height, width, _ in _numbers(features)]


def rows_in(features: Tensor) -> list[Tensor]:
    """The rows of each image, without its first one and without padding."""
    return [part[1 : 1 + rows] for part, (_, _, rows) in zip(features, _numbers(features), strict=True)]


def wrap_chat(model: Any, processor: Any, *, name: str, seed: int, options: Mapping[str, Any], content: str) -> ChatLMM:
    """The LMM of a model of the library and its processor; `seed` decides the LoRA matrices, which have no effect yet.

    `content` is the fingerprint of both, before this changes what trains.

    Raises:
        UserError: an option makes no sense, or the processor does not fit the model.
    """
    from transformers import GenerationConfig

    scope, kind = scope_of(options), KINDS[model.config.model_type]
    prompts = ChatProcessor(processor, kind, wanted=encoder_arguments(model.model), ends=_ends(model))
    model.generation_config = GenerationConfig()  # greedy and nothing else, whatever the checkpoint suggests
    lmm = ChatLMM(name=name, model=model, prompts=prompts, kind=kind, scope=scope, content=content)
    lmm.open_up(seed)
    lmm.eval()
    lmm.check_fit()
    return lmm


def _ends(model: Any) -> list[int]:
    """Tokens at which a checkpoint wants generation to end."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    return [found] if isinstance(found, int) else list(found or [])
