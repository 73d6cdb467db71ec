"""The pretraining corpus of `tiny`: scenes in words with questions, and scenes as images with captions.

The decoder learns the language from text alone: seventeen words (the form of the answer, then the scene), questions,
answers. Later the Q-Former's seventeen soft tokens replace these words.
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
"""A text of this many words gets no further question, since the others are padded to the longest."""
LAYOUTS: tuple[Layout, ...] = ("things", "signs", "book", "single")


@dataclass(frozen=True, slots=True)
class Document:
    """The words before the questions, and questions with their answers."""

    prefix: str
    questions: tuple[tuple[str, str], ...]


def lookup(choose: random.Random) -> Document:
    """A document of the first phase: what is at some places of a scene, and its colour.

    All other answers need this lookup of a word by its place. Trained alone, the model learns it in some hundred steps;
    mixed with all other questions, it had not started after a thousand.
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
    """A training text: a scene, and questions of every role that fits it.

    Half of the texts have long answers, the others the form of their task. Several questions per scene give more
    supervision per word of context.
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
    """A pretraining scene for captions; never blurred."""
    return _scene(choose, choose.choice(LAYOUTS), blurred=False)


def _scene(choose: random.Random, layout: Layout, *, blurred: bool) -> Scene:
    return draw_scene(choose, layout=layout, split="pretrain", blurred=blurred)
