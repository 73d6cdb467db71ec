"""A clock that jumps by years, forward and back: no number, no resume and no lock depends on it."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import yaml
from matrices import matrices_of
from test_run import significant

import evertune
from evertune import run as evertune_run
from evertune.runs.callback import Callback
from evertune.service.integrity import examine
from evertune.utils.errors import RunFolderError
from evertune.utils.locks import alone

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "train.save_every=2", "dtype=float32", "reuse=false"]
YEAR = 365.25 * 24 * 3600
SOURCES = Path(evertune.__file__).parent
WALL = {"time.time", "time.time_ns", "datetime.now"}


class Jumping:
    """In place of `time.time`: years ahead, years back, before 1970."""

    def __init__(self, real):
        self.real, self.choose, self.calls = real, random.Random(0), 0

    def __call__(self):
        self.calls += 1
        return self.real() + YEAR * self.choose.choice([-80, -20, -1, 0, 5, 30, 200])


class Interrupted(Callback):
    def on_step_end(self, step, *, samples):
        if step.step == 3:
            raise InterruptedError


def shift(*folders):
    """Every file gets a time of change from another decade."""
    choose = random.Random(1)
    for path in (path for folder in folders for path in folder.rglob("*")):
        when = choose.choice([1, 1e9, 4e9])
        os.utime(path, (when, when))


@pytest.fixture
def stream(toy_stream, tmp_path):
    """The toy stream with images of its own, whose times are changed."""
    folder = shutil.copytree(toy_stream.parent, tmp_path / "stream")
    content = yaml.safe_load((folder / "toy.yaml").read_text())
    shutil.copytree(content["tasks"][0]["images"], folder / "images")
    for entry in content["tasks"]:
        entry["images"] = str(folder / "images")
    (folder / "toy.yaml").write_text(yaml.safe_dump(content))
    return folder / "toy.yaml"


def test_a_run_under_a_jumping_clock_is_the_run(stream, tmp_path, monkeypatch):
    out, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("EVERTUNE_CACHE", str(cache))
    given = {"model": "random", "methods": "replay", "settings": SETTINGS}
    evertune_run(str(stream), out=tmp_path / "whole", **given)
    clock = Jumping(time.time)
    monkeypatch.setattr(time, "time", clock)
    with pytest.raises(InterruptedError):
        evertune_run(str(stream), out=out, callbacks=[Interrupted()], **given)
    assert (out / "mid_task.safetensors").exists()
    shift(out, cache, stream.parent)
    evertune_run(str(stream), out=out, **given)
    assert significant(out) == significant(tmp_path / "whole")
    shift(out)
    assert examine(out) == [] and clock.calls > 10
    assert matrices_of(evertune_run(str(stream), out=out, **given))[0].finished
    points = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == sorted(point["step"] for point in points)
    for found in durations(out):
        assert 0 <= found < 600, "durations are of a clock that does not jump"


def durations(out):
    """All that the folder says of how long something took."""
    rows = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    cost = json.loads((out / "matrix.json").read_text())["cost"]
    stages = [json.loads(path.read_text())["seconds"] for path in out.glob("stages/*/done.json")]
    return (
        [row["seconds"] for row in rows if "seconds" in row]
        + stages
        + [cost["train_seconds"], cost["evaluate_seconds"]]
    )


def test_a_lock_does_not_grow_old(tmp_path, monkeypatch):
    with alone(tmp_path):
        shift(tmp_path)
        monkeypatch.setattr(time, "time", Jumping(time.time))
        with pytest.raises(RunFolderError, match="is in use by process"), alone(tmp_path):
            pass
    with alone(tmp_path):
        pass


def wall_clock(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) in WALL


def reckoned(text):
    """Lines that reckon with the wall clock, or ask which of two files is older."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BinOp | ast.AugAssign) and any(wall_clock(part) for part in ast.walk(node)):
            lines.append(node.lineno)
        if isinstance(node, ast.Compare) and any(isinstance(o, ast.Lt | ast.Gt | ast.LtE | ast.GtE) for o in node.ops):
            words = ast.unparse(node)
            if "mtime" in words or "ctime" in words or any(wall_clock(part) for part in ast.walk(node)):
                lines.append(node.lineno)
    return lines


AGES = {"temporary_files.py", "uploads.py", "cache_files.py", "cache.py", "feature_shards.py"}
"""The age of leftovers, and of what is in the cache, is by the wall clock: other machines share the cache. A clock that
jumps by more than a day can remove what another process is making; that process then ends with an error, and no number
changes."""


def test_nothing_reckons_with_the_wall_clock():
    assert reckoned("a = time.time() - b\nif x.st_mtime > y: pass") == [1, 2]
    found = {str(path): reckoned(path.read_text()) for path in SOURCES.rglob("*.py") if path.name not in AGES}
    assert {path: lines for path, lines in found.items() if lines} == {}
