"""Methods that a test passes as objects are known to that test only."""

from __future__ import annotations

import pytest

from evertune.utils import plugins


@pytest.fixture(autouse=True)
def _own_methods(monkeypatch):
    monkeypatch.setattr(plugins, "_added", {})
