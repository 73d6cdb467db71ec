"""Captioned drawings, split so that every word of a test caption also occurs in training captions of other drawings.

A caption with a word that occurs nowhere else can't be learned from other images. So an image goes to the test only if
all its words remain in the training captions. No drawing of a test image's family is in the training.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evertune.data.builders import write_rows
from evertune.data.drawing import fitted, on_ground, some_size, trimmed
from evertune.utils.errors import UserError

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+")


@dataclass(frozen=True)
class CaptionedDrawing:
    """A drawing with its captions.

    Attributes:
        family: equal for drawings that may be near duplicates.
        caption: the text whose words decide the split.
        answer: the training target: `caption`, or its translation.
    """

    image: Path
    family: str
    caption: str
    answer: str


def words(text: str) -> list[str]:
    """The words of a caption, in lower case."""
    return WORD.findall(text.lower())


def parted(
    items: Iterable[CaptionedDrawing], *, tests: int, seed: str
) -> tuple[list[CaptionedDrawing], list[CaptionedDrawing]]:
    """(train, test) in random order: at most `tests` to test, one of a family.

    Every word of a test caption also occurs in a training caption of another family.
    """
    families: dict[str, list[CaptionedDrawing]] = defaultdict(list)
    for item in items:
        families[item.family].append(item)
    choose = random.Random(seed)
    order = choose.sample(sorted(families), len(families))
    teaching = Counter(word for members in families.values() for word in _words_of(members))
    tested: list[CaptionedDrawing] = []
    kept = set()
    for name in order:
        spent = _words_of(families[name])
        if len(tested) < tests and all(teaching[word] > 1 for word in spent):
            teaching.subtract(spent)
            kept.add(name)
            tested.append(choose.choice(families[name]))
    taught = [item for name in order if name not in kept for item in families[name]]
    choose.shuffle(taught)
    return _needed_first(taught, _words_of(tested)), tested


def _needed_first(taught: Sequence[CaptionedDrawing], tested: set[str]) -> list[CaptionedDrawing]:
    """First a drawing for every word of the test captions, then the others: so a prefix has all words, too."""
    teaches = {word: item for item in reversed(taught) for word in words(item.caption)}
    needed = {teaches[word].image for word in tested}
    return sorted(taught, key=lambda item: item.image not in needed)


def _words_of(members: Iterable[CaptionedDrawing]) -> set[str]:
    return {word for item in members for word in words(item.caption)}


def write_captioned(
    folder: Path, split: str, items: Sequence[CaptionedDrawing], *, count: int, instruction: str, seed: str
) -> None:
    """Draw the first `count` of `items` and write `{split}.jsonl`, in random order.

    Raises:
        UserError: there are fewer.
    """
    if len(items) < count:
        raise UserError(f"{count} captioned images were requested for {split}, but there are {len(items)}")
    choose = random.Random(seed)
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for number, item in enumerate(items[:count]):
        image = f"images/{split}-{number}.png"
        drawing = fitted(trimmed(item.image), side=some_size(choose))
        on_ground(drawing, choose).save(folder / image)
        rows.append((image, instruction, item.answer))
    choose.shuffle(rows)
    write_rows(folder, split, rows)
