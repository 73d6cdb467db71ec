"""The twelve tasks of `pocket-s`: four families, so that the similarity of two tasks varies on purpose.

Within a family the tasks share one thing: the question (other objects), the images (other questions), or the answers
(other questions and images). The fourth family shares nothing. All use forms of questions that the frozen decoder of
`tiny` knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from evertune.data.pocket.questions import NEIGHBOURS, ROLES, SHORT, Item, Role, aokvqa
from evertune.data.pocket.world import KINDS, PLACES, Scene

LIVING, MADE, MOVING = ("animal", "plant", "food"), ("tool", "furniture", "clothing"), ("vehicle", "instrument")
SAME_SCENES = "pocket-s"


def place_found(scene: Scene, choose: random.Random) -> Item:
    """Where the thing at a place is found."""
    place, _, kind = choose.choice(scene.things())
    question = f"where is the thing in the {place} found?"
    return Item(SHORT.format(question), (kind.found,), f"a {kind.name} is found : {kind.found}")


def name_at(scene: Scene, choose: random.Random) -> Item:
    """The name of the thing at a place."""
    place, _, kind = choose.choice(scene.things())
    return Item(SHORT.format(f"what is in the {place}?"), (kind.name,), f"there is a {kind.name} in the {place}")


def count(scene: Scene, choose: random.Random) -> Item:
    """How many things there are."""
    del choose
    answer = str(len(scene.things()))
    return Item(SHORT.format("how many things are there?"), (answer,), f"there are {answer} things")


def anything_at(scene: Scene, choose: random.Random) -> Item:
    """Whether there is anything at a place."""
    place = choose.choice(PLACES)
    return _presence(scene, f"in the {place}", place)


def anything_by(scene: Scene, choose: random.Random) -> Item:
    """Whether there is anything above, below, left or right of a place."""
    place, relation, other = choose.choice(NEIGHBOURS)
    return _presence(scene, f"{relation} the {place}", other)


def title(scene: Scene, choose: random.Random) -> Item:
    """The title of a book."""
    del choose
    (word,) = [cell.word.lower() for _, cell in scene.written() if cell.what == "title"]
    return Item(SHORT.format("what is the title of this book?"), (word,), f"the title is {word}")


def _presence(scene: Scene, where: str, place: str) -> Item:
    cell = scene.cells[PLACES.index(place)]
    answer = "yes" if cell else "no"
    what = f"a {cell.what}" if cell else "nothing"
    return Item(SHORT.format(f"is there anything {where}?"), (answer,), f"{answer} , there is {what} {where}")


def _of(categories: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(kind.name for kind in KINDS.values() if kind.category in categories)


def _things(ask: Callable[[Scene, random.Random], Item], family: str, *, scenes: str = "") -> Role:
    return Role(("things",), ask, "normalised", "brief", family, scenes=scenes)


FAMILIES: dict[str, Role] = {
    "found-living": replace(_things(place_found, "other objects"), kinds=_of(LIVING)),
    "found-made": replace(_things(place_found, "other objects"), kinds=_of(MADE)),
    "found-moving": replace(_things(place_found, "other objects"), kinds=_of(MOVING)),
    "scene-name": _things(name_at, "other questions", scenes=SAME_SCENES),
    "scene-count": _things(count, "other questions", scenes=SAME_SCENES),
    "scene-letter": replace(_things(aokvqa, "other questions", scenes=SAME_SCENES), score="option", style="letter"),
    "there-at": _things(anything_at, "same answers"),
    "there-by": _things(anything_by, "same answers"),
    "there-sign": Role(("signs",), anything_at, "normalised", "brief", "same answers"),
    "title": Role(("book",), title, "normalised", "brief", "unrelated"),
    "sign": replace(ROLES["textvqa"], stands_for="unrelated"),
    "caption": replace(ROLES["flickr30k"], stands_for="unrelated"),
}
"""By name, three of each family; `stands_for` is what the tasks of a family share, or what differs."""
