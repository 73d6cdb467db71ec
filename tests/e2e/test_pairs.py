"""Pairs through the command line, with real processes: finished, and killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
import warm


def command(stream, out, *more):
    settings = ["train.epochs=2", "train.learning_rate=0.01", "dtype=float32", "reuse=false"]
    return [
        *[warm.python(), "-m", "evertune", "pairs", str(stream), "--model", "random", "--out", str(out), "--json"],
        *[part for entry in settings for part in ("--set", entry)],
        *more,
    ]


def pairs(stream, out, *more):
    done = subprocess.run(command(stream, out, *more), capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture(scope="module")
def undisturbed(stream, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "whole"
    code, output, errors = pairs(stream, out, "--jobs", "2")
    assert code == 0, errors
    return output, errors


def test_two_tasks_are_two_pairs(undisturbed):
    output, errors = undisturbed
    assert [(pair["first"], pair["second"]) for pair in output["pairs"]] == [("what", "upright"), ("upright", "what")]
    assert all(row["rho"] is None for row in output["correlations"])
    assert "the rank correlation is undefined: only 2 pairs" in output["notes"]
    assert "finished  s0/what" in errors and "finished  s0/upright" in errors


def test_killed_and_resumed_equals_undisturbed(undisturbed, stream, tmp_path):
    """The worker of one first task is shot after its first stage: the command says so, and the next one goes on."""
    out = tmp_path / "shot"
    first = subprocess.Popen(command(stream, out, "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stage, deadline = out / "s0" / "what" / "stages" / "01-what" / "done.json", time.monotonic() + 240
    while not stage.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(int((out / "s0" / "what.lock").read_text().split()[0]), signal.SIGKILL)
    _, errors = first.communicate(timeout=240)
    assert first.returncode == 2 and b"1 of the runs failed: s0/what" in errors and b"ended by SIGKILL" in errors
    assert not (out / "s0" / "what" / "then-upright.json").exists() and not (out / "pairs.json").exists()
    kept = stage.stat().st_mtime_ns
    code, output, errors = pairs(stream, out)
    assert code == 0 and output == undisturbed[0]
    assert stage.stat().st_mtime_ns == kept, "the first stage was not learned again"
    assert "finished  s0/upright" not in errors, "the other process had finished"
