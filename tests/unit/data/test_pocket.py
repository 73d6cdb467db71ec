"""The world of pocket: scenes, splits, and that each question's answer is what the scene shows."""

from __future__ import annotations

import random
import re
import statistics

import pytest
from pretraining.corpus import SLOTS, caption_scene, document

from evertune.data.builders import pocket
from evertune.data.pocket.draw import SIDE, draw
from evertune.data.pocket.questions import ROLES, describe
from evertune.data.pocket.world import PLACES, SHARES, draw_scene
from evertune.metrics.cider import cider
from evertune.utils.errors import UserError


def scenes(layout, *, count=200, split="train", blurred=False):
    choose = random.Random(f"test {layout}")
    return [draw_scene(choose, layout=layout, split=split, blurred=blurred) for _ in range(count)]


def questions(role, *, count=300, blurred=False):
    """(scene, item) of a role, on scenes of its layouts."""
    choose = random.Random(role)
    rule = ROLES[role]
    for scene in scenes(rule.layouts[0], count=count, blurred=blurred):
        yield scene, rule.ask(scene, choose)


def at(scene, place):
    return scene.cells[PLACES.index(place)]


@pytest.mark.parametrize("layout", ["things", "signs", "book", "single"])
def test_splits_are_disjoint_and_words_decide(layout):
    words = {split: {s.words for s in scenes(layout, split=split)} for split in SHARES}
    assert not words["train"] & words["test"]
    assert not words["pretrain"] & (words["train"] | words["test"])


def test_seventeen_slots():
    for layout in ("things", "signs", "book", "single"):
        assert all(len(s.words.split()) + 1 == SLOTS for s in scenes(layout, count=50))
    assert len(scenes("single", count=1, blurred=True)[0].words.split()) + 1 == SLOTS


def test_reading_answers_what_stands_there():
    for scene, item in questions("textvqa"):
        place = re.search(r"sign in the (.+?) say", item.instruction)[1]
        assert at(scene, place).word.lower() == item.answers[0]
        tokens = item.instruction.removeprefix("OCR tokens: ").split(".")[0].split(", ")
        assert {c.word.lower() for _, c in scene.written()} <= set(tokens)


def test_counts_presence_and_names():
    forms = set()
    for scene, item in questions("vqav2"):
        names = {kind.name for _, _, kind in scene.things()}
        if "how many" in item.instruction:
            assert item.answers[0] == str(len(names))
            forms.add("count")
        elif present := re.search(r"is there anything in the (.+?)\?", item.instruction):
            assert item.answers[0] == ("yes" if at(scene, present[1]) else "no")
            forms.add(f"presence {item.answers[0]}")
        else:
            place = re.search(r"in the (.+?)\?", item.instruction)[1]
            assert item.answers[0] == at(scene, place).what
            forms.add("name")
    assert forms == {"count", "presence yes", "presence no", "name"}


def test_relations_by_coordinates():
    """Written again from rows and columns, not from the library's table."""
    steps = {"above": (-1, 0), "below": (1, 0), "left of": (0, -1), "right of": (0, 1)}
    forms = set()
    for scene, item in questions("gqa"):
        what, relation, place = re.search(
            r"(what|color|anything)(?: is)? (above|below|left of|right of) the (.+?)\?", item.instruction
        ).groups()
        row, column = (a + b for a, b in zip(divmod(PLACES.index(place), 2), steps[relation], strict=True))
        assert {row, column} <= {0, 1}, "a place of the card"
        cell = scene.cells[2 * row + column]
        wanted = {
            "what": cell.what if cell else "nothing",
            "anything": "yes" if cell else "no",
            "color": cell.colour if cell else None,
        }
        assert item.answers == (wanted[what],)
        forms.add((what, relation, cell is None))
    assert len(forms) == 20, "three forms x four relations, and two of them of empty places"


def test_options_hold_the_answer_once():
    letters = set()
    for scene, item in questions("aokvqa"):
        options = dict(re.findall(r"\((\w)\) (\w+)", item.instruction))
        kind = at(scene, re.search(r"in the ((?:top|bottom) (?:left|right))", item.instruction)[1]).kind
        assert options[item.answers[0]] == kind.category
        assert len(set(options.values())) == 4
        letters.add(item.answers[0])
    assert letters == set("abcd")


def test_books():
    for scene, item in questions("ocrvqa"):
        word = {c.what: c.word.lower() for _, c in scene.written()}
        category = scene.things()[0][2].category
        wanted = {"title": word["title"], "wrote": word["author"], "cover": category}
        assert item.answers == (next(v for k, v in wanted.items() if k in item.instruction),)


def test_blurred_images_are_unanswerable():
    assert {item.answers[0] for _, item in questions("vizwiz", blurred=True)} == {"unanswerable"}
    assert "unanswerable" not in {item.answers[0] for _, item in questions("vizwiz")}


@pytest.mark.parametrize("role", ["okvqa", "vqav2", "vizwiz", "textvqa"])
def test_ten_annotators_of_whom_at_least_seven_agree(role):
    for _, item in questions(role, count=100):
        assert len(item.answers) == 10
        assert item.answers.count(item.answers[0]) >= 7


@pytest.mark.parametrize("role", ["flickr30k", "textcaps"])
def test_ten_captions_of_which_the_first_names_what_is_there(role):
    for scene, item in questions(role, count=100):
        assert len(item.answers) == 10
        assert all(kind.name in item.answers[0] for _, _, kind in scene.things())
        assert all(cell.word.lower() in item.answers[0] for _, cell in scene.written())


@pytest.mark.slow
@pytest.mark.parametrize("role", ["flickr30k", "textcaps"])
def test_a_right_caption_scores_about_what_a_right_answer_does(role):
    """CIDEr-D is averaged with scores of at most 100."""
    items = [item for _, item in questions(role, count=100)]
    references = [item.answers for item in items]
    right = 100 * statistics.mean(cider([item.answers[0] for item in items], references))
    wrong = 100 * statistics.mean(cider([item.answers[0] for item in items[1:] + items[:1]], references))
    assert 95 < right < 130
    assert wrong < 40


def test_alignment_leaves_out_what_is_written():
    choose = random.Random(0)
    for _ in range(200):
        scene = caption_scene(choose)
        assert not scene.blurred
        assert not {c.word.lower() for _, c in scene.written()} & set(describe(scene).split())


@pytest.mark.slow
def test_language_is_learned_on_pretraining_scenes_only():
    choose = random.Random(1)
    held_out = {s.words for layout in ("things", "signs", "book", "single") for s in scenes(layout, split="test")}
    assert not any(document(choose).prefix.split(" ", 1)[1] in held_out for _ in range(500))


@pytest.mark.slow
def test_the_same_seed_draws_the_same_image():
    scene = scenes("signs", count=1)[0]
    first, again = (draw(scene, random.Random(5)) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.size == (SIDE, SIDE)
    assert first.tobytes() != draw(scene, random.Random(6)).tobytes()


def test_an_unknown_role(tmp_path):
    with pytest.raises(UserError, match="unknown role 'okvq'.*okvqa"):
        pocket.build(tmp_path, role="okvq", train=1, test=1, seed=0)
