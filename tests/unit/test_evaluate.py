"""The evaluator: cells with gaps have no score, answers are kept by what decides them."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest
import torch

from evertune.errors import RunFolderError
from evertune.evaluate import AnswerCache, answer_samples, read_answers, score_answers, write_answers
from evertune.files import write_jsonl
from evertune.methods import make_methods
from evertune.scoring.cider import cider


def answered(lmm, task, features, **more):
    return answer_samples(lmm, make_methods("sequential"), task.test, features, batch_size=2, max_new_tokens=4, **more)


def test_answers_are_written_then_read_then_scored(lmm, tasks, features, tmp_path):
    path = tmp_path / "a.jsonl"
    write_answers(path, answered(lmm, tasks[0], features))
    rows = read_answers(path)
    for row in rows:
        row["answer"] = row["gold"][0] if row["id"] == rows[0]["id"] else "the " + row["gold"][0] + "."
    score = score_answers(rows, tasks[0])
    assert (score.strict, score.tolerant, score.n) == (25.0, 100.0, 4)


def test_a_cell_is_scored_by_the_rule_of_its_task(lmm, tasks, features, tmp_path):
    path = tmp_path / "a.jsonl"
    write_answers(path, answered(lmm, tasks[0], features))
    rows = read_answers(path)
    for number, row in enumerate(rows):
        row["answer"], row["gold"] = ["red dog 0", "x", "dog 2", ""][number], [f"red dog {number}", "a bird"]
    exact, captions = (score_answers(rows, replace(tasks[0], score=name)) for name in ("exact", "cider"))
    assert (exact.rule, exact.strict, exact.standard_error) == ("exact", 25.0, pytest.approx(25.0))
    each = cider([row["answer"] for row in rows], [row["gold"] for row in rows])
    assert captions.strict == pytest.approx(100 * statistics.fmean(each)) and captions.strict > 0
    assert captions.standard_error == pytest.approx(100 * statistics.stdev(each) / 2)
    assert captions.tolerant == captions.strict


def test_a_cell_with_a_gap_has_no_score(lmm, tasks, features, tmp_path):
    path = tmp_path / "a.jsonl"
    write_answers(path, answered(lmm, tasks[0], features))
    rows = read_answers(path)
    with pytest.raises(RunFolderError, match="3 answers for 4 test samples"):
        score_answers(rows[:-1], tasks[0])
    with pytest.raises(RunFolderError, match="or other ids"):
        score_answers([*rows[:-1], {**rows[0]}], tasks[0])
    path.write_text(path.read_text()[:-5])
    with pytest.raises(RunFolderError, match=r"a.jsonl:4 is damaged"):
        read_answers(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RunFolderError, match="is damaged"):
        read_answers(path)


def test_an_answer_may_hold_signs_that_end_lines_elsewhere(tmp_path):
    path = tmp_path / "a.jsonl"
    rest = {"instruction": "what?", "gold": ["a"], "images": [], "expert": None}
    write_jsonl(path, [{"id": "1", "answer": "one\u2028two\x85three", **rest}, {"id": "2", "answer": "", **rest}])
    assert [row["answer"] for row in read_answers(path)] == ["one\u2028two\x85three", ""]


def test_answers_are_generated_once_per_weights(lmm, tasks, features, monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    asked = []
    real = type(lmm).answer

    def counting(self, features_, instructions, *, max_new_tokens, **more):
        asked.append(len(instructions))
        return real(self, features_, instructions, max_new_tokens=max_new_tokens, **more)

    monkeypatch.setattr(type(lmm), "answer", counting)
    first = answered(lmm, tasks[0], features)
    assert sum(asked) == 4
    assert answered(lmm, tasks[0], features) == first and sum(asked) == 4, "taken from the cache"
    assert answered(lmm, tasks[0], features, reuse=False) == first and sum(asked) == 8
    with torch.no_grad():
        next(iter(lmm.trainable().values())).add_(1e-3)
    answered(lmm, tasks[0], features)
    assert sum(asked) == 12, "other weights are asked again"


def test_a_damaged_cache_is_made_again(lmm, tasks):
    cache = AnswerCache(lmm, max_new_tokens=9, reuse=True)
    cache.add(tasks[0].test[:1], ["x"])
    cache.save()
    cache._path.write_text(json.dumps(["broken"])[:-3])
    assert tasks[0].test[0] not in AnswerCache(lmm, max_new_tokens=9, reuse=True)
