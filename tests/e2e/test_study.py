"""A study of two runs: one part after the other, nothing twice, and written down as each run ends."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import nullcontext

import pytest
import warm
import yaml

from evertune.experiments.grid import GridCallback
from evertune.experiments.study import Study, read_study


@pytest.fixture(scope="module")
def study(stream, tmp_path_factory):
    shared = {
        "streams": [stream.name],
        "models": ["random"],
        "seeds": [0],
        "limit": 8,
        "dtype": "float32",
        "train": {"epochs": 1},
    }
    parts = {
        "main": [{"name": "methods", "methods": ["sequential"], **shared}],
        "ablations": [
            {"name": "more", "variant": "more", "methods": ["replay"], "options": {"replay": {"ratio": 0.5}}, **shared}
        ],
    }
    path = stream.parent / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "parts": parts}, sort_keys=False))
    return Study(read_study(str(path)), tmp_path_factory.mktemp("study"))


class Counting(GridCallback):
    """Remembers what ended, and what was written down by then."""

    def __init__(self, out):
        self.out, self.ended, self.written = out, [], []

    def run_ended(self, name, ended):
        self.ended.append(name)

    def changed(self, status):
        self.written = sorted(str(path.relative_to(self.out)) for path in self.out.rglob("results.json"))


def done(study, **how):
    callback = Counting(study.out)
    ended = study.run(watching=lambda: nullcontext(callback), jobs=1, **how)
    assert ended.failed == {} and ended.stopped is None
    return callback


def test_parts_are_done_once_each_and_written_down_at_once(study, monkeypatch):
    monkeypatch.setattr(sys, "executable", warm.python())
    first = done(study, only="main")
    assert first.ended == ["methods/photos-random/sequential/s0"]
    assert first.written == ["main/methods/results.json"]
    rest = done(study)
    assert rest.ended == ["more/photos-random/replay/s0"], "what is finished is skipped"
    assert done(study).ended == []
    assert [run.method for run in study.measured()] == ["sequential", "replay (more)"]
    kept = json.loads((study.out / "ablations" / "more" / "results.json").read_text())["runs"]
    assert kept[0]["method"] == "replay" and kept[0]["settings"]["options"]["replay"]["ratio"] == 0.5
    assert "known" in kept[0], "findings need to know which columns are new"

    for folder in study.out.glob("*/*/photos-random"):
        shutil.rmtree(folder)
    assert done(study).ended == [], "results.json is enough, as on another machine"
    assert [run.method for run in study.measured()] == ["sequential", "replay (more)"]
    results = study.out / "main" / "methods" / "results.json"
    content = json.loads(results.read_text())
    results.write_text(json.dumps({**content, "runs": [{**content["runs"][0], "key": "of other settings"}]}))
    assert done(study).ended == first.ended, "a run of other settings is no substitute"
