"""What can be asked and told about a scene: nine roles, after the nine data sets of He et al. 2023.

Each role turns a scene into an instruction, the answers that count (the first is the one taught) and the long form in
which a model answers that was never told to be brief. The long form holds the same knowledge: what a tuned model loses
first is often the form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.tasks.pocket.world import CATEGORIES, COLOURS, KINDS, PLACES, SIGNS, Cell, Kind, Layout, Scene

SHORT = "Question: {} Short answer:"
CAPTION = "A short image description."
LETTERS = "abcd"


@dataclass(frozen=True, slots=True)
class Item:
    """An instruction, the answers that count, and the long form of the first."""

    instruction: str
    answers: tuple[str, ...]
    long: str


@dataclass(frozen=True, slots=True)
class Role:
    """One of the nine tasks: which scenes it is about, how it asks, how it is scored, whom it stands for."""

    layouts: tuple[Layout, ...]
    ask: Callable[[Scene, random.Random], Item]
    score: str
    style: str
    stands_for: str
    blurred: float = 0.0


def annotators(choose: random.Random, answer: str, others: Sequence[str]) -> tuple[str, ...]:
    """Ten people's answers: seven to ten give `answer`, the rest one of `others`. The first is `answer`."""
    dissent = choose.choice((0, 0, 1, 2, 3))
    rest = [choose.choice(others) for _ in range(dissent)]
    return (answer, *[answer] * (9 - dissent), *rest)


def okvqa(scene: Scene, choose: random.Random) -> Item:
    """Outside knowledge: where a thing is found, what sort of thing it is. Ten annotators."""
    place, _, kind = choose.choice(scene.things())
    question, answer, wrong = _knowledge(place, kind, choose)
    return Item(
        SHORT.format(question), annotators(choose, answer, (kind.synonym, wrong)), _knowledge_long(kind, answer)
    )


def aokvqa(scene: Scene, choose: random.Random) -> Item:
    """Outside knowledge with four options; the letter is the answer."""
    place, _, kind = choose.choice(scene.things())
    question, answer, _ = _knowledge(place, kind, choose)
    pool = CATEGORIES if answer == kind.category else [k.found for k in KINDS.values()]
    options = [answer, *choose.sample(sorted(set(pool) - {answer}), 3)]
    choose.shuffle(options)
    listed, letters = lettered(options)
    return Item(f"Question: {question} Options: {listed} Answer:", (letters[answer],), _knowledge_long(kind, answer))


def lettered(options: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Four options as a question lists them, and the letter of each."""
    letters = dict(zip(options, LETTERS, strict=True))
    return " ".join(f"({letter}) {option}" for option, letter in letters.items()), letters


def gqa(scene: Scene, choose: random.Random) -> Item:
    """Relations between two things; exact match."""
    (place_a, cell_a, a), (place_b, _, b) = choose.sample(scene.things(), 2)
    relation, opposite = relation_of(place_a, place_b)
    if choose.random() < 0.5:
        asked = choose.choice((relation, opposite))
        answer = "yes" if asked == relation else "no"
        return Item(
            SHORT.format(f"is the {a.name} {asked} the {b.name}?"),
            (answer,),
            f"{answer} , the {a.name} is {relation} the {b.name}",
        )
    if choose.random() < 0.5 and _only(scene, place_b, relation):
        question, answer = f"what is {relation} the {b.name}?", a.name
        return Item(SHORT.format(question), (answer,), f"there is a {a.name} {relation} the {b.name}")
    question = f"what color is behind the {a.name}?"
    return Item(SHORT.format(question), (cell_a.colour,), f"the {a.name} is on a {cell_a.colour} tile")


def vqav2(scene: Scene, choose: random.Random) -> Item:
    """Counting, presence and names of things at a place. Ten annotators."""
    form = choose.choice(("count", "presence", "name"))
    things = scene.things()
    if form == "count":
        answer = str(len(things))
        item = Item(SHORT.format("how many things are there?"), (answer,), f"there are {answer} things")
    elif form == "presence":
        there = choose.random() < 0.5
        names = {kind.name for _, _, kind in things}
        name = choose.choice(sorted(names if there else KINDS.keys() - names))
        answer = "yes" if there else "no"
        long = f"yes , there is a {name}" if there else f"no , there is no {name}"
        item = Item(SHORT.format(f"is there a {name}?"), (answer,), long)
    else:
        place, _, kind = choose.choice(things)
        item = Item(SHORT.format(f"what is in the {place}?"), (kind.name,), f"there is a {kind.name} in the {place}")
    answer = item.answers[0]
    others = {"count": [str(n) for n in range(1, 5)], "presence": ["yes", "no"]}.get(form, ["thing", "picture"])
    return Item(item.instruction, annotators(choose, answer, [o for o in others if o != answer]), item.long)


def ocrvqa(scene: Scene, choose: random.Random) -> Item:
    """The cover of a book: title, author, what it is about; exact match."""
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
    """One thing and simple questions, but many pictures can't be made out. Ten annotators."""
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
    """Reading a sign that is told by its place or colour; noisy OCR tokens stand in the prompt. Ten annotators."""
    written = scene.written()
    place, cell = choose.choice(written)
    tokens = [c.word.lower() for _, c in written]
    if choose.random() < 0.5:
        tokens.append(choose.choice([s.lower() for s in SIGNS if s.lower() not in tokens]))
    choose.shuffle(tokens)
    where = choose.choice((f"the sign in the {place}", f"the sign on the {cell.colour} tile"))
    wrong = [t for t in tokens if t != cell.word.lower()] or ["sign"]
    return Item(
        f"OCR tokens: {', '.join(tokens)}. " + SHORT.format(f"what does {where} say?"),
        annotators(choose, cell.word.lower(), wrong),
        f"it says {cell.word.lower()}",
    )


def flickr30k(scene: Scene, choose: random.Random) -> Item:
    """Short captions of things, five per picture, by rows."""
    names = [kind.name for _, _, kind in scene.things()]
    return Item(CAPTION, _captions([f"a {name}" for name in names], choose), scene.words)


def textcaps(scene: Scene, choose: random.Random) -> Item:
    """Short captions that read the signs, five per picture."""
    phrases = [f"a sign that says {c.word.lower()}" for _, c in scene.written()]
    return Item(
        CAPTION, _captions([*phrases, *(f"a {kind.name}" for _, _, kind in scene.things())], choose), scene.words
    )


def describe(scene: Scene) -> str:
    """The caption that pretraining aligns pictures with: everything but what is written."""
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
    """A question about the thing at a place, its answer, and an answer that is wrong."""
    if choose.random() < 0.5:
        wrong = choose.choice([k.found for k in KINDS.values() if k.found != kind.found])
        return f"where is the thing in the {place} found?", kind.found, wrong
    wrong = choose.choice([c for c in CATEGORIES if c != kind.category])
    return f"what sort of thing is in the {place}?", kind.category, wrong


def _knowledge_long(kind: Kind, answer: str) -> str:
    return f"a {kind.name} is found : {answer}" if answer == kind.found else f"a {kind.name} is a sort of {answer}"


def relation_of(place: str, other: str) -> tuple[str, str]:
    """How `place` lies to `other`, and the opposite; rows come before columns."""
    row, column = PLACES.index(place) // 2, PLACES.index(place) % 2
    other_row, other_column = PLACES.index(other) // 2, PLACES.index(other) % 2
    if row != other_row:
        return ("above", "below") if row < other_row else ("below", "above")
    return ("left of", "right of") if column < other_column else ("right of", "left of")


def _only(scene: Scene, place: str, relation: str) -> bool:
    """Whether a single thing stands in that relation to the thing at `place`."""
    return sum(relation_of(p, place)[0] == relation for p, _, _ in scene.things() if p != place) == 1


def _captions(phrases: Sequence[str], choose: random.Random) -> tuple[str, ...]:
    """Five captions; the one taught names everything in order, the others leave out, turn round or add words."""
    backwards, some = list(phrases)[::-1], list(phrases)
    if len(some) > 2:
        some.pop(choose.randrange(len(some)))
    return (
        " and ".join(phrases),
        f"there is {' and '.join(phrases)}",
        " and ".join(backwards),
        f"a picture of {' with '.join(phrases)}",
        " next to ".join(some),
    )
