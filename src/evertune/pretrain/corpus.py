"""What `tiny` reads and sees before any task: scenes in words with questions, and scenes as pictures with captions.

The decoder learns the language from text alone: seventeen words (how to answer, and the scene), questions, answers.
Later the Q-Former's seventeen soft tokens stand where these words stood.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evertune.tasks.pocket.questions import CAPTION, ROLES, Role, describe, lettered, relation_of
from evertune.tasks.pocket.world import CATEGORIES, KINDS, PLACES, Layout, Scene, draw_scene

PLAIN = "plain"
STYLES = (PLAIN, "brief", "letter", "told")
SLOTS = 17
LONG = 32
"""Words after which a text gets no further question: padding to the longest would cost more than it teaches."""
LAYOUTS: tuple[Layout, ...] = ("things", "signs", "book", "single")
OFTEN = {"aokvqa": 3, "gqa": 3, "vqav2": 2, "textvqa": 2}
"""Roles that are asked more often than the others because they take more steps to learn."""


@dataclass(frozen=True, slots=True)
class Document:
    """The words before the questions, and questions with their answers."""

    prefix: str
    asked: tuple[tuple[str, str], ...]


def lookup(choose: random.Random, *, questions: int = 3) -> Document:
    """A first text: what is there, and of which colour, at some places of a scene.

    Looking a word up by its place is what all other answers are built on. Learned alone it takes some hundred steps;
    among all forms of questions it had not begun after a thousand.
    """
    scene = _scene(choose, choose.choice(("things", "things", "signs", "book")), blurred=False)
    asked: dict[str, str] = {}
    for _ in range(questions):
        place, cell = choose.choice(list(zip(PLACES, scene.cells, strict=True)))
        what, colour = (cell.what, cell.colour) if cell else ("nothing", "nothing")
        asked |= dict([choose.choice(((f"what is in the {place}?", what), (f"what color is the {place}?", colour)))])
    return Document(f"brief {scene.words}", tuple(asked.items()))


def facts(choose: random.Random, *, questions: int = 5) -> Document:
    """A text of single steps that the tasks' answers are made of.

    Where a thing is, what lies on a colour, whether something is there, how two places lie to each other, which letter
    an option has: asked only as part of a whole answer, these were not learned in 1,600 steps.
    """
    scene = _scene(choose, choose.choice(("things", "signs")), blurred=False)
    asked = dict(choose.choice(_FACTS)(scene, choose) for _ in range(questions))
    return Document(f"brief {scene.words}", tuple(asked.items()))


def document(choose: random.Random, *, questions: int = 4) -> Document:
    """A text to learn the language from: a scene, and questions of every form that fits it.

    Some are answered at length, the others as their tasks want it; a fifth of the texts are `facts`. Several questions
    about one scene give the decoder more to look up per word that it reads.
    """
    return facts(choose) if choose.random() < 0.2 else task_document(choose, questions=questions)


def task_document(choose: random.Random, *, questions: int) -> Document:
    """A text with questions as the tasks of `pocket` ask them, answered at length or as the task wants it."""
    first = _role(choose, list(ROLES.values()))
    scene = _scene(choose, choose.choice(first.layouts), blurred=choose.random() < first.blurred)
    if choose.random() < 0.1 and not scene.blurred:
        return Document(f"{PLAIN} {describe(scene)}", ((CAPTION, describe(scene)),))
    at_length = choose.random() < 0.4
    fitting = [r for r in ROLES.values() if r.layouts == first.layouts and (at_length or r.style == first.style)]
    style = PLAIN if at_length else first.style
    asked: dict[str, str] = {}
    for _ in range(1 if first.style == "told" else questions):
        item = _role(choose, fitting).ask(scene, choose)
        asked[item.instruction] = item.long if at_length else item.answers[0]
        if sum(len(f"{question} {answer}".split()) for question, answer in asked.items()) > LONG:
            break
    return Document(f"{style} {scene.words}", tuple(asked.items()))


def caption_scene(choose: random.Random) -> Scene:
    """A scene of pretraining to be captioned; never blurred."""
    return _scene(choose, choose.choice(LAYOUTS), blurred=False)


def _scene(choose: random.Random, layout: Layout, *, blurred: bool) -> Scene:
    return draw_scene(choose, layout=layout, split="pretrain", blurred=blurred)


def _role(choose: random.Random, roles: list[Role]) -> Role:
    names = {id(role): name for name, role in ROLES.items()}
    return choose.choices(roles, [OFTEN.get(names[id(role)], 1) for role in roles])[0]


Asked = tuple[str, str]


def _place_of(scene: Scene, choose: random.Random) -> Asked:
    place, _, kind = choose.choice(scene.things())
    return f"where is the {kind.name}?", place


def _on_colour(scene: Scene, choose: random.Random) -> Asked:
    _, cell = choose.choice(scene.filled())
    return f"what is on the {cell.colour} tile?", cell.word.lower() or cell.what


def _is_there(scene: Scene, choose: random.Random) -> Asked:
    there = [kind.name for _, _, kind in scene.things()]
    if choose.random() < 0.5:
        return f"is there a {choose.choice(there)}?", "yes"
    return f"is there a {choose.choice(sorted(KINDS.keys() - set(there)))}?", "no"


def _lies(scene: Scene, choose: random.Random) -> Asked:
    del scene
    place, other = choose.sample(PLACES, 2)
    relation, opposite = relation_of(place, other)
    asked = choose.choice((relation, opposite))
    return f"is the {place} {asked} the {other}?", "yes" if asked == relation else "no"


def _sort(scene: Scene, choose: random.Random) -> Asked:
    _, _, kind = choose.choice(scene.things())
    return choose.choice(
        ((f"what sort of thing is a {kind.name}?", kind.category), (f"where is a {kind.name} found?", kind.found))
    )


def _letter_of(scene: Scene, choose: random.Random) -> Asked:
    del scene
    options = choose.sample(choose.choice((list(CATEGORIES), [k.found for k in KINDS.values()])), 4)
    listed, letters = lettered(options)
    option = choose.choice(options)
    return f"letter of {option}? Options: {listed} Answer:", letters[option]


_FACTS = (_place_of, _on_colour, _is_there, _lies, _sort, _letter_of)
