"""Probes: tasks that are asked before and after each stage, and that no method learns of."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import evertune
from evertune import Task
from evertune.data import Stream, load_stream
from evertune.data.issues import Issues
from evertune.data.stream import with_probes
from evertune.methods import Method, MethodInfo, make_methods
from evertune.methods.base import BASE
from evertune.metrics.statistics import clustered_intervals
from evertune.reporting.matrix import Matrix
from evertune.runs.callback import Callback
from evertune.runs.cells import wanted_of_probes
from evertune.runs.config import RunConfig
from evertune.runs.runner import run_stream
from evertune.runs.tracking.jsonl import read_points
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.method_contract import toy_tasks
from evertune.utils.errors import DataError, UserError

HEADER = {"model": "random", "stream": "s", "method": "watch", "seed": 0, "settings": {}}
ASKED = [f"what else is here {number}?" for number in range(8)]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return toy_tasks(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def rows(tasks):
    """A file of questions that no task has, about images of the first task."""
    path = tasks[0].test[0].images[0].parent / "held.jsonl"
    images = [sample.images[0].name for sample in (*tasks[0].train, *tasks[0].test)][:8]
    lines = [{"image": name, "instruction": text, "answer": "no"} for name, text in zip(images, ASKED, strict=True)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def file(tasks, rows):
    """A stream of the first two tasks with the rows as a probe."""
    folder = rows.parent
    for task in tasks:
        for side in ("train", "test"):
            lines = [
                {"id": s.id, "image": s.images[0].name, "instruction": s.instruction, "answer": s.answers[0]}
                for s in getattr(task, side)
            ]
            (folder / f"{task.name}-{side}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    entries = [f"{{name: {t.name}, train: {t.name}-train.jsonl, test: {t.name}-test.jsonl}}" for t in tasks[:2]]
    path = folder / "s.yaml"
    path.write_text(f"name: s\ntasks: [{', '.join(entries)}]\nprobes: [{{name: held, data: held.jsonl}}]")
    return path


class Watch(Method):
    """Notes every sample that a hook is given, those that are routed apart from the others."""

    name = "watch"
    about = MethodInfo("notes what it sees", "baseline", "", "", "", "")

    def __init__(self):
        self.seen: set[str] = set()
        self.routed: set[str] = set()

    def _note(self, *groups):
        for samples in groups:
            self.seen.update(sample.id for sample in samples)

    def stages(self, tasks):
        for task in tasks:
            self._note(task.train, task.test)
        return tasks

    def on_known_task(self, task):
        self._note(task.train, task.test)

    def before_task(self, task):
        self._note(task.train, task.test)

    def data_plan(self, task, samples):
        self._note(task.train, task.test, samples)
        return samples

    def loss_terms(self, batch, output):
        self._note(batch.samples)
        return {}

    def after_task(self, task):
        self._note(task.train, task.test)

    def route(self, samples):
        self.routed.update(sample.id for sample in samples)


def ran(lmm, stream, folder, *methods, **more):
    learner = Learner(lmm, methods, folder=folder, training=Training(epochs=1, batch_size=8))
    return run_stream(learner, stream, folder=folder, header=HEADER, callback=Callback(), **more)


def test_a_method_sees_no_probe_but_when_it_is_asked(lmm, tasks, tmp_path):
    """All hooks that are given samples are overridden; a new one must be added to `Watch`."""
    given = {"stages", "on_known_task", "before_task", "data_plan", "loss_terms", "after_task", "route"}
    others = {"ranking", "preview_task"}  # for one question of a user, and for advice before learning
    takes = {n for n, f in vars(Method).items() if callable(f) and {"Task", "Sample", "Batch"} & _types(f)}
    assert takes == given | others and given <= vars(Watch).keys()
    probe, method = replace(tasks[2], name="probe"), Watch()
    matrix = ran(lmm, Stream("s", tuple(tasks[1:2]), known=(tasks[0],), probes=(probe,)), tmp_path, method)
    assert {s.id for s in probe.test} <= method.routed
    assert method.seen and not method.seen & {s.id for s in (*probe.train, *probe.test)}
    assert matrix.tasks == ["task-0", "task-1"] and matrix.held_out.probes == ["probe"]
    assert [len(row) for row in matrix.held_out.scores] == [1, 1]


def _types(function):
    text = " ".join(map(str, getattr(function, "__annotations__", {}).values()))
    return set(text.replace("[", " ").replace("]", " ").replace(",", " ").split())


def test_rows_cells_and_change(lmm, tasks, rows, tmp_path):
    """The change is that of the scores, its interval the bootstrap of the answers' scores over images."""
    stream = load_stream(str(rows))
    probes = (replace(stream.tasks[0], name="a", train=()), replace(tasks[2], name="b", train=()))
    matrix = ran(lmm, Stream("s", tuple(tasks[:2]), probes=probes), tmp_path, *make_methods("eproj", {}))
    held = matrix.held_out
    assert held.probes == ["a", "b"] and len(held.scores) == 3 and held.text is None
    for column, name in enumerate(held.probes):
        cells = [cell for cell in matrix.cells if cell["task"] == name]
        assert [cell["stage"] for cell in cells] == [0, 1, 2]
        assert [cell["score"] for cell in cells] == [row[column] for row in held.scores]
        assert all(cell["own_expert"] is None for cell in cells)  # routed as questions of an unknown task
        assert held.changes[column].value == held.scores[-1][column] - held.scores[0][column]
    both = [[_answers(tmp_path, row, name) for row in (0, 2)] for name in held.probes]
    differences = [
        ([b["score"] - a["score"] for a, b in zip(*p, strict=True)], [a["image"] for a in p[0]]) for p in both
    ]
    each, overall = clustered_intervals(differences)
    assert [change.interval for change in held.changes] == each and held.change.interval == overall
    assert held.change.value == pytest.approx(sum(change.value for change in held.changes) / 2)
    assert matrix.metrics["held_out_change"] == held.change.value
    assert Matrix.read(tmp_path).held_out == held


def _answers(folder, row, name):
    return [json.loads(line) for line in (folder / "answers" / f"{row:02d}" / f"{name}.jsonl").read_text().splitlines()]


def test_a_method_that_is_told_the_task_answers_probes_by_the_base_model(lmm, tasks, tmp_path):
    probe = replace(tasks[2], name="probe", train=())
    methods = make_methods("eproj", {"eproj": {"routing": "oracle"}})
    matrix = ran(lmm, Stream("s", tuple(tasks[:1]), probes=(probe,)), tmp_path, *methods)
    assert [c["experts"] for c in matrix.cells if c["task"] == "probe"] == [{BASE: 4}] * 2


def test_rows_of_probes():
    assert wanted_of_probes("all", ["p"], last=2) == wanted_of_probes("learned", ["p"], last=2)
    assert wanted_of_probes("learned", ["p", "q"], last=1) == [(0, "p"), (0, "q"), (1, "p"), (1, "q")]
    assert wanted_of_probes("final", ["p"], last=3) == [(0, "p"), (3, "p")]


class Count(Callback):
    """Counts what is evaluated."""

    def __init__(self):
        self.evaluated = []

    def on_evaluate_begin(self, stage, task):
        self.evaluated.append((stage, task.name))


def run(stream, out, counted=None, **more):
    settings = ["train.epochs=1", "evaluation.text_probe=false", *more.pop("settings", ())]
    callbacks = [counted] if counted else []
    return evertune.run(stream, model="random", out=out, settings=settings, callbacks=callbacks, progress=False, **more)


@pytest.mark.slow
def test_probes_are_added_to_a_finished_run_and_taken_away(file, tasks, rows, tmp_path):
    """Nothing is trained again, only what is missing is asked, and nothing when all is there."""
    counted, out = Count(), tmp_path / "r"
    found = run(str(file), out, counted).runs["sequential"].matrix
    assert found.held_out.probes == ["held"] and len(counted.evaluated) == 9
    ledger = (out / "ledger.jsonl").read_text()
    own = Task("own", (), tasks[2].test)
    counted = Count()
    more = run(str(file), out, counted, probes=own).runs["sequential"].matrix
    assert counted.evaluated == [(row, "own") for row in range(3)] and more.held_out.probes == ["held", "own"]
    assert more.R == found.R and (out / "ledger.jsonl").read_text().startswith(ledger)
    counted = Count()
    assert run(str(file), out, counted, probes=own).runs["sequential"].matrix == more and not counted.evaluated
    fewer = run(str(file), out, counted).runs["sequential"].matrix
    assert fewer.held_out == found.held_out and not counted.evaluated
    points = [point.values for point in read_points(out / "metrics.jsonl")]
    assert [p["probe/held"] for p in points if "probe/held" in p][:3] == [row[0] for row in found.held_out.scores]
    rows.write_text(rows.read_text().replace("what else", "what more"))
    try:
        counted = Count()
        run(str(file), out, counted)
        assert counted.evaluated == [(row, "held") for row in range(3)]
    finally:
        rows.write_text(rows.read_text().replace("what more", "what else"))


@pytest.mark.slow
def test_a_run_resumes_with_its_probes(file, tmp_path):
    class Stop(Callback):
        def on_evaluate_begin(self, stage, task):
            if (stage, task.name) == (1, "held"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(str(file), tmp_path / "r", Stop())
    counted = Count()
    whole = run(str(file), tmp_path / "whole").runs["sequential"].matrix
    again = run(str(file), tmp_path / "r", counted).runs["sequential"].matrix
    assert counted.evaluated[0] == (1, "held") and (0, "held") not in counted.evaluated
    assert again.held_out == whole.held_out and again.R == whole.R


def test_a_probe_is_no_task_by_name(file, tasks, rows):
    named = rows.with_name("task-1.jsonl")
    named.write_text(rows.read_text())
    with pytest.raises(UserError, match="'task-1' is a task of 's' and a probe: a probe is what no task trains"):
        load_stream(str(file), probes=[str(named)])
    with pytest.raises(UserError, match="two tasks are called 'held'"):
        load_stream(str(file), probes=[str(rows)])
    with pytest.raises(UserError, match="a probe is what no task trains"):
        with_probes(Stream("s", tuple(tasks[:2])), [replace(tasks[2], name="task-0")], Issues())


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_probe_is_no_task_by_content(file, tasks, side):
    """From files as from objects: whatever it is called and whatever its answers are."""
    place = file.parent / f"task-1-{side}.jsonl"
    other = file.parent / f"renamed-{side}.jsonl"
    other.write_text(place.read_text().replace('"answer": "', '"answer": "not '))
    with pytest.raises(DataError, match=rf"the probe 'renamed-{side}' asks what the task 'task-1' of 's' has"):
        load_stream(str(file), probes=[str(other)])
    probe = Task("renamed", (), getattr(tasks[1], side))
    with pytest.raises(DataError, match="the probe 'renamed' asks what the task 'task-1'"):
        with_probes(Stream("s", tuple(tasks[:2])), [probe], Issues())
    with pytest.raises(DataError, match="the probe 'renamed' asks what the task 'task-1'"):
        with_probes(load_stream(str(file)), [probe], Issues())


def test_some_questions_of_a_task_are_problems_or_left_out(file, tasks):
    mixed = file.parent / "mixed.jsonl"
    mixed.write_text((file.parent / "held.jsonl").read_text() + "\n" + (file.parent / "task-0-test.jsonl").read_text())
    with pytest.raises(DataError, match="question of a task: 4"):
        load_stream(str(file), probes=[str(mixed)])
    stream = load_stream(str(file), probes=[str(mixed)], skip_invalid=True)
    assert [len(probe.test) for probe in stream.probes] == [8, 8]
    assert stream.skipped.counts == {"question of a task": 4}


def test_the_same_image_with_another_question_is_no_question_of_a_task(file):
    (probe,) = load_stream(str(file)).probes
    assert len(probe.test) == 8 and not len(probe.train)


def test_probes_of_streams_and_of_files(file, rows, tmp_path):
    """A stream's probes, or where it has none its tasks; relative to its own file."""
    other = tmp_path / "o.yaml"
    other.write_text(f"name: o\ntasks: [{{name: t, data: {rows}, images: {rows.parent}}}]")
    stream = load_stream(str(file), probes=[str(other)])
    assert [probe.name for probe in stream.probes] == ["held", "t"]
    assert stream.fingerprint != load_stream(str(file)).fingerprint
    assert [len(p.test) for p in load_stream(str(file), limit=3).probes] == [3]
    assert [len(p.test) for p in load_stream(str(file)).evaluated(2).probes] == [2]


def test_a_file_with_a_mistake(tmp_path, file, rows):
    bad = file.parent / "bad.yaml"
    bad.write_text(file.read_text().replace("data: held.jsonl", "score: exact"))
    with pytest.raises(UserError, match="task 'held' needs one of: 'build', 'data', 'test', or 'format' and 'root'"):
        load_stream(str(bad))
    bad.write_text(file.read_text().replace("data: held.jsonl", "test: held.jsonl"))
    assert len(load_stream(str(bad)).probes[0].test) == 8
    with pytest.raises(UserError, match="nothing-here.jsonl does not exist"):
        load_stream(str(file), probes=["nothing-here.jsonl"])
    with pytest.raises(UserError, match="a probe is an int"):
        run(str(file), tmp_path / "r", probes=[3])
    with pytest.raises(UserError, match="no samples in 'test'"):
        run(str(file), tmp_path / "r", probes=Task("t", load_stream(str(rows)).tasks[0].train, ()))


def test_probes_change_no_identity():
    """The settings of a run without probes are written as before."""
    assert RunConfig(stream="s").probes == [] and RunConfig(stream="s", probes="a,b").probes == ["a", "b"]
