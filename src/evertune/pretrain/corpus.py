"""What `tiny` reads and sees before any task: scenes in words with questions, and scenes as pictures with captions.

The decoder learns the language from text alone: seventeen words (how to answer, and the scene), a question, an answer.
Later the Q-Former's seventeen soft tokens stand where these words stood.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evertune.tasks.pocket.questions import CAPTION, ROLES, describe
from evertune.tasks.pocket.world import Layout, Scene, draw_scene

PLAIN = "plain"
STYLES = (PLAIN, "brief", "letter", "told")
SLOTS = 17
LAYOUTS: tuple[Layout, ...] = ("things", "signs", "book", "single")


@dataclass(frozen=True, slots=True)
class Document:
    """The words before the question, the question, the answer."""

    prefix: str
    prompt: str
    answer: str


def document(choose: random.Random) -> Document:
    """A text to learn the language from; every form of question, answered at length or as its task wants it."""
    role = ROLES[choose.choice(list(ROLES))]
    scene = _scene(choose, choose.choice(role.layouts), blurred=choose.random() < role.blurred)
    if choose.random() < 0.15 and not scene.blurred:
        return Document(f"{PLAIN} {describe(scene)}", CAPTION, describe(scene))
    item = role.ask(scene, choose)
    if choose.random() < 0.5:
        return Document(f"{PLAIN} {scene.words}", item.instruction, item.long)
    return Document(f"{role.style} {scene.words}", item.instruction, item.answers[0])


def caption_scene(choose: random.Random) -> Scene:
    """A scene of pretraining to be captioned; never blurred."""
    return _scene(choose, choose.choice(LAYOUTS), blurred=False)


def _scene(choose: random.Random, layout: Layout, *, blurred: bool) -> Scene:
    return draw_scene(choose, layout=layout, split="pretrain", blurred=blurred)
