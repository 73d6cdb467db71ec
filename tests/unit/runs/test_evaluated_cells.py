"""`evaluation.cells`: which cells a run evaluates, what can't be computed then, and how the others are filled later."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
from commands import evertune as command

import evertune
from evertune.data import Stream
from evertune.metrics.metrics import NEEDS, metrics_of, reasons_of
from evertune.runs.cells import lacks, wanted_cells
from evertune.runs.config import RunConfig
from evertune.training.run_origin import placeless, read_identity
from evertune.utils.errors import UserError

SETTINGS = ["train.learning_rate=0.01", "train.epochs=2"]
TASKS = ["a", "b", "c"]


def run(stream, out, *, cells="all", methods="sequential", more=(), **options):
    settings = [*SETTINGS, f"evaluation.cells={cells}", *more]
    return evertune.run(str(stream), model="random", methods=methods, out=out, settings=settings, **options)


def as_grid(cells, *, rows, tasks):
    return ["".join("x" if (row, name) in cells else "." for name in tasks) for row in range(rows)]


@pytest.mark.parametrize(
    ("which", "grid"),
    [
        ("all", ["xxx", "xxx", "xxx", "xxx"]),
        ("learned", ["xxx", "xx.", "xxx", "xxx"]),
        ("final", ["...", "x..", ".x.", "xxx"]),
    ],
)
def test_wanted_cells_of_a_stream(which, grid):
    found = wanted_cells(which, TASKS, known=0, stages=TASKS)
    assert as_grid(found, rows=4, tasks=TASKS) == grid


def test_a_known_task_is_learned_at_row_0_and_a_task_of_joint_at_the_last():
    found = wanted_cells("final", ["k", "a", "b"], known=1, stages=["a", "b"])
    assert as_grid(found, rows=3, tasks=["k", "a", "b"]) == ["x..", ".x.", "xxx"]
    found = wanted_cells("final", TASKS, known=0, stages=["all of them"])
    assert as_grid(found, rows=2, tasks=TASKS) == ["...", "xxx"]


@pytest.mark.parametrize("which", ["learned", "final"])
def test_every_metric_is_that_of_the_whole_matrix_or_null_with_the_reason(which):
    R = [[1.0, 2.0, 3.0, 9.0], [80.0, 5.0, 6.0, 9.0], [60.0, 75.0, 7.0, 9.0], [40.0, 85.0, 90.0, 9.0], [1.0, 2, 3, 99]]
    names = [*TASKS, "d"]
    kept = wanted_cells(which, names, known=0, stages=names)
    part = [[s if (row, name) in kept else None for name, s in zip(names, R[row], strict=True)] for row in range(5)]
    full, some, reasons = metrics_of(R), metrics_of(part), reasons_of(part)
    assert {name: value for name, value in some.items() if name not in reasons} == {
        name: value for name, value in full.items() if name not in reasons
    }
    lost = {name for name, value in full.items() if value is not None and name in reasons}
    assert (
        lost
        == {
            "learned": {"bwt_paper"},
            "final": {"mean_average", "bwt_paper", "forgetting", "forward_transfer", "zero_shot"},
        }[which]
    )
    assert all(NEEDS[name] in reasons[name] for name in lost)


def test_reasons_that_are_no_missing_cell():
    one = reasons_of([[0.0], [80.0]])
    assert one["forgetting"] == "needs two tasks"
    joint = reasons_of([[0.0, 0.0], [80.0, 70.0]])
    assert joint["bwt"] == "needs one stage for each new task"
    assert joint["gap_to_joint"] == "needs a run of joint on the same tasks"
    square = [[0.0, 0.0], [80.0, 0.0], [70.0, 60.0]]
    assert reasons_of(square, direct=[0.0, None], joint_average=3.0).keys() == {"intransigence", "relative_average"}
    assert not reasons_of(square, direct=[80.0, 70.0], joint_average=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sequential", "eproj", "joint"])
def test_a_part_first_then_all_is_the_run_of_all(toy_stream, tmp_path, method):
    whole = run(toy_stream, tmp_path / "whole", methods=method).runs[method].matrix
    for cells in ("final", "learned", "all"):
        found = run(toy_stream, tmp_path / "part", cells=cells, methods=method).runs[method].matrix
        assert found.finished
        assert not lacks(found, cells)
        for row, scores in enumerate(found.R):
            assert all(score in (None, whole.R[row][at]) for at, score in enumerate(scores))
    assert (found.R, found.metrics, found.settings) == (whole.R, whole.metrics, whole.settings)
    assert not found.gaps
    identities = [placeless(read_identity(tmp_path / name)) for name in ("part", "whole")]
    assert identities[0] == identities[1]


@pytest.mark.slow
def test_only_wanted_cells_are_asked_and_a_smaller_choice_keeps_what_is_there(toy_stream, tmp_path):
    asked = []

    class Watch(evertune.Callback):
        def on_evaluate_begin(self, stage, task):
            asked.append((stage, task.name))

        def on_task_begin(self, number, task):
            asked.append(number)

    first = run(toy_stream, tmp_path / "run", cells="final", callbacks=[Watch()]).runs["sequential"].matrix
    names = first.tasks
    assert [entry for entry in asked if isinstance(entry, tuple)] == wanted_cells("final", names, known=0, stages=names)
    asked.clear()
    run(toy_stream, tmp_path / "run", cells="final", callbacks=[Watch()])
    assert not asked  # finished
    learned = run(toy_stream, tmp_path / "run", cells="learned", callbacks=[Watch()]).runs["sequential"].matrix
    before = set(wanted_cells("final", names, known=0, stages=names))
    assert asked == [cell for cell in wanted_cells("learned", names, known=0, stages=names) if cell not in before]
    again = run(toy_stream, tmp_path / "run", cells="final", callbacks=[Watch()]).runs["sequential"].matrix
    assert again.R == learned.R


@pytest.mark.slow
def test_what_is_shown_of_a_matrix_with_gaps(toy_stream, tmp_path, capsys):
    out = tmp_path / "run"
    flags = [part for setting in SETTINGS for part in ("--set", setting)]
    arguments = ["run", toy_stream, "--model", "random", "--out", out, *flags, "--set", "evaluation.cells=final"]
    code, said, _ = command(*arguments, capsys=capsys)
    assert code == 0
    assert "cells not evaluated; not computed: " in " ".join(said.split())
    content = json.loads((out / "matrix.json").read_text())
    assert content["R"][0] == [None] * len(content["tasks"])
    assert content["metrics"]["forgetting"] is None
    assert "each task from its stage on" in content["not_computed"]["forgetting"]
    code, said, _ = command("metrics", out / "matrix.json", "--json", capsys=capsys)
    assert json.loads(said)["not_computed"]["forgetting"] == content["not_computed"]["forgetting"]
    code, said, _ = command("compare", out, "--markdown", capsys=capsys)
    assert "no forgetting" in said.lower()
    page = (out / "report/index.html").read_text()
    assert re.search(r"Not computed: [^<.]*Forgetting[^<.]*: needs each task from its stage on", page, re.IGNORECASE)
    result = evertune.load_run(out)
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["score"] for row in rows if row["stage"] == "0"] == [""] * len(content["tasks"])
    assert math.isnan(result.runs["sequential"].matrix.to_frame().iloc[0, 0])
    assert r"\begin{tabular}" in result.to_latex()
    assert "-" in repr(result.runs["sequential"].matrix)
    assert result.plot().element().count("<text")
    with pytest.raises(UserError, match=r"was not evaluated after stage 0 .* evaluation\.cells=all"):
        result.runs["sequential"].answers(0, content["tasks"][0])
    assert command("doctor", out, capsys=capsys)[0] == 0


@pytest.mark.slow
def test_plan_counts_the_cells_that_are_evaluated(toy_stream, capsys):
    seconds = {}
    for cells in ("all", "final"):
        arguments = ["plan", toy_stream, "--model", "random", "--set", f"evaluation.cells={cells}", "--json"]
        _, said, _ = command(*arguments, capsys=capsys)
        seconds[cells] = json.loads(said)[0]["answers"]
    tasks = 3
    each = seconds["all"] / (tasks * (tasks + 1))
    assert seconds["final"] == (2 * tasks - 1) * each


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="cells"):
        RunConfig(stream="parcel", evaluation={"cells": "some"})


def test_a_limited_evaluation_is_a_fixed_choice_and_leaves_training_alone(tasks):
    stream = Stream("toy", tasks, known=tasks[:1])
    once, again = stream.evaluated(2), Stream("other", tasks).evaluated(2)
    assert stream.evaluated(None) is stream
    for before, part, other in zip(tasks, once.tasks, again.tasks, strict=True):
        assert part.train is before.train
        assert list(part.test) == list(other.test)
        places = [before.test.index(sample) for sample in part.test]
        assert places == sorted(places)
        assert len(places) == 2 < len(before.test)
    assert list(once.known[0].test) == list(once.tasks[0].test)
    assert any(list(part.test) != list(task.test[:2]) for part, task in zip(once.tasks, tasks, strict=True))
    assert stream.evaluated(99).tasks == stream.tasks


@pytest.mark.slow
def test_a_limited_evaluation_is_another_run_with_the_same_training(toy_stream, tmp_path, capsys):
    whole = run(toy_stream, tmp_path / "whole").runs["sequential"]
    limited = run(toy_stream, tmp_path / "part", more=["evaluation.limit=2"]).runs["sequential"]
    assert {cell["n"] for cell in limited.matrix.cells} == {2}
    assert limited.matrix.settings["evaluation"]["limit"] == 2
    for task in limited.matrix.tasks:
        full = {row["id"]: row["answer"] for row in whole.answers(3, task)}
        assert all(full[row["id"]] == row["answer"] for row in limited.answers(3, task))
    losses = [
        sorted(path.read_text() for path in (tmp_path / name).glob("stages/*/training.jsonl"))
        for name in ("whole", "part")
    ]
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match=r"evaluation\.limit=2; requested evaluation\.limit=3"):
        run(toy_stream, tmp_path / "part", more=["evaluation.limit=3"])
    code, said, _ = command("check", tmp_path / "part", capsys=capsys)
    assert code == 0
    flags = [f"--set={setting}" for setting in [*SETTINGS, "evaluation.limit=2"]]
    _, said, _ = command("run", toy_stream, "--model", "random", "--out", tmp_path / "part", *flags, capsys=capsys)
    assert "at most 2 questions per task (evaluation.limit): standard error of a score" in " ".join(said.split())
