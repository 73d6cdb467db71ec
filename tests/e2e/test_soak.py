"""The soak in small: one disturbed run, and two runs that share a cache; all end with the bits of undisturbed ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import warm

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"


@pytest.mark.thorough
def test_a_round_of_troubles_and_a_shared_cache(tmp_path):
    before = [{"round": n, "family": "", "troubles": [], "wrong": "", "seconds": 0.0} for n in range(3)]
    (tmp_path / "soak.jsonl").write_text("".join(json.dumps(row) + "\n" for row in before))
    command = [warm.python(), str(SCRIPT), "--rounds", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()][3:]
    assert (
        [row["wrong"] for row in rows] == ["", ""] and rows[1]["troubles"] == ["shared cache"] and rows[0]["troubles"]
    )
