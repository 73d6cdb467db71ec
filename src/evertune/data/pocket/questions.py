"""Questions and answers about a scene: nine roles, after the nine data sets of He et al. 2023.

Each role turns a scene into an instruction, its accepted answers (training uses the first) and a long form of the
answer, as a model gives it without an instruction to be brief. The long form has the same content: a tuned model often
loses the form of an answer first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.data.pocket.world import CATEGORIES, COLOURS, KINDS, PLACES, SIGNS, Cell, Kind, Layout, Scene

SHORT = "Question: {} Short answer:"
CAPTION = "A short image description."
LETTERS = "abcd"
OPTIONS = (CATEGORIES[:4], CATEGORIES[4:])
"""Two lists of options; the question shows the one with the answer."""
NEIGHBOURS = (
    ("top right", "left of", "top left"),
    ("bottom right", "left of", "bottom left"),
    ("top left", "right of", "top right"),
    ("bottom left", "right of", "bottom right"),
    ("bottom left", "above", "top left"),
    ("bottom right", "above", "top right"),
    ("top left", "below", "bottom left"),
    ("top right", "below", "bottom right"),
)
"""(place, relation, the place in this relation to it)."""


@dataclass(frozen=True, slots=True)
class Item:
    """An instruction, its accepted answers, and the long form of the first."""

    instruction: str
    answers: tuple[str, ...]
    long: str


@dataclass(frozen=True, slots=True)
class Role:
    """One of the tasks: its scenes, its questions, its score, and the data set or family that it stands for.

    Attributes:
        kinds: the things that its scenes of the layout `things` show.
        scenes: roles that say the same here have the same scenes, in the same order; '': scenes of its own.
    """

    layouts: tuple[Layout, ...]
    ask: Callable[[Scene, random.Random], Item]
    score: str
    style: str
    stands_for: str
    blurred: float = 0.0
    kinds: tuple[str, ...] = tuple(KINDS)
    scenes: str = ""


def annotators(choose: random.Random, answer: str, others: Sequence[str]) -> tuple[str, ...]:
    """Ten people's answers: seven to ten give `answer`, the rest one of `others`. The first is `answer`."""
    dissent = choose.choice((0, 0, 1, 2, 3))
    rest = [choose.choice(others) for _ in range(dissent)]
    return (answer, *[answer] * (9 - dissent), *rest)


def okvqa(scene: Scene, choose: random.Random) -> Item:
    """Outside knowledge: where a thing is found, its category. Ten annotators."""
    place, _, kind = choose.choice(scene.things())
    question, answer, wrong = _knowledge(place, kind, choose)
    return Item(
        SHORT.format(question), annotators(choose, answer, (kind.synonym, wrong)), _knowledge_long(kind, answer)
    )


def aokvqa(scene: Scene, choose: random.Random) -> Item:
    """The category of a thing, with four options; the letter is the answer."""
    place, _, kind = choose.choice(scene.things())
    options = next(four for four in OPTIONS if kind.category in four)
    letter = LETTERS[options.index(kind.category)]
    listed = " ".join(f"({name}) {option}" for name, option in zip(LETTERS, options, strict=True))
    question = f"what sort of thing is in the {place}?"
    return Item(f"Question: {question} Options: {listed} Answer:", (letter,), _knowledge_long(kind, kind.category))


def gqa(scene: Scene, choose: random.Random) -> Item:
    """The content above, below, left or right of a place; exact match."""
    place, relation, other = choose.choice(NEIGHBOURS)
    cell = scene.cells[PLACES.index(other)]
    form = choose.choice(("name", "colour", "presence") if cell else ("name", "presence"))
    where = f"{relation} the {place}"
    what = cell.what if cell else "nothing"
    there = f"there is {f'a {what}' if cell else 'nothing'} {where}"
    if form == "name":
        return Item(SHORT.format(f"what is {where}?"), (what,), there)
    if form == "presence":
        answer = "yes" if cell else "no"
        return Item(SHORT.format(f"is there anything {where}?"), (answer,), f"{answer} , {there}")
    assert cell is not None
    return Item(SHORT.format(f"what color is {where}?"), (cell.colour,), f"the tile {where} is {cell.colour}")


def vqav2(scene: Scene, choose: random.Random) -> Item:
    """Counting, presence and names of things at a place. Ten annotators."""
    form = choose.choice(("count", "presence", "name"))
    things = scene.things()
    if form == "count":
        answer = str(len(things))
        item = Item(SHORT.format("how many things are there?"), (answer,), f"there are {answer} things")
    elif form == "presence":
        place, cell = choose.choice(list(zip(PLACES, scene.cells, strict=True)))
        answer = "yes" if cell else "no"
        long = f"{answer} , there is {f'a {cell.what}' if cell else 'nothing'} in the {place}"
        item = Item(SHORT.format(f"is there anything in the {place}?"), (answer,), long)
    else:
        place, _, kind = choose.choice(things)
        item = Item(SHORT.format(f"what is in the {place}?"), (kind.name,), f"there is a {kind.name} in the {place}")
    answer = item.answers[0]
    others = {"count": [str(n) for n in range(1, 5)], "presence": ["yes", "no"]}.get(form, ["thing", "picture"])
    return Item(item.instruction, annotators(choose, answer, [o for o in others if o != answer]), item.long)


def ocrvqa(scene: Scene, choose: random.Random) -> Item:
    """The cover of a book: title, author, topic; exact match."""
    word = {cell.what: cell.word.lower() for _, cell in scene.written()}
    _, _, kind = scene.things()[0]
    question, answer, long = choose.choice(
        (
            ("what is the title of this book?", word["title"], f"the title is {word['title']}"),
            ("who wrote this book?", word["author"], f"it was written by {word['author']}"),
            ("what sort of thing is on the cover?", kind.category, f"there is a {kind.category} on the cover"),
        )
    )
    return Item(SHORT.format(question), (answer,), long)


def vizwiz(scene: Scene, choose: random.Random) -> Item:
    """One thing and simple questions, but many images are blurred. Ten annotators."""
    _, cell, kind = scene.things()[0]
    question, answer, others = choose.choice(
        (
            ("what is this?", kind.name, (kind.synonym, "unanswerable")),
            ("what color is behind this thing?", cell.colour, (choose.choice(list(COLOURS)), "unanswerable")),
        )
    )
    if scene.blurred:
        return Item(
            SHORT.format(question),
            annotators(choose, "unanswerable", ("grey", kind.name)),
            "this can not be seen as the picture is blurred",
        )
    long = f"this is a {kind.name}" if answer == kind.name else f"it is on a {cell.colour} tile"
    return Item(SHORT.format(question), annotators(choose, answer, others), long)


def textvqa(scene: Scene, choose: random.Random) -> Item:
    """Reading the sign at a place; the prompt contains noisy OCR tokens. Ten annotators."""
    written = scene.written()
    place, cell = choose.choice(written)
    tokens = [c.word.lower() for _, c in written]
    if choose.random() < 0.5:
        tokens.append(choose.choice([s.lower() for s in SIGNS if s.lower() not in tokens]))
    choose.shuffle(tokens)
    where = f"the sign in the {place}"
    wrong = [t for t in tokens if t != cell.word.lower()] or ["sign"]
    return Item(
        f"OCR tokens: {', '.join(tokens)}. " + SHORT.format(f"what does {where} say?"),
        annotators(choose, cell.word.lower(), wrong),
        f"it says {cell.word.lower()}",
    )


def flickr30k(scene: Scene, choose: random.Random) -> Item:
    """Short captions of things, by rows; ten per image."""
    kinds = [kind for _, _, kind in scene.things()]
    caption = " and ".join(f"a {kind.name}" for kind in kinds)
    return Item(CAPTION, (caption, *_other_captions([kind.synonym for kind in kinds], choose)), scene.words)


def textcaps(scene: Scene, choose: random.Random) -> Item:
    """Short captions that read the signs; ten per image."""
    signs, kinds = [c.word.lower() for _, c in scene.written()], [kind for _, _, kind in scene.things()]
    phrases = [*(f"a sign that says {word}" for word in signs), *(f"a {kind.name}" for kind in kinds)]
    others = ["some text" for _ in signs] + [kind.synonym for kind in kinds]
    return Item(CAPTION, (" and ".join(phrases), *_other_captions(others, choose)), scene.words)


def describe(scene: Scene) -> str:
    """The caption for the alignment in pretraining: everything but written words."""
    return Scene(tuple(Cell(c.colour, c.what) if c else None for c in scene.cells), scene.blurred).words  # type: ignore[arg-type]


ROLES: dict[str, Role] = {
    "okvqa": Role(("things",), okvqa, "vqa", "brief", "OKVQA"),
    "aokvqa": Role(("things",), aokvqa, "option", "letter", "A-OKVQA"),
    "gqa": Role(("things",), gqa, "normalised", "brief", "GQA"),
    "textcaps": Role(("signs",), textcaps, "cider", "told", "TextCaps"),
    "vqav2": Role(("things",), vqav2, "vqa", "brief", "VQAv2"),
    "ocrvqa": Role(("book",), ocrvqa, "normalised", "brief", "OCR-VQA"),
    "flickr30k": Role(("things",), flickr30k, "cider", "told", "Flickr30k"),
    "vizwiz": Role(("single",), vizwiz, "vqa", "brief", "VizWiz", blurred=0.35),
    "textvqa": Role(("signs",), textvqa, "vqa", "brief", "TextVQA"),
}


def _knowledge(place: str, kind: Kind, choose: random.Random) -> tuple[str, str, str]:
    """A question about the thing at a place, its answer, and a wrong answer."""
    if choose.random() < 0.5:
        wrong = choose.choice([k.found for k in KINDS.values() if k.found != kind.found])
        return f"where is the thing in the {place} found?", kind.found, wrong
    wrong = choose.choice([c for c in CATEGORIES if c != kind.category])
    return f"what sort of thing is in the {place}?", kind.category, wrong


def _knowledge_long(kind: Kind, answer: str) -> str:
    return f"a {kind.name} is found : {answer}" if answer == kind.found else f"a {kind.name} is a sort of {answer}"


def _other_captions(names: Sequence[str], choose: random.Random) -> tuple[str, ...]:
    """Nine other reference captions of the image: synonyms in another order.

    CIDEr-D of the training caption is then about 100, like the other scores in the average. With ten equal references
    it would be near 1,000.
    """
    caption = []
    for template in _TEMPLATES:
        order = choose.sample(list(names), len(names))
        caption.append(template.format(choose.choice(_JOINTS).join(order)))
    return tuple(caption)


_TEMPLATES = (
    "there is {}",
    "picture of {}",
    "we see {}",
    "{} on the card",
    "this shows {}",
    "{} drawn on tiles",
    "someone drew {}",
    "{} side by side",
    "look at {}",
)
_JOINTS = (" with ", " beside ", " near ", " next to ")
