"""Fashion-MNIST: product pictures of ten kinds of garment; the official split, when its files are at hand.

Its files are looked for in `$FASHION_MNIST`, in the user's cache and where Debian's package `dataset-fashion-mnist`
puts them. They are not fetched: no package registry that pip knows carries them.
"""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evertune.assets import Progress
from evertune.data.builders import write_rows
from evertune.utils.errors import UserError
from evertune.utils.files import cache_folder

VERSION = 1
ABOUT = {
    "title": "Fashion-MNIST",
    "source": "the four official idx files (Debian package dataset-fashion-mnist, or $FASHION_MNIST), official split",
    "licence": "MIT",
    "citation": "H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017, arXiv 1708.07747",
}
INSTRUCTION = "What kind of garment is this?"
KINDS = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def places() -> list[Path]:
    """The folders that are searched, in order."""
    chosen = os.environ.get("FASHION_MNIST")
    return [
        *([Path(chosen)] if chosen else []),
        cache_folder() / "fashion-mnist",
        Path("/usr/share/datasets/fashion-mnist"),
    ]


def build(folder: Path, *, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Choose `train` and `test` garments by `seed` from the official training and test files."""
    del progress  # nothing is fetched
    source = next((p for p in places() if (p / "train-images-idx3-ubyte.gz").exists()), None)
    if source is None:
        raise UserError(
            "Fashion-MNIST is not at hand: install Debian's dataset-fashion-mnist, or set FASHION_MNIST to a folder "
            "with its four .gz files (https://github.com/zalandoresearch/fashion-mnist)"
        )
    (folder / "images").mkdir(exist_ok=True)
    for split, stem, count in (("train", "train", train), ("test", "t10k", test)):
        images = _idx(source / f"{stem}-images-idx3-ubyte.gz").reshape(-1, 28, 28)
        labels = _idx(source / f"{stem}-labels-idx1-ubyte.gz")
        chosen = random.Random(f"garments {split} {seed}").sample(range(len(labels)), count)
        rows = []
        for number in chosen:
            image = f"images/{split}-{number}.png"
            Image.fromarray(images[number]).save(folder / image)
            rows.append((image, INSTRUCTION, KINDS[labels[number]]))
        write_rows(folder, split, rows)


def _idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes: a magic number whose last byte is the number of dimensions, the sizes, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as problem:
        raise UserError(f"{path} is missing or damaged: {problem}") from problem
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
