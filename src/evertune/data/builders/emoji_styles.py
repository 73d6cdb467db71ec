"""The same emoji in four drawings: which category does it belong to? A task per style.

Only the drawings differ between the tasks: questions, answers, objects, sizes and places are the same. The
emoji of the test are the same in all styles and are taught in none.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.assets import PACKAGES, Progress, unpacked
from evertune.data.builders import write_rows
from evertune.data.drawing import on_ground, rendered, some_size
from evertune.utils.errors import UserError, unknown

VERSION = 1
STYLES = {
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "openmoji": "@iconify-json/openmoji",
    "fluent": "@iconify-json/fluent-emoji-flat",
}
ABOUT = {
    "title": "Emoji in four styles, by category",
    "source": "npm packages "
    + ", ".join(PACKAGES[name].release for name in STYLES.values())
    + "; names that all four have, in the category that all four give them",
    "licence": "; ".join(f"{style}: {PACKAGES[name].licence}" for style, name in STYLES.items()),
    "citation": "Noto Emoji (Google); Twemoji; OpenMoji (HfG Schwäbisch Gmünd); Fluent Emoji (Microsoft); Iconify "
    "(https://iconify.design)",
}
CATEGORIES = {
    "Activities": "activity",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Objects": "object",
    "People & Body": "person",
    "Smileys & Emotion": "feeling",
    "Symbols": "symbol",
    "Travel & Places": "travel",
}
"""The sets' own categories and what they are called in answers; three sets have hardly any flags."""
INSTRUCTION = f"Which category is this: {', '.join(list(CATEGORIES.values())[:-1])} or {list(CATEGORIES.values())[-1]}?"
VARIANTS = re.compile(
    r"man|men|woman|women|person|people|boy|girl|face|red|orange|yellow|green|blue|purple|brown|black|white|grey|pink|"
    r"light|dark|small|medium|large|left|right|up|down|facing|upper|lower|oclock|thirty|half|past|\d+|one|two|three|"
    r"four|five|six|seven|eight|nine|ten|eleven|twelve"
)
"""Words that distinguish near duplicates: green and blue heart, one and two o'clock."""
TEST_SHARE = 0.25

Split = dict[str, list[str]]
"""Category -> names."""


@dataclass(frozen=True)
class IconSet:
    """An Iconify set: SVG bodies by name, and the category of each name."""

    icons: Mapping[str, Mapping[str, Any]]
    width: int
    height: int
    category: Mapping[str, str]

    def svg(self, name: str) -> str:
        """A whole SVG document of one icon, which may have measures of its own."""
        icon = self.icons[name]
        box = (icon.get("left", 0), icon.get("top", 0), icon.get("width", self.width), icon.get("height", self.height))
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {names} viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'


def build(folder: Path, *, style: str, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Draw `train` and `test` emoji in one `style`; every category equally often."""
    if style not in STYLES:
        raise unknown("style", style, STYLES)
    sets = {one: _icon_set(unpacked(package, progress=progress) / "package") for one, package in STYLES.items()}
    taught, tested = parted(categories(sets.values()), seed=seed)
    (folder / "images").mkdir(exist_ok=True)
    for split, names, count in (("train", taught, train), ("test", tested, test)):
        choose = random.Random(f"emoji-styles {split} {seed}")  # the same in every style
        rows = []
        for number, (answer, name) in enumerate(_in_turn(names, count, choose)):
            image = f"images/{split}-{number}.png"
            on_ground(rendered(sets[style].svg(name), side=some_size(choose)), choose).save(folder / image)
            rows.append((image, INSTRUCTION, answer))
        choose.shuffle(rows)
        write_rows(folder, split, rows)


def _icon_set(folder: Path) -> IconSet:
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    listed = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["categories"]
    category = {name: _plain(title) for title, names in listed.items() for name in names}
    return IconSet(icons["icons"], icons["width"], icons["height"], category)


def _plain(title: str) -> str:
    """Three sets write `Food & Drink`, one writes `Food Drink`."""
    same = {known.replace(" &", ""): answer for known, answer in CATEGORIES.items()}
    return same.get(title.replace(" &", ""), "")


def categories(sets: Iterable[IconSet]) -> Split:
    """The names that all sets have, by the category that all of them give."""
    known = list(sets)
    common = sorted(set.intersection(*(set(one.icons) for one in known)))
    found: Split = {answer: [] for answer in CATEGORIES.values()}
    for name in common:
        given = {one.category.get(name, "") for one in known}
        if len(given) == 1 and (answer := given.pop()):
            found[answer].append(name)
    return found


def parted(names: Split, *, seed: int) -> tuple[Split, Split]:
    """Names for training and names for testing. Variants of one drawing stay together, and one of them is tested."""
    taught: Split = {}
    tested: Split = {}
    for answer, members in names.items():
        families: dict[str, list[str]] = defaultdict(list)
        for name in members:
            families[family(name)].append(name)
        choose = random.Random(f"emoji-styles {answer} {seed}")
        left = int(TEST_SHARE * len(members))
        taught[answer], tested[answer] = [], []
        for key in choose.sample(sorted(families), len(families)):
            if len(families[key]) <= left:
                left -= len(families[key])
                tested[answer].append(choose.choice(families[key]))
            else:
                taught[answer].extend(families[key])
    return taught, tested


def family(name: str) -> str:
    """A name without the words that distinguish variants."""
    return "-".join(word for word in name.split("-") if not VARIANTS.fullmatch(word))


def _in_turn(names: Split, count: int, choose: random.Random) -> Iterator[tuple[str, str]]:
    """(answer, name): category after category, and every name of one before any comes again."""
    orders = {answer: choose.sample(members, len(members)) for answer, members in sorted(names.items())}
    for answer, members in orders.items():
        if not members:
            raise UserError(f"emoji-styles: no emoji of the category '{answer}' is in all four packages")
    answers = list(orders)
    for number in range(count):
        answer = answers[number % len(answers)]
        yield answer, orders[answer][number // len(answers) % len(orders[answer])]
