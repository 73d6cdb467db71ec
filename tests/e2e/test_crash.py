"""The crash campaign in small: eight kills, some in the middle of a write; every run ends with the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import warm

SCRIPT = Path(__file__).parents[2] / "scripts" / "crash.py"


def test_eight_kills(tmp_path):
    command = [warm.python(), str(SCRIPT), "--kills", "8", "--out", str(tmp_path), "--families", "replay+ewc,eproj"]
    command += ["--model", "random"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in (tmp_path / "crash.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(len(row["kills"]) for row in rows) >= 8 and all(row["same"] for row in rows)
    assert "in a write" in {kill["kind"] for row in rows for kill in row["kills"]}


@pytest.mark.thorough
def test_a_command_is_killed(tmp_path):
    """The same for whole commands, as they are typed: here `learn`; all four take minutes."""
    script = SCRIPT.with_name("crash_commands.py")
    # fresh processes: the server of the warm ones ends a fork a moment after its program was killed, and until then
    # the fork holds the lock of the run folder, so that the next command may be refused
    command = [sys.executable, str(script), "--kills", "2", "--ways", "learn", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "crash.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(len(row["kills"]) for row in rows) >= 2 and all(row["same"] for row in rows)
