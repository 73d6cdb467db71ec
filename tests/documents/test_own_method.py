"""`examples/own_method` and its page: the example is a package that evertune finds, and the table has every hook."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
import tomllib

import pytest
from blocks import ROOT, blocks_of

import evertune
from evertune.methods import METHODS, Method
from evertune.training.learner import Learner
from evertune.utils import plugins

EXAMPLE = ROOT / "examples" / "own_method"
PAGE = ROOT / "docs" / "own_method.md"
NO_HOOKS = {"log", "take_logged"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example as pip would install it: its module, and the entry points of its pyproject."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"evertune_derpp-{project['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    info.joinpath("entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for table in ("_given", "_added", "_values"):
        monkeypatch.setattr(plugins, table, {})
    for found in (plugins._installed, plugins._entry_points, plugins._code):
        found.cache_clear()
    yield project
    monkeypatch.undo()
    for found in (plugins._installed, plugins._entry_points, plugins._code):
        found.cache_clear()
    sys.modules.pop("derpp", None)


@pytest.mark.slow
def test_its_own_tests_pass(installed, tmp_path):
    tests = runpy.run_path(str(EXAMPLE / "test_derpp.py"))
    tests["test_terms"](tmp_path / "terms")
    tests["test_contract"]()


@pytest.mark.slow
def test_it_is_found_runs_and_opens_again(installed, toy_stream, tmp_path):
    assert "derpp" in METHODS
    settings = ["derpp.buffer=8", "derpp.batch=2"]
    result = evertune.run(str(toy_stream), model="random", methods="derpp", out=tmp_path / "run", settings=settings)
    assert result.runs["derpp"].matrix.finished
    assert "derpp/distillation" in result.report.read_text()
    learner = evertune.Learner.from_run(tmp_path / "run", progress=False)
    assert len(learner.methods[0]._rows) == 8


def test_the_page_ends_with_the_example():
    last = [block for block in blocks_of(PAGE) if block.language == "python"][-1]
    assert last.text == (EXAMPLE / "derpp.py").read_text()
    assert len([line for line in last.text.splitlines() if line.strip()]) <= 90


def table():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE.read_text().split("\n## ")[0], re.MULTILINE)
    return [name for name, _ in rows]


def test_the_table_has_every_hook():
    hooks = {n for n, f in vars(Method).items() if inspect.isfunction(f) and not n.startswith("_")} - NO_HOOKS
    assert sorted(table()) == sorted(hooks)


@pytest.mark.slow
def test_the_table_is_in_the_order_of_the_calls(lmm, tasks, tmp_path):
    """First calls of each hook while two tasks are learned, saved, evaluated, and the folder is opened."""
    called = []

    def recording(name):
        def hook(self, *given, **named):
            called.append(name)
            return getattr(Method, name)(self, *given, **named)

        return hook

    Recorder = type("Recorder", (Method,), {"name": "recorder", **{name: recording(name) for name in table()}})
    Recorder.about = evertune.MethodInfo("records", "regularization")
    learner = Learner(lmm, [Recorder()], folder=tmp_path, known=tasks[2:], reuse=False)
    learner.learn(tasks[0])
    learner.answers(tasks[0])
    first = list(dict.fromkeys(called))
    assert [name for name in table() if name in first] == first
