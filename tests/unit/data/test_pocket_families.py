"""`pocket-s`: what the tasks of a family share, and what they do not."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from evertune.data.builders.pocket import ALL, build
from evertune.data.pocket.families import FAMILIES, LIVING, MADE, MOVING
from evertune.data.pocket.questions import ROLES
from evertune.data.pocket.world import CATEGORIES, KINDS, Cell, Scene, draw_scene
from evertune.data.stream import stream_file

SCENE = Scene((Cell("red", "cat"), None, Cell("blue", "key"), None))


def items(name, count=40):
    """Questions of a task with the scenes that they are about."""
    role, choose = FAMILIES[name], random.Random(name)
    scenes = [
        draw_scene(choose, layout=choose.choice(role.layouts), split="train", kinds=role.kinds) for _ in range(count)
    ]
    return [(scene, role.ask(scene, choose)) for scene in scenes]


def test_twelve_tasks_in_two_orders():
    by_family, _ = stream_file("pocket-s")
    interleaved, _ = stream_file("pocket-s-interleaved")
    assert [task.name for task in by_family.tasks] == list(FAMILIES)
    assert sorted(task.name for task in interleaved.tasks) == sorted(FAMILIES)
    families = [FAMILIES[task.name].stands_for for task in interleaved.tasks]
    assert all(one != other for one, other in itertools.pairwise(families))
    assert [task.score for task in by_family.tasks] == [FAMILIES[task.name].score for task in by_family.tasks]
    assert not FAMILIES.keys() & ROLES.keys()


def test_other_objects_of_the_same_question():
    """Three shares of all categories, so that no thing is in two of the tasks."""
    assert sorted((*LIVING, *MADE, *MOVING)) == sorted(CATEGORIES)
    for name, categories in (("found-living", LIVING), ("found-made", MADE), ("found-moving", MOVING)):
        for scene, item in items(name):
            kinds = [kind for _, _, kind in scene.things()]
            assert {kind.category for kind in kinds} <= set(categories)
            assert item.answers[0] in {kind.found for kind in kinds}
            assert item.instruction.startswith("Question: where is the thing in the ")


def test_other_questions_about_the_same_images(tmp_path):
    """Image by image the same bytes; the questions differ."""
    rows = {}
    for name in ("scene-name", "scene-count", "scene-letter"):
        (tmp_path / name).mkdir()
        build(tmp_path / name, role=name, train=3, test=2, seed=0)
        lines = (tmp_path / name / "train.jsonl").read_text().splitlines()
        rows[name] = [json.loads(line)["instruction"] for line in lines]
    for image in ("train-0", "train-2", "test-1"):
        assert len({(tmp_path / name / "images" / f"{image}.png").read_bytes() for name in rows}) == 1
    assert all(len({rows[name][n] for name in rows}) == 3 for n in range(3))
    (tmp_path / "other").mkdir()
    build(tmp_path / "other", role="there-at", train=1, test=0, seed=0)
    one, other = (tmp_path / name / "images" / "train-0.png" for name in ("scene-name", "other"))
    assert one.read_bytes() != other.read_bytes(), "tasks of other families have images of their own"


@pytest.mark.parametrize("name", ["there-at", "there-by", "there-sign"])
def test_the_same_answers_to_other_questions(name):
    assert {item.answers for _, item in items(name)} == {("yes",), ("no",)}


def test_what_is_right():
    answers = {name: FAMILIES[name].ask(SCENE, random.Random(3)) for name in ("scene-count", "scene-name", "there-at")}
    assert answers["scene-count"].answers == ("2",)
    place = answers["scene-name"].instruction.removeprefix("Question: what is in the ").split("?")[0]
    assert answers["scene-name"].answers == ({"top left": "cat", "bottom left": "key"}[place],)
    seen = set()
    for seed in range(30):
        item = FAMILIES["there-by"].ask(SCENE, random.Random(seed))
        where = item.instruction.removeprefix("Question: is there anything ").split("?")[0]
        right = {"left of the top right", "left of the bottom right", "above the bottom left", "below the top left"}
        assert item.answers == (("yes",) if where in right else ("no",)), where
        seen.add(where)
    assert len(seen) == 8
    assert FAMILIES["title"].ask(*_book()).answers == ("moon",)


def _book():
    cells = (Cell("red", "title", "MOON"), Cell("red", "cat"), Cell("red", "author", "SATO"), None)
    return Scene(cells), random.Random(0)


def test_the_other_tasks_draw_what_they_did():
    """The scene that a role draws does not depend on the families: the images of pocket-b1 are those of before."""
    choose = random.Random("pocket okvqa train 0")
    layout, blurred = choose.choice(ALL["okvqa"].layouts), choose.random() < ALL["okvqa"].blurred
    scene = draw_scene(choose, layout=layout, split="train", blurred=blurred, kinds=ALL["okvqa"].kinds)
    assert ALL["okvqa"].kinds == tuple(KINDS) and scene.words == WORDS


WORDS = "topleft blue axe - topright pink glasses - bottomleft nothing - - bottomright green trumpet -"
