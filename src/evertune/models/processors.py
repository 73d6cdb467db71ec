"""The processor of a chat LMM: how an image and an instruction become token ids, by the library's own rules.

It is loaded without its video part, which would need torchvision and is not used here. What an image is in the text
depends on its size alone, so that prompts can be rendered from cached features, without the image.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from evertune.data.image_decoder import MOST_PIXELS
from evertune.data.images import short, unprepared
from evertune.models.compat import processor_of
from evertune.models.connectors import Kind
from evertune.models.decoder import token_ids
from evertune.models.file_bounds import one_line
from evertune.models.protocol import Size, Turn, refuse_context
from evertune.models.templates import render
from evertune.utils.errors import DataError, UserError

_TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "text_replacement_offsets"}
_QUESTION, _ANSWER, _NEXT = "What is 7?", "Seven", "What is 9?"
PROBE: Size = (64, 64)
_REMEMBERED = 2_000
MOST_VALUES = 64 * 3 * 448**2
"""Pixel values of images that go through the tower together."""
Ids = tuple[list[int], list[int]]
"""Token ids of a prompt and of an answer."""


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of a checkpoint folder, for images and text.

    Raises:
        UserError: files are missing or broken, or the library has no processor for this configuration.
    """
    try:
        return processor_of(folder, config)
    except Exception as problem:  # what broken files raise is not a closed list
        raise UserError(f"{folder}: its processor can't be read: {one_line(problem)}") from problem


class Layout(NamedTuple):
    """The prompt text of an image of one size, and the arguments that the model needs besides its pixels.

    Attributes:
        text: the image tokens in the prompt.
        facts: {argument: (1, ...) tensor} for the model, e.g. the grid of patches.
        shape: of its prepared pixel values.
    """

    text: str
    facts: dict[str, Tensor]
    shape: tuple[int, ...]


class PreparedImage(NamedTuple):
    """The inputs of the vision encoder for one image of a (height, width), and its layout."""

    size: Size
    pixels: dict[str, Tensor]
    layout: Layout


def alike(images: Sequence[PreparedImage]) -> list[list[int]]:
    """Places of images whose pixels have equal shapes; several have at most `MOST_VALUES` numbers together."""
    groups: dict[Any, list[list[int]]] = {}
    for place, image in enumerate(images):
        shapes = tuple((name, tuple(value.shape)) for name, value in image.pixels.items())
        most = max(1, MOST_VALUES // sum(value.numel() for value in image.pixels.values()))
        parts = groups.setdefault(shapes, [[]])
        if len(parts[-1]) == most:
            parts.append([])
        parts[-1].append(place)
    return [part for parts in groups.values() for part in parts]


class ChatProcessor:
    """Prompts, token ids and pixels of one checkpoint.

    Args:
        processor: of the library.
        kind: of the model.
        wanted: arguments that the model's encoder step takes.

    Raises:
        UserError: there is no chat template, or it has no roles or no place for an image or the text.
    """

    def __init__(self, processor: Any, kind: Kind, *, wanted: Sequence[str], ends: Sequence[int]) -> None:
        self.inner = processor
        self.tokenizer = processor.tokenizer
        self.image: str = str(processor.image_token)
        self._kind = kind
        self._wanted = set(wanted)
        self._layouts: dict[Size, Layout] = {}
        self._ids: dict[tuple[Any, ...], tuple[list[int], list[int]]] = {}
        self._counts: dict[Size, int] = {}
        self._alike: dict[Any, int] = {}
        self._around: int | None = None
        self._instead, self._lead, self._gap = "", "", ""
        if kind.plain is None:
            self._check_template()
        self.end = self._end_token(ends)

    def prompt(self, instruction: str, *, images: int = 1, context: Sequence[Turn] = ()) -> str:
        """The rendered prompt, up to where an answer begins, with one image token per image.

        Text of the template between its generation prompt and an answer (such as `</think>`) is part
        of the prompt: it is neither trained nor predicted.

        Raises:
            UserError: the template does not take the turns of `context`, or leaves one out.
        """
        if self._kind.plain is not None:
            refuse_context("the model", context)
            ahead, behind = self._kind.plain.split("{image}")
            bos = self.tokenizer.bos_token or ""
            return ahead + self.image * images + behind.replace("{bos}", bos).replace("{instruction}", instruction)
        turns = [self._turn(turn.role, turn.text, images=turn.images) for turn in context]
        rendered = self._rendered([*turns, self._turn("user", instruction, images=images)], ask=True)
        if left_out := next((turn.role for turn in context if turn.text not in rendered), None):
            raise UserError(f"the model's chat template leaves out this turn of the {left_out}: leave it out, too")
        return rendered.removesuffix(self._instead) + self._lead

    @property
    def lead(self) -> tuple[str, ...]:
        """The replacement at the end of the generation prompt, if there is one: (old text, new text)."""
        return (self._instead, self._lead) if self._instead or self._lead else ()

    @cached_property
    def unshared(self) -> str | None:
        """Why prompts about one image don't begin with the same tokens up to the image; None where they do."""
        heads = {self.prompt(text).rpartition(self.image)[0] for text in (_QUESTION, _NEXT)}
        return "its chat template puts the question before the image" if len(heads) > 1 else None

    def pixels(self, image: Image.Image) -> dict[str, Tensor]:
        """The encoder's inputs for one image.

        Raises:
            DataError: an image of this size can't be prepared.
        """
        self.tokens((image.height, image.width))
        made = self._processed(image)
        self.keep_layout((image.height, image.width), self._layout(made))
        return {name: value for name, value in made.items() if name in self._wanted}

    def keep_layout(self, size: Size, layout: Layout) -> None:
        """Remember a layout that was computed elsewhere."""
        self._layouts.setdefault(size, layout)

    def layout(self, size: Size) -> Layout:
        """The prompt text of an image of this (height, width); computed with a grey image and cached."""
        if size not in self._layouts:
            self._layouts[size] = self._layout(self._processed(Image.new("RGB", (size[1], size[0]), "grey")))
        return self._layouts[size]

    def ids(
        self, instruction: str, answer: str | None, sizes: Sequence[Size], context: Sequence[Turn] = ()
    ) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, and of the answer with its end token behind it (none without an answer)."""
        key = (instruction, answer, tuple(context), *sizes)
        return self._remembered(
            key, lambda: self._tokenised(instruction, answer, [self.layout(size).text for size in sizes], context)
        )

    def _remembered(self, key: tuple[Any, ...], make: Callable[[], Ids]) -> Ids:
        found = self._ids.get(key)
        if found is None:
            found = make()
            if len(self._ids) > _REMEMBERED:
                self._ids.clear()
            self._ids[key] = found
        return found  # returned without a second lookup: another thread of a server may have cleared the cache

    def count(self, instruction: str, answer: str, sizes: Sequence[Size], context: Sequence[Turn] = ()) -> int:
        """Tokens of prompt, answer and end token with images of these sizes, none of which is prepared.

        Raises:
            DataError: an image of such a size can't be prepared.
        """
        key = (instruction, answer, tuple(context), len(sizes))
        marks = [self.image] * len(sizes)
        prompt, answered = self._remembered(key, lambda: self._tokenised(instruction, answer, marks, context))
        self._count([size for size in dict.fromkeys(sizes) if size not in self._counts])
        return len(prompt) + len(answered) + sum(self._counts[size] - 1 for size in sizes)

    def tokens(self, size: Size) -> int:
        """Tokens that an image of this (height, width) takes in the prompt, by the processor's own arithmetic.

        Raises:
            DataError: it can't be prepared.
        """
        if size not in self._counts:
            self._count([size])
        return self._counts[size]

    def _count(self, sizes: Sequence[Size]) -> None:
        """Compute and cache the tokens of many sizes in one call, which takes the library little longer than one size.

        Raises:
            DataError: one size can't be prepared; the others are cached.
        """
        try:
            self._counts.update(zip(sizes, self._counted(sizes), strict=True) if sizes else ())
        except (ValueError, ArithmeticError) as problem:
            if len(sizes) == 1:
                raise unprepared(sizes[0], problem) from problem
            half, faults = len(sizes) // 2, []
            for part in (sizes[:half], sizes[half:]):
                try:
                    self._count(part)
                except DataError as fault:
                    faults.append(fault)
            if faults:
                raise faults[0] from problem

    def _counted(self, sizes: Sequence[Size]) -> list[int]:
        edge = getattr(self.inner.image_processor.size, "shortest_edge", None)
        if self._kind.crops and edge and any(edge * edge * max(s) // min(s) > MOST_PIXELS for s in sizes):
            raise ValueError(f"scaled to {edge} pixels on its short side it has more than {MOST_PIXELS:,}")
        count = getattr(self.inner, "_get_num_multimodal_tokens", None)  # of the library, without pixels
        if count is not None:
            probe, *found = count(image_sizes=[list(size) for size in (PROBE, *sizes)])["num_image_tokens"]
            if self._around is None:  # the other tokens are the same for all sizes
                self._around = self._laid_out(PROBE) - probe
            return [self._around + own for own in found]
        parts = getattr(self.inner.image_processor, "get_number_of_image_patches", None)
        alike = [parts(*size) if parts else size for size in sizes]
        for one, size in zip(alike, sizes, strict=True):
            if one not in self._alike:
                self._alike[one] = self._laid_out(size)
        return [self._alike[one] for one in alike]

    def _laid_out(self, size: Size) -> int:
        return len(token_ids(self.tokenizer, self.layout(size).text))

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer alone, end token included."""
        return self.ids("", answer, [])[1]

    def _tokenised(
        self, instruction: str, answer: str | None, texts: Sequence[str], context: Sequence[Turn] = ()
    ) -> tuple[list[int], list[int]]:
        """Tokenise the answer together with the prompt, as in a real dialogue, if the border is between two tokens."""
        own = len(texts) - sum(turn.images for turn in context)
        pieces = self.prompt(instruction, images=own, context=context).split(self.image)
        if len(pieces) != len(texts) + 1:
            raise DataError(f"the instruction {short(instruction)} holds '{self.image}', which stands for an image")
        prompt = "".join(piece + text for piece, text in zip_longest(pieces, texts, fillvalue=""))
        ids = self._of_text(prompt)
        if answer is None:
            return ids, []
        whole = self._of_text(prompt + self._gap + answer)
        if whole[: len(ids)] == ids:
            return ids, [*whole[len(ids) :], self.end]
        return ids, [*token_ids(self.tokenizer, answer), self.end]

    def _of_text(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        special = self._kind.plain is None and not (bos and text.startswith(bos))
        return token_ids(self.tokenizer, text, special=special)

    def _processed(self, image: Image.Image) -> Any:
        return self.inner(text=[self.image], images=[image], return_tensors="pt", return_text_replacement_offsets=True)

    def _layout(self, made: Any) -> Layout:
        """The text that the processor inserted for the image, and its other outputs except text and pixels."""
        replaced = made["text_replacement_offsets"][0][0]["replacement"]
        facts = {n: v for n, v in made.items() if n not in _TEXT and not n.startswith("pixel_") and n in self._wanted}
        return Layout(replaced, facts, tuple(made["pixel_values"].shape))

    def _turn(self, role: str, text: str, *, images: int = 0) -> dict[str, Any]:
        content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
        return {"role": role, "content": content}

    def _rendered(self, turns: list[dict[str, Any]], *, ask: bool) -> str:
        try:  # not the library's `apply_chat_template`, which would run an untrusted template in this process
            template = self.tokenizer.get_chat_template(self.inner.chat_template)
        except (ValueError, TypeError) as problem:
            raise UserError(f"the model's chat template can't be used: {problem}") from problem
        values = {**self.tokenizer.special_tokens_map, "messages": turns, "add_generation_prompt": ask}
        return render(template, {**values, "tools": None, "documents": None})

    def _check_template(self) -> None:
        if not self.inner.chat_template:
            raise UserError(
                "the model has no chat template: it is no model for a dialogue; take its instruction-tuned one"
            )
        dialogue = self._dialogue()
        if not self._has_roles():
            raise UserError(
                "the model's chat template has no roles: user and assistant look the same, so questions "
                "and answers can't be distinguished; use the chat template of the instruction-tuned model"
            )
        rendered = self.prompt(_QUESTION)
        if rendered.count(_QUESTION) != 1 or rendered.count(self.image) != 1:
            raise UserError(
                f"the model's chat template does not fit its processor: an image and '{_QUESTION}' become "
                f"{rendered!r}, where '{self.image}' and the text should stand once each"
            )
        self._find_lead(rendered, dialogue[: dialogue.rindex(_ANSWER)])

    def _has_roles(self) -> bool:
        """Whether the text after a question differs from the text after an answer, as roles make it."""
        turns = [self._turn("user", _QUESTION), self._turn("assistant", _ANSWER), self._turn("user", _NEXT)]
        between, _, behind = self._rendered(turns, ask=False).partition(_QUESTION)[2].partition(_ANSWER)
        return between != behind.partition(_NEXT)[0]

    def _find_lead(self, rendered: str, ahead: str) -> None:
        """Compare the generation prompt with the template's text before an answer in a dialogue.

        `_lead` replaces `_instead` in the prompt. If they differ in spaces only, these go with the answer, as its
        `_gap`: many vocabularies have tokens for a space with a word.
        """
        same = len(os.path.commonprefix([rendered, ahead]))  # noqa: RUF071  of texts, not of paths
        instead, lead = rendered[same:], ahead[same:]
        if not (instead.strip() or lead.strip()):
            self._gap = "" if instead else lead
        elif same > rendered.rindex(_QUESTION):
            ids, whole = self._of_text(ahead), self._of_text(ahead + _ANSWER)
            kept = lead if whole[: len(ids)] == ids else lead.rstrip()
            self._instead, self._lead, self._gap = instead, kept, lead[len(kept) :]

    def _dialogue(self) -> str:
        """A question with its answer."""
        question, answer = self._turn("user", _QUESTION, images=1), self._turn("assistant", _ANSWER)
        dialogue = self._rendered([question, answer], ask=False)
        if _ANSWER not in dialogue:
            raise UserError("the model's chat template leaves out what the assistant says")
        return dialogue

    def _end_token(self, ends: Sequence[int]) -> int:
        """The token that ends an answer: in the template the first of `ends` after an answer, else the tokenizer's
        own."""
        if self._kind.plain is None:
            behind = self._dialogue().rpartition(_ANSWER)[2]
            found = [token for token in token_ids(self.tokenizer, behind) if token in ends]
            if found:
                return int(found[0])
        own = self.tokenizer.eos_token_id
        return int(own if own is not None else ends[0])


def encoder_arguments(model: Any) -> list[str]:
    """Names of the arguments of a model's encoder step."""
    return list(inspect.signature(model.get_image_features).parameters)


def stacked_facts(layouts: Sequence[Layout]) -> dict[str, Tensor]:
    """{argument: (images, ...)} of all images of a batch."""
    return {name: torch.cat([layout.facts[name] for layout in layouts]) for name in layouts[0].facts}
