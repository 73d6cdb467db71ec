"""The fixtures in the official layouts: `tests/fixtures/data` is what `--data` points to, without its pictures.

Everything in them is made up. `pictures.txt` lists the pictures as their publishers name them; they are drawn here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from evertune.tasks.formats import Row, format_of

FIXTURES = Path(__file__).parent.parent / "fixtures"


def lay_out(folder: Path) -> Path:
    """Copy the fixtures to `folder` and draw their pictures."""
    shutil.copytree(FIXTURES / "data", folder, dirs_exist_ok=True)
    for number, name in enumerate((FIXTURES / "pictures.txt").read_text().splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 255 - number, 40)).save(folder / name)
    return folder


def rows_of(name: str, place: Path, *, split: str, **options: object) -> list[Row]:
    return list(format_of(name).rows(place, split=split, **options))
