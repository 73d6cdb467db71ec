"""Recognises rows of other common layouts, so that the error names the layout and the right format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.data.turns import KEYS

LLAVA = "format: llava in a stream's YAML, or evertune data check --format llava"


def layout_of(row: Mapping[str, Any]) -> str:
    """The message for a row or a file in another known layout; empty if the layout is unknown."""
    if found := [key for key in KEYS if key in row]:
        return f"'{found[0]}' is a conversation: say {LLAVA}"
    if "annotations" in row and "images" in row:
        return (
            "'images' beside 'annotations' is COCO's layout, which is not read: write a row per image, "
            '{"image": FILE_NAME, "instruction": "Describe the image.", "answers": [CAPTIONS]}'
        )
    if "text" in row and "answer" in row:
        return f"'text' and 'answer' are a test row of LLaVA's layout: say {LLAVA}"
    if "output" in row:
        return "'output' is Alpaca's key: call it 'answer', and join 'instruction' and 'input' into 'instruction'"
    return ""
