"""What a model that thinks writes before its answer: `<think>...</think>` is no part of a prediction."""

from __future__ import annotations

END = "</think>"


def without_thoughts(text: str) -> str:
    """The text behind the last `</think>`; the whole text where there is none (a block that was cut off stays)."""
    return text.rpartition(END)[2].strip() if END in text else text
