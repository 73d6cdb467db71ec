"""A whole run of a stream with one known task and three scores, on the model `random`."""

from __future__ import annotations

import json
import statistics

import pytest
from matrices import matrices_of

from evertune import run
from evertune.data import load_stream
from evertune.methods import make_methods
from evertune.metrics.metrics import metrics_of
from evertune.metrics.rules import rule_of
from evertune.runs.plan.outline import PlanSettings
from evertune.runs.plan.planner import Speed, plan_run
from evertune.runs.runner import _warnings
from evertune.training.loop import Training
from evertune.training.method_contract import toy_tasks

SCORES = {"task-0": "exact", "task-1": "vqa", "task-2": "cider"}


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    for task in toy_tasks(folder):
        for part, samples in (("train", task.train), ("test", task.test)):
            rows = [
                {"id": s.id, "image": s.images[0].name, "instruction": s.instruction, "answers": list(s.answers)}
                for s in samples
            ]
            (folder / f"{task.name}-{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entries = [
        f"{{name: {name}, train: {name}-train.jsonl, test: {name}-test.jsonl, score: {score}}}"
        for name, score in SCORES.items()
    ]
    path = folder / "s.yaml"
    path.write_text(f"name: s\nknown: [{entries[0]}]\ntasks: [{entries[1]}, {entries[2]}]")
    return path


def ran(stream, out, **more):
    settings = ["train.epochs=20", "train.learning_rate=0.01", "dtype=float32"]
    return run(str(stream), model="random", out=out, settings=settings, **more)


@pytest.fixture(scope="module")
def finished(stream, tmp_path_factory):
    return ran(stream, tmp_path_factory.mktemp("runs") / "two", methods="sequential,joint")


def test_known_tasks_are_the_first_columns(finished):
    sequential, joint = matrices_of(finished)
    for matrix in (sequential, joint):
        assert matrix.known == ["task-0"] and matrix.tasks == ["task-0", "task-1", "task-2"]
        keys = list(matrix.to_dict())
        assert keys.index("known") + 1 == keys.index("tasks")
    assert sequential.stages == ["task-1", "task-2"] and [len(row) for row in sequential.R] == [3, 3, 3]
    assert joint.stages == ["joint"] and len(joint.R) == 2
    assert sequential.metrics.items() >= metrics_of(sequential.R, known=1).items()
    assert "a_i" in sequential.formulas["forgetting"]
    assert sequential.metrics["forgetting"] is not None and joint.metrics["forgetting"] is None


def test_joint_saw_the_known_task_and_sequential_did_not(finished):
    sequential, joint = matrices_of(finished)
    assert joint.cost["samples_trained"] == sequential.cost["samples_trained"] + 8
    assert joint.R[1][0] > 0 and sequential.R[1][0] == 0


def test_every_cell_says_its_rule_and_its_error(finished):
    matrix = finished.runs["sequential"].matrix
    for cell in matrix.cells:
        assert cell["score_rule"] == SCORES[cell["task"]]
        path = finished.folder / "sequential" / cell["answers"]
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        each = rule_of(cell["score_rule"]).strict([r["answer"] for r in rows], [r["gold"] for r in rows])
        assert cell["score"] == pytest.approx(100 * statistics.fmean(each))
        assert cell["standard_error"] == pytest.approx(100 * statistics.stdev(each) / len(rows) ** 0.5)
    assert matrix.R[2][2] > 100, "CIDEr-D of right one-word captions: 250 points each"
    assert "Known before: task-0." in finished.report.read_text()


def test_a_resumed_run_is_the_same(stream, finished, tmp_path):
    """Cells and stages taken away are made again, from stage 0 too."""
    out = tmp_path / "again"
    (first,) = matrices_of(ran(stream, out, methods="joint"))
    (out / "matrix.json").unlink()
    (out / "answers" / "00" / "task-0.jsonl").unlink()
    (out / "answers" / "01" / "task-0.jsonl").unlink()
    (again,) = matrices_of(ran(stream, out, methods="joint"))
    assert again.R == first.R == finished.runs["joint"].matrix.R


def test_the_plan_counts_what_is_known(stream, lmm):
    pace, data = Speed(train=1.0, answer=1.0, encode=0.0, image_bytes=0), load_stream(str(stream))
    sequential, joint = (
        plan_run(lmm, make_methods(name), data, name=name, how=PlanSettings(Training()), pace=pace)
        for name in ("sequential", "joint")
    )
    assert joint.stages[0].samples == 24 and sum(stage.samples for stage in sequential.stages) == 16
    assert (sequential.evaluate_seconds, joint.evaluate_seconds) == (3 * 12, 2 * 12), "rows times all test samples"


def test_what_is_known_is_no_sign_of_a_stream_too_easy():
    R = [[90.0, 0.0], [80.0, 70.0]]
    methods = make_methods("replay")
    assert _warnings(methods, R, 1) == []
    assert "solves 1 of 2 tasks" in _warnings(methods, R, 0)[0]
    (warning,) = _warnings(methods, [[90.0, 60.0], [80.0, 70.0]], 1)
    assert "solves 1 of 1 new tasks" in warning
