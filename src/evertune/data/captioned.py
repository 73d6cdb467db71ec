"""Captioned drawings: what is asked in the test is told in words that the training taught with other drawings.

A caption with a word that occurs nowhere else can't be learned from the other images. So those images are kept for
the test whose every word stays in the training, and no drawing of a test image's family is trained on.
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
        family: drawings that may be nearly the same share it.
        told: the caption by whose words it is parted.
        answer: the caption that is taught, `told` or the same in another language.
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
    """(taught, tested) in random order: at most `tests` to test, one of a family.

    Every word of a tested caption is left in the captions of another family, which is taught.
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
    """For every word that is asked a drawing that teaches it, then the others: a part of the list teaches all, too."""
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
        UserError: there are not so many.
    """
    if len(items) < count:
        raise UserError(f"{count} captioned images to {split} on were asked for, and there are {len(items)}")
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
