"""Fixtures of the unit tests: the published layouts, laid out once."""

from __future__ import annotations

import pytest
import yaml
from published import lay_out


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder as `--data` wants it; not to be changed."""
    return lay_out(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def colours(toy_stream, tmp_path_factory):
    """A model that has learned two tasks, with an expert for each; not to be changed."""
    from evertune import service

    whole = yaml.safe_load(toy_stream.read_text())
    folder = tmp_path_factory.mktemp("served") / "colours"
    service.new(folder, model="random", method="eproj", settings=["train.learning_rate=0.01", "train.epochs=8"])
    for entry in whole["tasks"][:2]:
        path = toy_stream.parent / f"only-{entry['name']}.yaml"
        path.write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
        service.learn(folder, str(path), accept_if=service.parsed("gain>=-100"), settings=["train.min_steps=0"])
    return folder


@pytest.fixture
def plugged(monkeypatch):
    """Plug-ins within a test: `plugged.installed(...)`, and whatever `load_plugin` loads."""
    from plugging import Plugged

    made = Plugged(monkeypatch)
    yield made
    monkeypatch.undo()
    made.end()
