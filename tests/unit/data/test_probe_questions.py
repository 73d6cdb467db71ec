"""The probes of the built-in streams ask what no task of these streams asks."""

from __future__ import annotations

import json
import random

import pytest

from evertune.data.builders import phrases
from evertune.data.pocket.held_out import HELD_OUT
from evertune.data.pocket.questions import ROLES
from evertune.data.pocket.world import draw_scene
from evertune.data.stream import stream_file
from evertune.metrics.rules import rule_of
from evertune.utils.errors import UserError


def questions(role, layout, count=150):
    choose = random.Random(layout)
    scenes = [draw_scene(choose, layout=layout, split="test") for _ in range(count)]
    return {role.ask(scene, choose).instruction for scene in scenes}


@pytest.mark.parametrize("stream", ["pocket-b1", "pocket-b2", "pocket-b1-reversed", "pocket-b2-reversed"])
def test_no_task_has_such_a_question_about_such_a_scene(stream):
    content, _ = stream_file(stream)
    assert len(content.probes) == 3
    tasks = [ROLES[task.options["role"]] for task in (*content.known, *content.tasks)]
    for probe in content.probes:
        role = HELD_OUT[probe.options["role"]]
        assert probe.score == role.score and 30 <= probe.options["test"] <= 60
        for layout in role.layouts:
            alike = [task for task in tasks if layout in task.layouts]
            assert alike and not questions(role, layout) & set().union(*(questions(task, layout) for task in alike))


def test_either_form_of_an_answer_is_right_where_only_content_counts():
    choose = random.Random(0)
    for role in (role for role in HELD_OUT.values() if role.score == "contains"):
        item = role.ask(draw_scene(choose, layout=role.layouts[0], split="test"), choose)
        assert len(item.answers) == 2 and item.answers[0] == item.long
        for said in item.answers:
            assert rule_of("contains").strict([said, "something else"], [item.answers] * 2) == [1, 0]


@pytest.mark.parametrize("kind", phrases.KINDS)
def test_phrases_are_different_and_have_one_answer(kind, tmp_path):
    phrases.build(tmp_path, kind=kind, train=4, test=30, seed=0)
    rows = {
        s: [json.loads(line) for line in (tmp_path / f"{s}.jsonl").read_text().splitlines()] for s in ("train", "test")
    }
    assert (len(rows["train"]), len(rows["test"])) == (4, 30)
    asked = [row["instruction"] for side in rows.values() for row in side]
    assert len(set(asked)) == 34
    for row in rows["test"]:
        assert rule_of("contains").strict([row["answers"][1]], [row["answers"]]) == [1]
        assert row["answers"][1] in row["answers"][0] and row["images"] == []
    with pytest.raises(UserError, match="kind"):
        phrases.build(tmp_path, kind="poems", test=1, seed=0)


def test_sums_are_right():
    for question, answers in phrases.KINDS["sums"]:
        a, _, b = question.removeprefix("What is ").partition("?")[0].split()
        assert int(answers[1]) == int(a) + int(b)
