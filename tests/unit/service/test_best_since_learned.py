"""What a task is compared with: its best since it was learned, never what the model scored before that."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from evertune.reporting.matrix import Matrix
from evertune.runs.inputs import OWN
from evertune.runs.ledger import finished_cells
from evertune.service import lifecycle as steps
from evertune.training.answer_files import read_answers
from evertune.training.evaluator import Prediction, write_answers
from evertune.utils.files import write_json

SCORES = {"task-0": (100, 50, 25), "task-1": (75, 100, 0)}
"""Share of right answers at stages 0, 1, 2; task-0 is learned at stage 1, task-1 at stage 2."""


@pytest.fixture
def service(tasks, tmp_path):
    """A model in service that only knows its answers: task-0 was better before it was learned."""

    def answers(stage, name):
        return tmp_path / "answers" / f"{stage:02d}" / f"{name}.jsonl"

    def predictions(task, share):
        right = round(share * len(task.test) / 100)
        return [Prediction(s, s.answers[0] if n < right else "wrong", None) for n, s in enumerate(task.test)]

    known = tuple(tasks[:2])
    for task in known:
        for stage, share in enumerate(SCORES[task.name]):
            write_answers(answers(stage, task.name), predictions(task, share))
    return SimpleNamespace(
        folder=tmp_path,
        tasks=known,
        number=2,
        answers=answers,
        learner=SimpleNamespace(stages=[SimpleNamespace(number=n + 1, task=t.name) for n, t in enumerate(known)]),
        again=lambda task: predictions(task, SCORES[task.name][2]),
    )


def cells(service, stages):
    return {
        (stage, name): {"score": SCORES[name][stage], "answers": str(service.answers(stage, name))}
        for name in SCORES
        for stage in stages
    }


def test_a_new_stage_is_compared_with_the_best_since_each_task_was_learned(service):
    verdict = steps._verdict(service, cells(service, (0, 1)), stage=2, others=service.tasks[:1], new=service.tasks[1])
    (first,) = verdict.others
    assert (first.before, first.after, first.best) == (50, 25, 50), "not 100, which it had before it was learned"
    assert verdict.measures()["forgetting"] == 25


def test_a_check_compares_with_the_best_since_each_task_was_learned(service, monkeypatch):
    monkeypatch.setattr(steps, "config_of", lambda folder: SimpleNamespace(stream=OWN))
    monkeypatch.setattr(steps.Service, "open", lambda folder, **_: service)
    service.measured = lambda *_, **__: cells(service, (0, 1, 2))
    service.learner.answers = lambda task, **_: service.again(task)
    first, second = steps.check(service.folder).others
    assert (first.before, first.best) == (50, 50)
    assert (second.before, second.best) == (0, 0), "its 100 points were of stage 1, before it was learned"
    assert finished_cells(service.folder) == {} and read_answers(service.folder / "answers/check/task-0.jsonl")


def test_what_a_single_stage_teaches_is_learned_there(service):
    """`joint` has one stage for all; what the model knew before the stream is known from row 0 on."""
    service.learner.stages = [SimpleNamespace(number=1, task="joint")]
    write_json(
        service.folder / "matrix.json",
        Matrix(
            "random", "toy", "joint", 0, ["task-0", "task-1"], ["joint"], [[0.0] * 2] * 2, known=["task-0"]
        ).to_dict(),
    )
    assert [steps._learned_at(service, task) for task in service.tasks] == [0, 1]
