"""The evaluator: cells with gaps have no score, answers are kept by what decides them."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest
import torch

from evertune.data import Sample
from evertune.methods import Sequential, make_methods
from evertune.metrics.cider import cider
from evertune.models.weights import copy_of
from evertune.training import evaluator
from evertune.training.answer_files import read_answers
from evertune.training.evaluator import (
    PredictionCache,
    answer_samples,
    longest_answer,
    score_answers,
    score_file,
    write_answers,
)
from evertune.utils import distributed
from evertune.utils.errors import RunFolderError
from evertune.utils.files import write_jsonl


def answered(lmm, task, features, **more):
    return answer_samples(lmm, make_methods("sequential"), task.test, features, batch_size=2, max_new_tokens=4, **more)


def test_answers_are_written_then_read_then_scored(lmm, tasks, features, tmp_path):
    path = tmp_path / "a.jsonl"
    write_answers(path, answered(lmm, tasks[0], features))
    rows = read_answers(path)
    for row in rows:
        row["answer"] = row["gold"][0] if row["id"] == rows[0]["id"] else "the " + row["gold"][0] + "."
    score = score_answers(rows, tasks[0])
    assert (score.strict, score.relaxed, score.n) == (25.0, 100.0, 4)


def test_each_row_of_a_scored_file_has_its_score_in_points(lmm, tasks, features, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [predicted.to_row() for predicted in answered(lmm, tasks[0], features)]
    for row, text in zip(rows, ["{}", "the {}.", "nothing", ""], strict=True):
        row["answer"] = text.format(row["gold"][0])
    write_jsonl(path, rows)
    score = score_file(path, tasks[0])
    scored = read_answers(path)
    assert [(row["score"], row["relaxed"]) for row in scored] == [(100, 100), (0, 100), (0, 0), (0, 0)]
    assert (score.strict, score.relaxed) == (25, 50) and score == score_answers(rows, tasks[0])
    assert [{**row, "score": 0, "relaxed": 0} for row in rows] == [{**row, "score": 0, "relaxed": 0} for row in scored]


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
    assert captions.relaxed == captions.strict


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
    queries = []
    real = type(lmm).generate

    def counting(self, features_, instructions, *, max_new_tokens, **more):
        queries.append(len(instructions))
        return real(self, features_, instructions, max_new_tokens=max_new_tokens, **more)

    monkeypatch.setattr(type(lmm), "generate", counting)
    first = answered(lmm, tasks[0], features)
    assert sum(queries) == 4
    assert answered(lmm, tasks[0], features) == first and sum(queries) == 4, "taken from the cache"
    assert answered(lmm, tasks[0], features, reuse=False) == first and sum(queries) == 8
    with torch.no_grad():
        next(iter(lmm.trainable().values())).add_(1e-3)
    answered(lmm, tasks[0], features)
    assert sum(queries) == 12, "other weights are asked again"


def test_a_damaged_cache_is_made_again(lmm, tasks):
    cache = PredictionCache(lmm, max_new_tokens=9, reuse=True)
    cache.add(tasks[0].test[:1], ["x"])
    cache.save()
    cache._path.write_text(json.dumps(["broken"])[:-3])
    assert tasks[0].test[0] not in PredictionCache(lmm, max_new_tokens=9, reuse=True)


@pytest.fixture
def echoing(lmm, monkeypatch, tmp_path):
    """A model that says what it was asked, and a list of what it was asked."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    queries = []

    def generate(self, features_, instructions, *, max_new_tokens, images=None, **more):
        counts = images or [1] * len(instructions)
        places = [sum(counts[:n]) for n in range(len(counts))]
        predicted = [
            f"{instruction} {[round(float(f.double().sum()), 6) for f in features_[at : at + count]]}"
            f" {count} {max_new_tokens}"
            for instruction, at, count in zip(instructions, places, counts, strict=True)
        ]
        queries.extend(predicted)
        return predicted

    monkeypatch.setattr(type(lmm), "generate", generate)
    return queries


def predicted(lmm, features, samples, *, max_new_tokens=4, **more):
    features.ensure(samples)
    methods = make_methods("sequential")
    more = {"batch_size": 3, "max_new_tokens": max_new_tokens, **more}
    return [answer.text for answer in answer_samples(lmm, methods, samples, features, **more)]


def test_an_answer_is_kept_for_its_question_its_images_and_its_length(lmm, tasks, features, echoing):
    one, two = tasks[0].test[:2]
    queries = [
        one,
        replace(one, instruction="another question?"),
        replace(one, images=two.images),
        replace(one, images=one.images + two.images),
        replace(one, images=two.images + one.images),
        replace(one, images=()),
        replace(one, id="again"),
    ]
    first = predicted(lmm, features, queries)
    assert [text.split()[-2:] for text in first] == [[str(n), "4"] for n in (1, 1, 1, 2, 2, 0, 1)]
    assert all(text.startswith(sample.instruction) for sample, text in zip(queries, first, strict=True))
    assert len({text.removeprefix(queries[0].instruction) for text in first}) == 6, "only the twin has the same answer"
    for sample, text in zip(queries, first, strict=True):  # each alone, from the cache: its own answer
        assert predicted(lmm, features, [sample]) == [text]
    known = len(echoing)
    assert known == 7, "each was asked once; the same question under another id beside its twin"
    assert (
        predicted(lmm, features, [replace(queries[1], id="new", answers=("x",))]) == [first[1]]
        and len(echoing) == known
    )
    assert predicted(lmm, features, queries[:1], max_new_tokens=5)[0].endswith(" 5") and len(echoing) == known + 1


@pytest.mark.parametrize("changed", ["fingerprint", "dtype", "weights"])
def test_an_answer_is_kept_for_its_model(lmm, tasks, features, echoing, monkeypatch, changed):
    predicted(lmm, features, tasks[0].test)
    known = len(echoing)
    if changed == "weights":
        with torch.no_grad():
            list(lmm.trainable().values())[-1].view(-1)[-1] += 1e-3
    else:
        value = {"fingerprint": "another", "dtype": torch.bfloat16}[changed]
        monkeypatch.setattr(type(lmm), changed, property(lambda self: value))
    predicted(lmm, features, tasks[0].test)
    assert len(echoing) == known + 4


class Experts(Sequential):
    """One expert per colour word of the question's id; each adds its number to the weights it starts from."""

    def route(self, samples):
        return [sample.id[-1] for sample in samples]

    def activate(self, expert):
        for name, parameter in self.context.parameters.items():
            parameter.data.copy_(self.context.start[name] + int(expert))


def test_answering_leaves_the_weights_as_they_were(lmm, tasks, context, features):
    """Not those of the last expert that answered, also when an answer fails."""
    method = Experts()
    method.setup(context)
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(0.5)  # of no expert
    before = copy_of(lmm.trainable())
    samples = [replace(s, id=str(n)) for n, s in enumerate(tasks[0].test)]
    queries = {"batch_size": 2, "max_new_tokens": 2, "reuse": False}
    answers = answer_samples(lmm, [method], samples, features, **queries)
    assert {answer.expert for answer in answers} == {"0", "1", "2", "3"}
    assert all(torch.equal(p, before[name]) for name, p in lmm.trainable().items())

    def broken(done, of):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        answer_samples(lmm, [method], samples, features, on_answered=broken, **queries)
    assert all(torch.equal(p, before[name]) for name, p in lmm.trainable().items())


def test_the_longest_answer_is_that_of_the_training_set(lmm, tasks):
    """Gold answers of the test set say nothing of how long a prediction may be, unless there is nothing else."""
    train = (tasks[0].train[0], replace(tasks[0].train[1], answers=("red and green",)))
    test = (replace(tasks[0].test[0], answers=("a far longer answer than any",)),)
    task = replace(tasks[0], train=train, test=test)
    assert longest_answer(lmm, task, None) == lmm.answer_tokens("red and green") + 2
    assert longest_answer(lmm, replace(task, train=()), None) == lmm.answer_tokens(test[0].answers[0]) + 2
    assert longest_answer(lmm, task, 3) == 3


def questions_about(images):
    """One question per number, about the image of that number, the longer the later."""
    return [
        Sample(f"q{at}", (), "?" * (1 + 40 * at), ("a",), known_digests=(f"image {image}",))
        for at, image in enumerate(images)
    ]


def parts(samples, monkeypatch, *, count, by_image):
    monkeypatch.setattr(distributed, "world_size", lambda: count)
    found = []
    for rank in range(count):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        found.append(list(evaluator._own_part(samples, by_image=by_image)))
    return found


def test_processes_share_the_questions_of_a_cell(monkeypatch):
    """Of 10 questions in one batch, three processes had 10, 0 and 0 before."""
    samples = questions_about(range(10))
    shared = parts(samples, monkeypatch, count=3, by_image=False)
    assert sorted(map(len, shared)) == [3, 3, 4]
    assert sorted(s.id for part in shared for s in part) == sorted(s.id for s in samples)
    letters = [sum(evaluator.PER_QUESTION + len(s.instruction) for s in part) for part in shared]
    assert max(letters) - min(letters) <= evaluator.PER_QUESTION + len(samples[-1].instruction)
    assert all(part == sorted(part, key=samples.index) for part in shared)


def test_questions_about_one_image_stay_together(monkeypatch):
    samples = questions_about([0] * 5 + [1] * 2 + [2] * 2 + [3])
    shared = parts(samples, monkeypatch, count=2, by_image=True)
    assert [{s.known_digests for s in part} for part in shared] == [
        {("image 0",)},
        {("image 1",), ("image 2",), ("image 3",)},
    ]
    assert parts(samples[:1], monkeypatch, count=3, by_image=True) == [samples[:1], [], []]
    assert parts(samples, monkeypatch, count=1, by_image=True) == [samples]
