"""The log of a model: what it learned, and why a stage was taken back, in plain words."""

from __future__ import annotations

import io

from rich.console import Console

from evertune.cli.service_view import show_history
from evertune.service.gate import parsed
from evertune.service.lifecycle import BY_USER


def test_a_rollback_says_whether_a_condition_or_the_user_asked_for_it():
    """It said: went back, without august (gain is 0.0, asked was > 10)."""
    (broken,) = parsed("gain>10").broken_by({"gain": 0.0})
    events = [
        {"event": "stage", "stage": 1, "task": "july", "time": 0},
        {"event": "rollback", "to": 1, "tasks": ["august"], "reason": broken, "time": 0},
        {"event": "rollback", "to": 0, "tasks": ["july"], "reason": BY_USER, "time": 0},
    ]
    out = io.StringIO()
    show_history(Console(file=out, width=100), events, folder="m")
    _, _, *lines = [line.split(maxsplit=3)[-1].strip() for line in out.getvalue().splitlines()]
    assert lines == ["learned july", "rolled back: august rejected, gain 0.0 is not > 10", "rolled back: removed july"]
