"""Checks of a row before it is written to an index: image names, texts and image marks.

Separate from `rows.py`, which knows the layout on disk and does not check content.
"""

from __future__ import annotations

from evertune.data.formats import Row
from evertune.data.images import image_name, short
from evertune.data.placeholders import IMAGE_MARK, VIDEO_MARK, leads, refuse_miscounted, unmarked
from evertune.data.prompts import filled, names_in
from evertune.metrics.rules import MOST_ANSWERS
from evertune.utils.errors import DataError
from evertune.utils.safe_names import is_text

LONGEST_TEXT = 100_000
"""Characters of an instruction or an answer; the longest context of any model here holds far fewer."""


def checked_instruction(row: Row, *, prompt: str, allow_external_paths: bool) -> str:
    """The instruction of a row that can be used.

    Raises:
        DataError: a name, a text or the number of answers is not usable; the message begins with the row's origin.
    """
    instruction = _instruction(row, prompt)
    _refuse_text("instruction", instruction, row.origin)
    if not row.answers:
        raise DataError(f"{row.origin}: the row has no answer", kind="no answer")
    if len(row.answers) > MOST_ANSWERS:
        complaint = f"{row.origin}: {len(row.answers):,} answers; at most {MOST_ANSWERS:,} are taken"
        raise DataError(complaint, kind="too many answers")
    for number, answer in enumerate(row.answers):  # an annotator's answer may be empty, the training target must not
        _refuse_text("answer", answer, row.origin, empty=number > 0)
    for name in row.images:
        _refuse_text("name of the image", name, row.origin)
        image_name(name, allow_external_paths=allow_external_paths, origin=row.origin)
    for text in (row.id, *row.extras, *row.extras.values()):
        _refuse_text("id or extra", text, row.origin, empty=True)
    if len(row.images) > 0xFFFF:
        raise DataError(f"{row.origin}: {len(row.images)} images are too many", kind="too many images")
    return instruction


def _instruction(row: Row, prompt: str) -> str:
    """The filled prompt without its image marks, whose number must be that of the row's images."""
    text = filled(prompt, row.fields, origin=row.origin)
    if IMAGE_MARK not in text and VIDEO_MARK not in text:
        return text
    if not any(map(leads, [prompt, *(row.fields[name] for name in names_in(prompt))])):
        return text  # a word of the question
    refuse_miscounted(text, len(row.images), origin=row.origin)
    fields = {name: unmarked(row.fields[name]) for name in names_in(prompt)}
    return filled(unmarked(prompt), fields, origin=row.origin)


def _refuse_text(what: str, text: str, origin: str, *, empty: bool = False) -> None:
    if not (empty or text.strip()):
        raise DataError(f"{origin}: the {what} is empty", kind=f"empty {what}")
    if len(text) > LONGEST_TEXT:
        complaint = f"{origin}: the {what} has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken"
        raise DataError(complaint, kind="huge text")
    if "\0" in text or not (text.isascii() or is_text(text)):
        raise DataError(f"{origin}: the {what} {short(text)} holds a NUL or half a character", kind="broken text")
