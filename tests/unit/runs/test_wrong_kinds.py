"""Objects of a wrong kind at each door of the Python API: one line that says what was given and what is taken."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from answered_runs import write_run

import evertune
from evertune.methods import EWC
from evertune.tools.export import export
from evertune.utils.errors import UserError

SCORES = {"colour": [100.0, 0.0], "shape": [0.0, 100.0]}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("replay", "ewc"):
        write_run(folder / method, SCORES, method=method)
    return evertune.load_run(folder)


@pytest.fixture(scope="module")
def lmm():
    return evertune.load_lmm("random")


LEARN = "taken are a run folder, such as 'runs/first', or result.runs[...]"
DOORS = {
    "compare a result": (evertune.compare, "compare takes matrices, not a Result: compare([run.matrix"),
    "compare runs": (lambda r: evertune.compare(list(r.runs.values())), "compare takes matrices, not a Run"),
    "compare paths": (lambda r: evertune.compare("runs/first"), "compare takes matrices, not a str ('runs/first')"),
    "report a result": (lambda r: evertune.write_report(r, "x.html"), "the runs are a Result; taken is a list of run"),
    "report a path": (
        lambda r: evertune.write_report("runs", "x.html"),
        "the runs are a str ('runs'); taken is a list",
    ),
    "report runs": (lambda r: evertune.write_report([3], "x.html"), "the run is an int; taken is a path"),
    "report to": (lambda r: evertune.write_report(["a"], None), "out is None; taken is a path, such as out='report.h"),
    "csv to": (lambda r: r.to_csv(3), "path is an int; taken is a path, such as path='cells.csv'"),
    "plot to": (lambda r: r.plot().save(3), "path is an int; taken is a path, such as path='plot.svg'"),
    "a task object": (lambda r: r.runs["ewc"].answers(0, 3), "the task is an int; taken is its name: colour, shape"),
    "load an object": (evertune.load_run, "a Result is no run folder: expected a path"),
    "pair a number": (lambda r: evertune.paired(3, r), "an int is no run: expected a run folder, or result.runs[...]"),
    "numbers in a row": (lambda r: evertune.metrics_of([1, 2]), "row 0 of the matrix is an int: expected rows of sc"),
    "no matrix": (lambda r: evertune.metrics_of(None), "the matrix is None: expected rows of scores, for example [["),
    "a stream": (lambda r: evertune.load_stream(3), "the stream is an int; taken is a path, such as the stream="),
    "stream typo": (lambda r: evertune.load_stream("b1", limits=3), "load_stream() has no argument 'limits'; did you"),
    "model": (lambda r: evertune.load_lmm(None), "the model is None; load_lmm takes a preset's name, a checkpoint"),
    "module": (lambda r: evertune.load_lmm(torch.nn.Linear(1, 1)), "the model is a Linear; load_lmm takes a preset's"),
    "options": (lambda r: evertune.load_lmm("random", options=["r"]), "options is a list of 1 str; taken is a dictio"),
    "open a number": (lambda r: evertune.Learner.from_run(3), f"the run is an int; {LEARN}"),
    "open methods": (evertune.Learner.from_run, "the result has 2 methods: pass one, result.runs['ewc']"),
    "export nothing": (lambda r: export(None, "x"), f"the run is None; {LEARN}"),
    "export methods": (lambda r: export(r, "x"), "the result has 2 methods: pass one, result.runs['ewc']"),
    "export to": (lambda r: export("runs", 3), "to is an int; taken is a path, such as to='exported/whole'"),
    "upload": (lambda r: export("runs", "x", push_to_hub=True), "push_to_hub is a bool; taken is the model repositor"),
    "methods": (lambda r: evertune.make_methods(["replay"]), "the methods are a list of 1 str; taken are names in one"),
    "their options": (lambda r: evertune.make_methods("ewc", {"ewc": 3}), "options are a dictionary of each method's"),
    "no methods": (lambda r: evertune.check_method(list), "check_method takes a function that makes methods"),
    "none made": (
        lambda r: evertune.check_method(partial(list)),
        "the function returns no methods, so there is nothi",
    ),
    "an option": (lambda r: EWC(samples=np.float64(2.5)), "EWC(samples=...) is a float; taken is a whole number"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_wrong_kind_is_refused_in_one_line(result, door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = DOORS[door]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        call(result)
    assert "\n" not in str(caught.value) and not list(Path().iterdir())


def test_a_learner_refuses_other_kinds_too(lmm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, message in (
        (None, "the model is None: pass evertune.load_lmm('smol')"),
        ("random", "the model is a str ('random'): pass evertune.load_lmm('random')"),
        (torch.nn.Linear(1, 1), "the model is a Linear: pass what evertune.load_lmm or evertune.wrap"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            evertune.Learner(given, folder="new")
    with pytest.raises(UserError, match="folder is an int; taken is a path"):
        evertune.Learner(lmm, folder=3)
    assert not list(Path().iterdir())
    Path("notes.txt").touch()
    with pytest.raises(UserError, match=r"\. is not empty and not a run: choose another folder"):
        evertune.Learner(lmm, folder=".")
    learner = evertune.Learner(lmm, "replay", folder="model", progress=False)
    assert repr(learner) == "Learner(replay on random, 0 of 0 stages, 'model')"
    for call, message in (
        (lambda: learner.save(3), "path is an int; taken is a path, such as path='models/copy'"),
        (lambda: learner.save("model/copy"), "model/copy is inside model, which is copied: choose a folder elsewhere"),
        (lambda: learner.rollback("colours"), "the stage is a str ('colours'); taken is its number, 0 to 0"),
        (lambda: learner.ask(image=None, question="?"), "Learner.ask() has no argument 'question'; did you mean"),
        (lambda: evertune.Learner.from_run("model", lmm="random"), "the model is a str ('random'): pass evertune.load"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            call()


def test_values_of_a_frame_are_taken(result):
    """Stages of `to_frame()` and the grid of a sweep are numbers of numpy."""
    frame = result.to_frame()
    assert result.runs["ewc"].answers(frame.stage.max(), frame.task.iloc[-1])
    assert isinstance(EWC(samples=np.arange(3)[2]).samples, int)
    assert type(EWC(strength=np.logspace(0, 2, 3)[1]).strength) is float
