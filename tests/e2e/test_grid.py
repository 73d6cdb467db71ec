"""Grids through the command line: killed and stopped on the way, shared by two processes, finished, failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import warm
import yaml
from test_run import significant

CELLS = ("photos-random/sequential/s100", "photos-random/replay,ratio=0.1/s100")


@pytest.fixture(scope="module", autouse=True)
def _one_thread_each():
    """Threads decide the last bits, and `--jobs 1` would have all cores: runs are compared to the bit here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def grid_file(stream):
    """Two runs; nothing is reused from the cache, so that each trains for itself."""
    content = {
        "name": "tiny",
        "streams": [stream.name],
        "models": ["random"],
        "methods": ["sequential", "replay"],
        "seeds": [100],
        "reuse": False,
        "dtype": "float32",
        "train": {"epochs": 12, "learning_rate": 0.01},
        "vary": {"replay.ratio": [0.1]},
    }
    path = stream.parent / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(grid_file, out, *more):
    return [warm.python(), "-m", "evertune", "grid", str(grid_file), "--out", str(out), "--json", *more]


def grid(grid_file, out, *more):
    done = subprocess.run(command(grid_file, out, *more), capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture(scope="module")
def undisturbed(grid_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("grids") / "whole"
    code, output, errors = grid(grid_file, out, "--jobs", "2")
    assert code == 0, errors
    assert output["finished"] == list(CELLS) and output["failed"] == {}
    return out


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def pid_of(out, cell):
    """The last worker of a run; 0 while its number is being written."""
    text = (out / f"{cell}.lock").read_text()
    return int(text.split()[0]) if text.endswith("\n") else 0


def test_results_hold_the_matrices_and_settings_of_all_runs(undisturbed):
    content = json.loads((undisturbed / "results.json").read_text())
    assert content["format"] == 2 and content["name"] == "tiny"
    for cell, row in zip(CELLS, content["runs"], strict=True):
        matrix = json.loads((undisturbed / cell / "matrix.json").read_text())
        for key in ("stream", "model", "method", "seed", "settings", "R", "cost"):
            assert row[key] == matrix[key]
        assert row["metrics"]["final_average"] == matrix["metrics"]["final_average"]
    options = content["runs"][1]["settings"]["options"]
    assert list(options) == ["replay"] and options["replay"]["ratio"] == 0.1 and options["replay"]["buffer"] == 0


def test_a_finished_grid_answers_at_once(undisturbed, grid_file):
    """Without torch, and without starting or touching a run."""

    def files():
        return {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file() and p.name != "results.json"}

    before, results = files(), (undisturbed / "results.json").read_bytes()
    slow = [sys.executable, "-X", "importtime", *command(grid_file, undisturbed)[1:]]
    done = subprocess.run(slow, capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "evertune.experiments.grid.run" in imported and "torch" not in imported
    assert json.loads(done.stdout)["finished"] == list(CELLS)
    assert files() == before and (undisturbed / "results.json").read_bytes() == results


def test_stopped_and_killed_and_resumed_equals_undisturbed(undisturbed, grid_file, tmp_path):
    out = tmp_path / "grid"
    stopped = subprocess.Popen(command(grid_file, out, "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # the run that is shot later must not be finished yet, however late the other one began
    wait_until((out / CELLS[1] / "stages" / "01-what" / "done.json").exists, stopped)
    workers = [pid_of(out, cell) for cell in CELLS]
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == 130 and b"the same command again continues" in errors
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    shot = subprocess.Popen(command(grid_file, out, "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: pid_of(out, CELLS[1]) not in (0, workers[1]), shot)
    wait_until((out / CELLS[1] / "stages" / "02-upright" / "done.json").exists, shot)
    os.kill(pid_of(out, CELLS[1]), signal.SIGKILL)
    output, _ = shot.communicate(timeout=240)
    assert shot.returncode == 1, "a failed run is told at the end"
    summary = json.loads(output)
    assert summary["finished"] == [CELLS[0]] and "ended by SIGKILL" in summary["failed"][CELLS[1]]

    code, summary, _ = grid(grid_file, out)
    assert code == 0 and summary["finished"] == list(CELLS)
    for cell in CELLS:
        assert significant(out / cell) == significant(undisturbed / cell)


@pytest.mark.thorough
def test_two_grids_share_the_work(undisturbed, grid_file, tmp_path):
    out = tmp_path / "grid"
    both = [
        subprocess.Popen(command(grid_file, out, "--jobs", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert json.loads(output)["finished"] == list(CELLS)
    for cell in CELLS:
        log = (out / f"{cell}.log").read_text()
        assert sum(line.startswith("$ ") for line in log.splitlines()) == 1, "each run was started once"
        assert significant(out / cell) == significant(undisturbed / cell)


def test_a_failed_run_is_told_and_the_others_go_on(grid_file, tmp_path):
    foreign = tmp_path / CELLS[0]
    foreign.mkdir(parents=True)
    (foreign / "precious.txt").write_text("mine")
    code, output, errors = grid(grid_file, tmp_path)
    assert code == 1 and output["finished"] == [CELLS[1]]
    assert "is not empty and not a run" in output["failed"][CELLS[0]].replace("\n", " ")
    assert f"failed {CELLS[0]}" in " ".join(errors.split())
    assert [path.name for path in foreign.iterdir()] == ["precious.txt"]


def test_a_dry_run_lists_and_starts_nothing(grid_file, tmp_path):
    listed = subprocess.run(
        [warm.python(), "-m", "evertune", "grid", str(grid_file), "--out", str(tmp_path / "out"), "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, _, together = listed.stdout.splitlines()
    assert lines == [f"waiting   {cell}" for cell in CELLS] and together.startswith(
        f"{len(CELLS)} runs: {len(CELLS)} waiting"
    )
    assert not (tmp_path / "out").exists()
