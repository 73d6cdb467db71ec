"""Run folders with a matrix, answers and an image, made without a model, and a page as a browser has it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

TASKS = ["shapes", "numbers", "names"]
SEQUENTIAL = [[10.0, 0.0, 5.0], [80.0, 2.0, 6.0], [50.0, 90.0, 7.0], [30.0, 60.0, 70.0]]
REPLAY = [[10.0, 0.0, 5.0], [80.0, 2.0, 6.0], [78.0, 88.0, 7.0], [76.0, 84.0, 68.0]]
DIRECT = [[10.0, 0.0, 5.0], [80.0, 1.0, 1.0], [1.0, 96.0, 1.0], [2.0, 4.0, 75.0]]
JOINT = [[10.0, 0.0, 5.0], [79.0, 92.0, 72.0]]


def make_run(
    folder: Path,
    R: list[list[float]],
    *,
    method: str = "sequential",
    seed: int = 0,
    tasks: list[str] | None = None,
    answer: str = "a circle",
    image: str = "image.png",
    **extra: Any,
) -> Path:
    """A run folder with a matrix, two answers per cell (one right, one as given) and an image."""
    tasks = tasks or TASKS
    folder.mkdir(parents=True)
    Image.new("RGB", (200, 100), (200, 30, 60)).save(folder / image)
    cells = []
    for stage, row in enumerate(R):
        for place, (task, score) in enumerate(zip(tasks, row, strict=True)):
            path = folder / "answers" / f"{stage:02d}" / f"{place}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            sample = {"image": str(folder / image), "instruction": "what is this?", "gold": ["circle"]}
            prediction = "circle" if stage == place + 1 else answer
            rows = [
                {"id": "a", "answer": "circle", "expert": None} | sample,
                {"id": "b", "answer": prediction, "expert": None} | sample,
            ]
            path.write_text("".join(json.dumps(r) + "\n" for r in rows))
            cells.append(
                {"stage": stage, "task": task, "score": score, "relaxed": score, "n": 100, "experts": {}}
                | {"answers": str(path.relative_to(folder))}
            )
    matrix = {
        "format": 2,
        "model": "smol",
        "stream": "parcel",
        "method": method,
        "seed": seed,
        "tasks": tasks,
        "stages": ["joint"] if method == "joint" else tasks,
        "R": R,
        "relaxed": R,
        "cells": cells,
        "cost": {"train_seconds": 300.2, "trained_parameters": 1534720, "stored_bytes": 12345},
        "warnings": [],
    }
    (folder / "matrix.json").write_text(json.dumps(matrix | extra))
    (folder / "provenance.json").write_text(json.dumps({"torch": "2.9", "prompts": {"shapes": "<image>what?"}}))
    return folder


class Page(HTMLParser):
    """The tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "
