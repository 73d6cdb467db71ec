"""Rows of captioned images: training has one row per caption, a test row has all captions of an image.

Flickr30k and TextCaps share this, which is common practice for captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evertune.data.formats import Row


def training_rows(name: str, captions: Sequence[str], *, image: str, origin: str) -> Iterator[Row]:
    """A row per caption, which stands first among the image's captions."""
    for number, caption in enumerate(captions):
        others = (*captions[:number], *captions[number + 1 :])
        yield Row(f"{name}-{number}", (image,), {}, (caption, *others), origin)


def test_row(name: str, captions: Sequence[str], *, image: str, origin: str) -> Iterator[Row]:
    """One row with all captions."""
    yield Row(name, (image,), {}, tuple(captions), origin)
