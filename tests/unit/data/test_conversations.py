"""Conversations as LLaVA, ShareGPT, LLaMA-Factory and OpenAI write them; whoever speaks, nothing is dropped unsaid."""

from __future__ import annotations

import json
import re

import pytest
from reading_rows import colour, read, write_lines

from evertune.data import load_stream
from evertune.tools.data import check


def listed(folder, *rows, name="t.json"):
    (folder / name).write_text(json.dumps(list(rows)))
    return read("llava", folder / name)


ASK, SAY = "<image>\nWhich colour?", "red"


@pytest.mark.parametrize(
    "turns",
    [
        [{"from": "user", "value": ASK}, {"from": "assistant", "value": SAY}],
        [{"role": "user", "content": ASK}, {"role": "assistant", "content": SAY}],
        [{"role": "human", "content": ASK}, {"role": "gpt", "content": SAY}],
    ],
)
@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_whoever_speaks(tmp_path, turns, key):
    """Case 16, roles.json: user and assistant are human and gpt."""
    (sample,), problems = listed(tmp_path, {"id": 0, "image": "a.png", key: turns})
    assert (sample.instruction, sample.answers, len(sample.images)) == ("Which colour?", ("red",), 1) and not problems


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "p0.png"}},
        {"type": "image_url", "image_url": "p0.png"},
        {"type": "image", "image": "p0.png"},
        {"type": "image", "path": "p0.png"},
        {"type": "image", "url": "p0.png"},
        {"type": "image"},
    ],
)
def test_messages_whose_content_is_parts(tmp_path, part):
    """Case 16, messages.jsonl: a name in the part, or in `images` of the row."""
    content = [part, {"type": "text", "text": "Which colour?"}]
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]}
    if len(part) == 1:
        row["images"] = ["p0.png"]
    (sample,), problems = read("llava", write_lines(tmp_path / "t.jsonl", row))
    assert (sample.instruction, sample.answers) == ("Which colour?", ("red",)) and not problems
    assert [path.name for path in sample.images] == ["p0.png"]


def test_messages_are_recognised(tmp_path):
    rows = []
    for n in range(5):
        url = {"type": "image_url", "image_url": {"url": colour(tmp_path, f"{n}.png", (n, 0, 0))}}
        turn = {"role": "user", "content": [url, {"type": "text", "text": f"Which {n}?"}]}
        answer = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
        rows.append({"messages": [{"role": "system", "content": "Be short."}, turn, answer]})
    path = write_lines(tmp_path / "t.jsonl", *rows)
    found = check(str(path))
    assert not len(found.errors) and found.tasks()["t"] == {"train": 4, "test": 1, "images": 5}
    (task,) = load_stream(str(path)).tasks
    assert {sample.instruction for sample in (*task.train, *task.test)} == {f"Be short.\nWhich {n}?" for n in range(5)}


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "system", "value": "Answer in French."}]},
        {"conversations": [{"role": "system", "content": "Answer in French."}]},
        {"conversations": [], "system": "Answer in French."},
        {"conversations": [], "system_prompt": "Answer in French."},
    ],
)
def test_a_system_turn_leads_the_instruction(tmp_path, row):
    """Case 17: it was dropped without a word."""
    turns = [{"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}]
    row = {"id": 0, "image": "a.png", **row}
    row["conversations"] = (
        row["conversations"] + turns + [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "b"}]
    )
    (first, second), problems = listed(tmp_path, row)
    assert first.instruction == "Answer in French.\nWhich colour?" and not problems
    assert second.instruction == "Answer in French.\nWhich colour?\nred\nAnd?"


def test_an_empty_system_turn_adds_nothing(tmp_path):
    turns = [{"from": "system", "value": ""}, {"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}]
    (sample,), problems = listed(tmp_path, {"id": 0, "image": "a.png", "system": "", "conversations": turns})
    assert sample.instruction == "Which colour?" and not problems


USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BAD = [
    ([{"from": "tool", "value": "x"}, USER, ASSISTANT], "'from' must be .*'system', not 'tool'"),
    ([USER, ASSISTANT, {"role": "system", "content": "x"}, USER, ASSISTANT], "turn 3|'messages' 3"),
    ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "'content' must be a text"),
    ([{"role": "user", "content": [{"type": "input_audio"}]}, ASSISTANT], "'type' must be 'text' or an image"),
    ([{"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}, ASSISTANT], "video"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}, ASSISTANT], "'text' must be a text"),
    (
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}},
                    {"type": "text", "text": "q"},
                ],
            },
            ASSISTANT,
        ],
        "https://x.org/a.png",
    ),
    (
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 20}},
                    {"type": "text", "text": "q"},
                ],
            },
            ASSISTANT,
        ],
        "is written into the row",
    ),
]


@pytest.mark.parametrize(("turns", "complaint"), BAD, ids=range(len(BAD)))
def test_what_is_not_read_is_named(tmp_path, turns, complaint):
    samples, problems = read("llava", write_lines(tmp_path / "t.jsonl", {"messages": turns}))
    assert not len(samples) and len(problems) == 1 and re.search(complaint, problems[0]), problems


def test_parts_and_a_key_that_both_name_images(tmp_path):
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "q"}]
    row = {"image": "b.png", "messages": [{"role": "user", "content": content}, ASSISTANT]}
    samples, problems = read("llava", write_lines(tmp_path / "t.jsonl", row))
    assert not len(samples) and "both" in problems[0]


def test_a_conversation_in_the_wrong_format_says_the_right_one(tmp_path):
    """Case 16: "unknown key 'messages'; did you mean 'images'?" leads astray."""
    for key in ("messages", "conversations"):
        _, problems = read("jsonl", write_lines(tmp_path / "t.jsonl", {key: [USER, ASSISTANT]}))
        assert "format" in problems[0] and "llava" in problems[0] and "did you mean" not in problems[0]
