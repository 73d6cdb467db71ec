"""The walks in CONTRIBUTING name files that exist, in an order that goes down the layers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
LEVEL = {name.strip(): level for level, names in enumerate(LAYERS) for name in names.split("|")}


def walks() -> list[list[str]]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Three walks")[1].split("\n## ")[0]
    return [re.findall(r"\]\(src/evertune/([\w/]+\.py)\)", walk) for walk in re.split(r"(?m)^\*\*", text)[1:]]


def test_each_walk_goes_down_the_layers():
    found = walks()
    assert len(found) == 3
    for files in found:
        assert len(files) >= 5 and all((ROOT / "src" / "evertune" / name).is_file() for name in files)
        levels = [LEVEL[name.split("/")[0]] for name in files]
        assert levels == sorted(levels), list(zip(files, levels, strict=True))


def test_each_name_in_a_walk_is_defined_in_its_file():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Three walks")[1].split("\n## ")[0]
    named = re.findall(r"\(src/evertune/([\w/]+\.py)\) `([\w.]+)`", text)
    assert len(named) >= 15
    for file, name in named:
        source = (ROOT / "src" / "evertune" / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"(?:def|class) {part}\b", source), f"{name} is not in {file}"
