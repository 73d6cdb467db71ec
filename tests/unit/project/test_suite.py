"""What `make test` leaves out is named by tests/thorough.yaml: a name that no test has is a mistake."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import suite
from tiny_chat import FAMILIES

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", suite.chosen())
def test_every_name_is_that_of_a_test(path):
    functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert not suite.chosen()[path].keys() - functions


def test_every_family_is_that_of_a_tiny_model():
    assert set(FAMILIES) > suite.OTHER_CHAT_FAMILIES


def test_marks():
    path, function = "tests/unit/models/test_chat_bounds.py", "test_a_template_without_end_is_one_line"
    stays, *_ = suite.chosen()[path][function]
    assert suite.marks_of(path, function, stays, ()) == set()
    assert suite.marks_of(path, function, "another", ()) == {"thorough"}
    assert suite.marks_of(path, "test_other", "", ["lmm"]) == {"slow"}
    assert suite.marks_of(path, "test_other", "idefics3-2", ["tiny_chat"]) == {"slow", "thorough"}
    assert suite.marks_of("tests/e2e/test_run.py", "test_other", "idefics3", ["toy_stream"]) == set()
