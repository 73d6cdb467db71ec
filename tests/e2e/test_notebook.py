"""The notebook of the examples runs from its first cell to its last, and shows what its words say it shows."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_forgetting_matrix.ipynb"


def printed(notebook):
    texts = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(texts)


def forgetting(notebook):
    return {name: float(value) for name, value in re.findall(r"^(\w+) +forgetting +([-\d.]+)", printed(notebook), re.M)}


@pytest.mark.thorough
@pytest.mark.timeout(1200)  # under a minute on a machine that has nothing else to do
def test_it_runs_and_says_what_it_shows(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = forgetting(notebook)
    NotebookClient(notebook, timeout=1000, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert not any(out.output_type == "error" for cell in notebook.cells for out in cell.get("outputs", []))
    found = forgetting(notebook)
    assert found["sequential"] > 30 and found["eproj"] < 5
    assert found == pytest.approx(shown, abs=10), "the outputs that are committed are of this notebook"
    images = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(images) == 4 and "by the expert vqav2" in printed(notebook)


def test_it_is_small_enough_to_read_on_a_page():
    assert NOTEBOOK.stat().st_size < 200_000
