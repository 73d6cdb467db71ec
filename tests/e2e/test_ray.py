"""A grid on a real local Ray of two workers: one is killed, and the run that was begun again too; nothing is lost."""

from __future__ import annotations

import builtins
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from test_grid import CELLS, command, grid, grid_file, pid_of, undisturbed, wait_until  # noqa: F401  fixtures
from test_run import significant

from evertune.experiments.grid import Grid, cells_of, read_grid
from evertune.experiments.grid.run import GridCallback
from evertune.utils.errors import UserError

pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def _one_thread_each():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def parent_of(pid):
    """The process that started `pid`."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid):
    """Whether a process has ended; whoever inherited it may not have asked how yet (a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.thorough
def test_a_killed_worker_is_begun_again(undisturbed, grid_file, tmp_path):  # noqa: F811
    out = tmp_path / "grid"
    going = subprocess.Popen(
        command(grid_file, out, "--ray", "local", "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until((out / CELLS[1] / "stages" / "01-what" / "done.json").exists, going)
    run = pid_of(out, CELLS[1])
    os.kill(parent_of(run), signal.SIGKILL)  # Ray's worker: the run it began dies with it
    wait_until(lambda: pid_of(out, CELLS[1]) not in (0, run), going)
    again = pid_of(out, CELLS[1])
    assert is_gone(run)
    os.kill(again, signal.SIGKILL)  # and the run itself, as a full memory would
    output, errors = going.communicate(timeout=240)
    assert going.returncode == 0, errors
    assert json.loads(output)["finished"] == list(CELLS) and json.loads(output)["failed"] == {}
    assert [line[0] for line in (out / f"{CELLS[1]}.log").read_text().splitlines() if line.startswith("$ ")] == [
        "$"
    ] * 3
    for cell in CELLS:
        assert significant(out / cell) == significant(undisturbed / cell)
    code, summary, _ = grid(grid_file, out)  # what Ray has done, processes of this machine need not do
    assert code == 0 and summary["finished"] == list(CELLS)


class Loud(GridCallback):
    """Keeps why runs failed."""

    def __init__(self):
        self.problems = {}

    def run_ended(self, name, ended):
        self.problems[name] = ended.problem


def test_a_run_that_fails_is_told_and_not_begun_again(grid_file, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sys, "executable", warm.python())
    foreign = tmp_path / CELLS[0]
    foreign.mkdir(parents=True)
    (foreign / "mine.txt").write_text("x")
    callback = Loud()
    made = Grid(cells_of(read_grid(grid_file), out=tmp_path), jobs=2, ray="local")
    made.run(callback)
    assert "is not empty and not a run" in callback.problems[CELLS[0]] and callback.problems[CELLS[1]] is None
    assert (tmp_path / f"{CELLS[0]}.log").read_text().count("$ ") == 1 and list(made.failed) == [CELLS[0]]


def test_no_cluster_and_no_ray(grid_file, tmp_path, monkeypatch):  # noqa: F811
    made = Grid(cells_of(read_grid(grid_file), out=tmp_path), ray="auto")
    with pytest.raises(UserError, match="no Ray cluster at 'auto'"):
        made.run(GridCallback())
    honest = builtins.__import__

    def without_ray(name, *more, **options):
        if name == "ray":
            raise ImportError(name)
        return honest(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(UserError, match=r"pip install 'evertune\[ray\]'"):
        made.run(GridCallback())
