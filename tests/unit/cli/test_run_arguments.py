"""The commands about finished runs: which folders they take, and what they print."""

from __future__ import annotations

import json

import pytest
from matrices import matrix
from typer.testing import CliRunner

from evertune.cli.main import app
from evertune.reporting.page import write_report
from evertune.utils.errors import UserError


def output_of(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.fixture
def first(tmp_path):
    """The folder of a run of two methods, with its report."""
    for method in ("sequential", "ewc"):
        folder = tmp_path / "first" / method
        folder.mkdir(parents=True)
        (folder / "matrix.json").write_text(json.dumps(matrix(method).to_dict()))
    page = tmp_path / "first" / "report" / "index.html"
    write_report([tmp_path / "first" / "sequential", tmp_path / "first" / "ewc"], page)
    return tmp_path / "first"


@pytest.mark.slow
def test_a_glob_of_runs_may_name_their_report(first, monkeypatch):
    """`evertune compare runs/first/*`, as a shell writes it out."""
    places = sorted(first.iterdir())
    assert [place.name for place in places] == ["ewc", "report", "sequential"]
    assert len(json.loads(output_of("compare", "--json", *places))) == 3
    page = first.parent / "again.html"
    output_of("report", *places, "--out", page)
    assert page.exists()

    opened = []
    monkeypatch.setattr("evertune.apps.playground.command.playground", lambda folders, **_: opened.extend(folders))
    with pytest.raises(AttributeError):  # there is no server to run
        output_of("app", *places)
    assert [place.name for place in opened] == ["ewc", "sequential"]


@pytest.mark.slow
def test_a_report_alone_is_no_run(first):
    with pytest.raises(UserError, match=r"report holds no run \(no matrix.json in it\)"):
        output_of("compare", first / "report")
    (first / "report" / "index.html").unlink()
    with pytest.raises(UserError, match="report holds no run"):
        output_of("compare", first / "ewc", first / "report")
