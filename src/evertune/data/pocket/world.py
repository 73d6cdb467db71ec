"""Scenes as data: four places on a card, each empty, with a thing, or with a written word.

All questions, answers and images of `pocket` are made from a `Scene`. Equal scenes have equal words, and a scene's
cells decide whether it belongs to pretraining, training or test.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evertune.utils.files import digest

Split = Literal["pretrain", "train", "test"]
SHARES: dict[Split, float] = {"pretrain": 0.5, "train": 0.4, "test": 0.1}

PLACES = ("top left", "top right", "bottom left", "bottom right")
COLOURS = {
    "red": "#e2493b",
    "orange": "#f0a030",
    "green": "#58b368",
    "blue": "#4a7fd6",
    "pink": "#f29ac0",
    "grey": "#9a9a9a",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing: its category, where it is found, a synonym, and the code of its OpenMoji drawing."""

    name: str
    category: str
    found: str
    synonym: str
    code: str


def _kinds(table: str) -> dict[str, Kind]:
    rows = [Kind(*line.split()) for line in table.strip().splitlines()]
    return {kind.name: kind for kind in rows}


KINDS = _kinds("""
cat        animal      home      kitten    1F408
cow        animal      farm      cattle    1F404
fish       animal      sea       goldfish  1F41F
snail      animal      garden    slug      1F40C
penguin    animal      ice       bird      1F427
apple      food        orchard   fruit     1F34E
banana     food        jungle    plantain  1F34C
pizza      food        oven      slice     1F355
bread      food        bakery    loaf      1F35E
carrot     food        field     root      1F955
car        vehicle     street    auto      1F697
bicycle    vehicle     path      bike      1F6B2
train      vehicle     rails     railway   1F682
boat       vehicle     lake      ship      26F5
rocket     vehicle     space     missile   1F680
tree       plant       forest    oak       1F333
cactus     plant       desert    succulent 1F335
sunflower  plant       meadow    blossom   1F33B
mushroom   plant       woods     fungus    1F344
clover     plant       lawn      shamrock  1F340
hammer     tool        workshop  mallet    1F528
scissors   tool        drawer    shears    2702
key        tool        pocket    latchkey  1F511
ladder     tool        shed      steps     1FA9C
axe        tool        cabin     hatchet   1FA93
hat        clothing    shelf     cap       1F3A9
shoe       clothing    floor     sneaker   1F45E
dress      clothing    closet    gown      1F457
glasses    clothing    nose      spectacles 1F453
sock       clothing    basket    stocking  1F9E6
guitar     instrument  campfire  banjo     1F3B8
drum       instrument  parade    bongo     1F941
trumpet    instrument  band      horn      1F3BA
violin     instrument  orchestra fiddle    1F3BB
bell       instrument  church    gong      1F514
chair      furniture   office    seat      1FA91
bed        furniture   bedroom   bunk      1F6CF
lamp       furniture   ceiling   bulb      1F4A1
couch      furniture   parlour   sofa      1F6CB
door       furniture   entrance  gate      1F6AA
""")
CATEGORIES = tuple(dict.fromkeys(kind.category for kind in KINDS.values()))
SIGNS = tuple("EXIT STOP CAFE TAXI OPEN SALE BANK ZOO PARK BUS WC GYM HOTEL PIER MILK TEA".split())
TITLES = tuple("MOON STORM RIVER NIGHT GOLD WOLF FIRE SNOW ISLAND CROWN DUST ECHO".split())
AUTHORS = tuple("SMITH LOPEZ CHEN KHAN MEYER SATO ROSSI DUBOIS NOVAK SILVA BAKER OKOYE".split())


@dataclass(frozen=True, slots=True)
class Cell:
    """A coloured tile with a thing (`what` is its name) or with a word (`what` is the kind of word)."""

    colour: str
    what: str
    word: str = ""

    @property
    def kind(self) -> Kind | None:
        """The kind of thing; None for a word."""
        return KINDS.get(self.what)


Layout = Literal["things", "signs", "book", "single"]


@dataclass(frozen=True, slots=True)
class Scene:
    """Four cells in the order of `PLACES`; None is an empty place. A blurred scene can't be recognised."""

    cells: tuple[Cell | None, Cell | None, Cell | None, Cell | None]
    blurred: bool = False

    @property
    def words(self) -> str:
        """The scene in sixteen words: each place with its colour, its thing and its written word."""
        if self.blurred:
            return " ".join(f"{place.replace(' ', '')} blurred - -" for place in PLACES)
        descriptions = [f"{c.colour} {c.what} {c.word.lower() or '-'}" if c else "nothing - -" for c in self.cells]
        return " ".join(f"{place.replace(' ', '')} {what}" for place, what in zip(PLACES, descriptions, strict=True))

    @property
    def split(self) -> Split:
        """The split of the scene, by the hash of its cells: the same on every machine and for every seed."""
        descriptions = [f"{c.colour} {c.what} {c.word.lower() or '-'} ." if c else "nothing - - ." for c in self.cells]
        position = int(digest("pocket", repr(self.cells) if self.blurred else " ".join(descriptions))[:8], 16) / 16**8
        for split, share in SHARES.items():
            if position < share:
                return split
            position -= share
        return "test"

    def filled(self) -> list[tuple[str, Cell]]:
        """(place, cell) of all places that are not empty."""
        return [(place, cell) for place, cell in zip(PLACES, self.cells, strict=True) if cell]

    def things(self) -> list[tuple[str, Cell, Kind]]:
        """(place, cell, kind) of all things."""
        return [(place, cell, cell.kind) for place, cell in self.filled() if cell.kind]

    def written(self) -> list[tuple[str, Cell]]:
        """(place, cell) of all words."""
        return [(place, cell) for place, cell in self.filled() if cell.word]


def draw_scene(
    choose: random.Random,
    *,
    layout: Layout,
    split: Split,
    blurred: bool = False,
    kinds: Sequence[str] = tuple(KINDS),
) -> Scene:
    """Choose a scene of a layout that belongs to `split`. Kinds and colours differ within a scene, except for books.

    Args:
        choose: of everything.
        layout: of the card.
        split: the scene belongs to it.
        blurred: nothing can be recognised.
        kinds: of the things that may be in a scene of the layout `things`.
    """
    while True:
        cells = _things(choose, kinds) if layout == "things" else _LAYOUTS[layout](choose)
        scene = Scene(cells, blurred=blurred)
        if scene.split == split:
            return scene


Cells = tuple[Cell | None, Cell | None, Cell | None, Cell | None]


def _placed(choose: random.Random, cells: list[Cell]) -> Cells:
    four: list[Cell | None] = [*cells, None, None, None, None][:4]
    choose.shuffle(four)
    return (four[0], four[1], four[2], four[3])


def _things(choose: random.Random, kinds: Sequence[str]) -> Cells:
    count = choose.choice((2, 3, 3, 4))
    chosen, colours = choose.sample(kinds, count), choose.sample(list(COLOURS), count)
    return _placed(choose, [Cell(colour, kind) for colour, kind in zip(colours, chosen, strict=True)])


def _signs(choose: random.Random) -> Cells:
    """One or two signs and one or two things."""
    signs, things = choose.choice((1, 2)), choose.choice((1, 2))
    colours = choose.sample(list(COLOURS), signs + things)
    words, kinds = choose.sample(SIGNS, signs), choose.sample(list(KINDS), things)
    cells = [Cell(colour, "sign", word) for colour, word in zip(colours, words, strict=False)]
    return _placed(choose, cells + [Cell(c, kind) for c, kind in zip(colours[signs:], kinds, strict=True)])


def _book(choose: random.Random) -> Cells:
    """A cover in one colour: the title and a thing above, the author below."""
    colour = choose.choice(list(COLOURS))
    top: list[Cell | None] = [Cell(colour, "title", choose.choice(TITLES)), Cell(colour, choose.choice(list(KINDS)))]
    bottom: list[Cell | None] = [Cell(colour, "author", choose.choice(AUTHORS)), None]
    choose.shuffle(top)
    choose.shuffle(bottom)
    return (top[0], top[1], bottom[0], bottom[1])


def _single(choose: random.Random) -> Cells:
    """One thing, or a thing and a word."""
    colours = choose.sample(list(COLOURS), 2)
    cells = [Cell(colours[0], choose.choice(list(KINDS)))]
    if choose.random() < 0.5:
        cells.append(Cell(colours[1], "sign", choose.choice(SIGNS)))
    return _placed(choose, cells)


_LAYOUTS = {"signs": _signs, "book": _book, "single": _single}
