"""A text that is longer than the model reads: said before anything is trained, with file and line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from evertune.lmm.lengths import refuse_too_long, too_long

from evertune import run
from evertune.errors import DataError
from evertune.lmm import load_lmm
from evertune.tasks import load_stream


@pytest.fixture
def with_long_rows(tasks, tmp_path):
    """Two of a task's training rows are longer than 128 tokens, one instruction and one answer."""
    rows = [{"image": str(s.images[0]), "instruction": s.instruction, "answer": s.answers[0]} for s in tasks[0].train]
    rows[2]["instruction"] = "what is the colour " * 60
    rows[4]["answer"] = "red and green " * 200
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    test = [{"image": str(s.images[0]), "instruction": s.instruction, "answer": s.answers[0]} for s in tasks[0].test]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, test)))
    entry = {"name": "a", "train": "train.jsonl", "test": "test.jsonl", "images": "/", "anywhere": True}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [entry]}))
    return tmp_path / "s.yaml"


def test_a_run_stops_before_it_trains(with_long_rows, mini_blip, tmp_path):
    with pytest.raises(DataError) as caught:
        run(str(with_long_rows), model=str(mini_blip), out=tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("3 rows of 's' can't be used, and nothing was trained. Shorten them, or take a model")
    assert said.count("train.jsonl:3: ") == 2 and "tokens for the Q-Former of 'mini', which reads 128" in said
    assert "train.jsonl:5: 622 tokens for the language model of 'mini', which reads 256" in said
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [(("blip-2", "opt"), ["language model"]), (("blip-2", "t5"), []), (("instructblip", "t5"), ["Q-Former"])],
    ids=str,
)
def test_parts_that_read_texts_of_any_length_or_none(kind, parts, with_long_rows, tiny_blip):
    """BLIP-2's Q-Former reads no text; T5's positions have no end."""
    lmm = load_lmm(str(tiny_blip(*kind)), dtype="float32", device=torch.device("cpu"))
    assert [length.part for length in lmm.lengths("what?", "red")] == parts
    (task,) = load_stream(str(with_long_rows)).tasks
    assert all("Q-Former" in str(problem) or parts == ["language model"] for problem in too_long(task.train, lmm))


def test_samples_of_an_index_and_plain_ones_are_judged_alike(with_long_rows, mini_blip):
    lmm = load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))
    (task,) = load_stream(str(with_long_rows)).tasks
    found = [str(problem) for problem in too_long(task.train, lmm)]
    assert found == [str(problem) for problem in too_long(list(task.train), lmm)] and len(found) == 3
    refuse_too_long([replace(task, train=task.train[:2])], lmm, stream="s")
