"""The stream that whole runs and grids are tried on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from browsing import CHROMIUM, FLAGS


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Two tasks on crops of photographs: what is it, and is it upright? Made by the example of the docs."""
    path = Path(__file__).parents[2] / "examples" / "photographs.py"
    spec = importlib.util.spec_from_file_location("photographs", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example.main(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()
