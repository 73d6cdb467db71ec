"""The committed results can be read again: each run's methods and options exist as they are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evertune.methods import make_methods

RESULTS = Path(__file__).parents[4] / "docs" / "results"


def runs_in(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    found = content.get("runs", []) if isinstance(content, dict) else content
    return [run for run in found if isinstance(run, dict) and {"method", "settings"} <= run.keys()]


FILES = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json") if runs_in(path))


@pytest.mark.parametrize("name", FILES)
def test_recorded_options_are_options(name):
    """A rename once changed `tir.discount=accumulate` to a value that no run ever had."""
    for run in runs_in(RESULTS / name):
        make_methods(run["method"], run["settings"].get("options") or {})
