"""A perceptual hash of 56 bytes, which finds copies of an image in another size or format.

A 64-bit difference hash and 4 x 4 mean colours. The hash is two lines of NumPy; the package `imagehash`, with which the
tests compare it, would bring SciPy and PyWavelets along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOOK = np.dtype([("hash", "<u8"), ("colours", "u1", 48)])


def look_of(image: Image.Image) -> NDArray[Any]:
    """() record of `LOOK` for an RGB image.

    hash: whether each of 8 x 8 pixels of the grey image is brighter than its left neighbour, row after row, the first
    bit highest (N. Krawetz, 2013, "Kind of like that"). colours: means over a grid of 4 x 4, red, green and blue.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    look = np.zeros((), LOOK)
    look["hash"] = int.from_bytes(bits.tobytes(), "big")
    look["colours"] = np.asarray(image.resize((4, 4), Image.Resampling.BOX)).reshape(-1)
    return look
