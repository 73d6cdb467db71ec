"""easy-VQA: a coloured shape on a plain background and a question about it; the official split.

Two kinds: `yesno` ("is there a red circle?", with negations) and `open` (a colour or a shape).
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from evertune.assets import Progress, unpacked
from evertune.data.builders import write_rows
from evertune.utils.errors import UserError

VERSION = 1
ABOUT = {
    "title": "easy-VQA",
    "source": "PyPI package easy-vqa 1.0, official train/test split, a seeded choice of its questions",
    "licence": "MIT",
    "citation": "V. Zhou, easy-VQA, 2019, https://github.com/vzhou842/easy-VQA",
}


def build(folder: Path, *, kind: str, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Choose `train` and `test` questions of one `kind` ('yesno' or 'open') and copy their images."""
    if kind not in ("yesno", "open"):
        raise UserError(f"easy-vqa: kind must be 'yesno' or 'open', not '{kind}'")
    data = unpacked("easy-vqa", progress=progress) / "easy_vqa" / "data"
    (folder / "images").mkdir(exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        questions = json.loads((data / split / "questions.json").read_text())
        fitting = [q for q in questions if (q[1] in ("yes", "no")) == (kind == "yesno")]
        chosen = random.Random(f"easy-vqa {kind} {split} {seed}").sample(fitting, count)
        rows = []
        for question, answer, number in chosen:
            image = f"images/{split}-{number}.png"
            shutil.copyfile(data / split / "images" / f"{number}.png", folder / image)
            rows.append((image, question, answer))
        write_rows(folder, split, rows)
