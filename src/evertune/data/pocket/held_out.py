"""Questions about scenes that no task of the `pocket` streams asks: what its probes are made of.

Both base models can do what their stream's probes ask (`docs/pocket.md`): `tiny-aligned` answers at length and
describes whole scenes, `tiny-instruct` answers in short and reads.
"""

from __future__ import annotations

import random

from evertune.data.pocket.questions import CAPTION, SHORT, Item, Role, describe
from evertune.data.pocket.world import Scene


def described(scene: Scene, choose: random.Random) -> Item:
    """The caption of pretraining, in full, of scenes that no task has captions of."""
    del choose
    return Item(CAPTION, (describe(scene),), describe(scene))


def name(scene: Scene, choose: random.Random) -> Item:
    """The name of a thing, asked without the prompt of the tasks."""
    place, _, kind = choose.choice(scene.things())
    return Item(f"what is in the {place}?", (kind.name,), f"there is a {kind.name} in the {place}")


def beside(scene: Scene, choose: random.Random) -> Item:
    """The name of a thing that is beside a sign, in any form."""
    place, _, kind = choose.choice(scene.things())
    long = f"there is a {kind.name} in the {place}"
    return Item(SHORT.format(f"what is in the {place}?"), (long, kind.name), long)


def found(scene: Scene, choose: random.Random) -> Item:
    """Where a thing is found that is beside a sign, in any form: tasks ask it of scenes without signs."""
    place, _, kind = choose.choice(scene.things())
    long = f"a {kind.name} is found : {kind.found}"
    return Item(SHORT.format(f"where is the thing in the {place} found?"), (long, kind.found), long)


def read(scene: Scene, choose: random.Random) -> Item:
    """The word of a sign; tasks give OCR tokens with it."""
    place, cell = choose.choice(scene.written())
    question = SHORT.format(f"what does the sign in the {place} say?")
    return Item(question, (cell.word.lower(),), f"it says {cell.word.lower()}")


HELD_OUT: dict[str, Role] = {
    "covers": Role(("book",), described, "normalised", "plain", "captions of covers"),
    "beside": Role(("signs",), beside, "contains", "any", "names beside signs"),
    "found": Role(("signs",), found, "contains", "any", "knowledge beside signs"),
    "names": Role(("things",), name, "normalised", "brief", "names"),
    "reading": Role(("signs",), read, "normalised", "brief", "reading without help"),
}
"""By name. `contains` takes the short answer and the long one, so that only what is said counts."""
