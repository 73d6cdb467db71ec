"""docs/threats.md names tests as evidence: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
PAGE = (TESTS.parent / "docs" / "threats.md").read_text()


def defined() -> set[str]:
    """Names of all test functions."""
    trees = [ast.parse(path.read_text()) for path in TESTS.rglob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
def test_every_test_that_the_page_names_exists():
    code = re.findall(r"`([^`\n]+)`", PAGE)
    files = {name for name in code if name.endswith(".py") and name.startswith(("test_", "tests/"))}
    functions = {name for name in code if re.fullmatch(r"test_\w+", name)}
    paths = {path.relative_to(TESTS.parent).as_posix() for path in TESTS.rglob("*.py")}
    known = paths | {Path(path).name for path in paths}
    assert len(functions) > 40 and files and files - known == set()
    modules = {name.removesuffix(".py") for name in known}
    assert sorted(functions - defined() - modules) == []


def test_the_table_numbers_every_attack_and_names_its_tests():
    rows = re.findall(r"^\| (\d+) \| .* \| .* \|(.*)\|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1)) and len(rows) >= 15
    assert [number for number, tests in rows if not re.search(r"`test_\w+`", tests)] == []
