"""What a dry run says about all runs together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evertune.cli.grids import _totals_line
from evertune.experiments.grid import Cell, totals_of
from evertune.runs.config import RunConfig
from tests.unit.matrices import matrix


def cell(tmp_path, method, seed, *, seconds=None):
    made = Cell(
        f"{method}/s{seed}", RunConfig(stream="s", method=method, seed=seed, out=str(tmp_path / f"{method}{seed}"))
    )
    if seconds is not None:
        made.folder.mkdir()
        finished = replace(matrix(method, seed=seed), cost={"train_seconds": seconds, "evaluate_seconds": 1.0})
        made.file("log").write_text("beside the folder: not counted")
        (made.folder / "matrix.json").write_text(json.dumps(finished.to_dict()))
    return made


def test_runs_left_take_what_finished_ones_of_their_kind_took(tmp_path):
    cells = [cell(tmp_path, "ewc", seed, seconds=seconds) for seed, seconds in enumerate([9.0, 19.0, None])]
    cells += [cell(tmp_path, "replay", 0, seconds=99.0), cell(tmp_path, "lwf", 0)]
    found = totals_of(cells)
    assert found.states == {"finished": 3, "waiting": 2}
    assert found.seconds == pytest.approx(15 + (10 + 20 + 100) / 3)
    sizes = [(each.folder / "matrix.json").stat().st_size for each in (cells[0], cells[1], cells[3])]
    assert found.stored_bytes == pytest.approx(sum(sizes[:2]) / 2 + sum(sizes) / 3)
    assert _totals_line(found).startswith(
        "5 runs: 3 finished, 2 waiting. The others take, by the finished ones: 58.3 s of "
    )


def test_without_a_finished_run_it_says_how_to_measure_one(tmp_path):
    found = totals_of([cell(tmp_path, "ewc", 0)])
    assert found.seconds is None and "1 run: 1 waiting. Hours and disk " in _totals_line(found)
    assert "evertune plan" in _totals_line(found)
