"""What `tiny` reads and sees before any task: scenes in words with questions, and scenes as pictures with captions.

The decoder learns the language from text alone: seventeen words (how to answer, and the scene), questions, answers.
Later the Q-Former's seventeen soft tokens stand where these words stood.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evertune.data.pocket.questions import CAPTION, ROLES, describe
from evertune.data.pocket.world import PLACES, Layout, Scene, draw_scene

PLAIN = "plain"
STYLES = (PLAIN, "brief", "letter", "told")
SLOTS = 17
LONG = 32
"""Words after which a text gets no further question: padding to the longest would cost more than it teaches."""
LAYOUTS: tuple[Layout, ...] = ("things", "signs", "book", "single")


@dataclass(frozen=True, slots=True)
class Document:
    """The words before the questions, and questions with their answers."""

    prefix: str
    questions: tuple[tuple[str, str], ...]


def lookup(choose: random.Random) -> Document:
    """A first text: what is there, and of which colour, at some places of a scene.

    Looking a word up by its place is what all other answers are built on. Learned alone it takes some hundred steps;
    among all forms of questions it had not begun after a thousand.
    """
    scene = _scene(choose, choose.choice(("things", "things", "signs", "book")), blurred=False)
    questions: dict[str, str] = {}
    for _ in range(3):
        place, cell = choose.choice(list(zip(PLACES, scene.cells, strict=True)))
        what, colour = (cell.what, cell.colour) if cell else ("nothing", "nothing")
        questions |= dict(
            [choose.choice(((f"what is in the {place}?", what), (f"what color is the {place}?", colour)))]
        )
    return Document(f"brief {scene.words}", tuple(questions.items()))


def document(choose: random.Random) -> Document:
    """A text to learn the language from: a scene, and questions of every form that fits it.

    Half of them are answered at length, the others as their tasks want it. Several questions about one scene give the
    decoder more to look up per word that it reads.
    """
    first = ROLES[choose.choice(list(ROLES))]
    scene = _scene(choose, choose.choice(first.layouts), blurred=choose.random() < first.blurred)
    if choose.random() < 0.1 and not scene.blurred:
        return Document(f"{PLAIN} {describe(scene)}", ((CAPTION, describe(scene)),))
    at_length = choose.random() < 0.5
    fitting = [r for r in ROLES.values() if r.layouts == first.layouts and (at_length or r.style == first.style)]
    style = PLAIN if at_length else first.style
    questions: dict[str, str] = {}
    for _ in range(1 if first.style == "told" else 4):
        item = choose.choice(fitting).ask(scene, choose)
        questions[item.instruction] = item.long if at_length else item.answers[0]
        if sum(len(f"{question} {answer}".split()) for question, answer in questions.items()) > LONG:
            break
    return Document(f"{style} {scene.words}", tuple(questions.items()))


def caption_scene(choose: random.Random) -> Scene:
    """A scene of pretraining to be captioned; never blurred."""
    return _scene(choose, choose.choice(LAYOUTS), blurred=False)


def _scene(choose: random.Random, layout: Layout, *, blurred: bool) -> Scene:
    return draw_scene(choose, layout=layout, split="pretrain", blurred=blurred)
