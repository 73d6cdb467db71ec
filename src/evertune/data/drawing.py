"""Small pictures of drawings: an SVG or a picture with transparency, at a random size, angle and place on a ground.

The builders of pictograms, emoji, clip art and stamps share this; `choose` decides everything that is random.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evertune.utils.errors import UserError

SIDE = 128
GROUNDS = ("#ffffff", "#fde9d9", "#e2f0d9", "#dae8f7", "#fff6c9", "#eadcf4", "#dddddd", "#cfeeee")
FIRST_SIDE, LEAST_SIDE = 512, 64
"""Clip art is drawn as large as the first before its margins are cut off; what is left is as large as the second."""
COARSER = 4
"""Times smaller, and so quicker, when it is only looked at whether there is something."""
ROOM = 0.88
"""Part of a side that a drawing takes, so that its corners stay when it is turned by ten degrees."""
HARDLY = 16
"""Levels of 255: opacity that is taken for a margin, grey that is taken for white."""


def rendered(svg: str | Path, *, side: int) -> Image.Image:
    """Draw an SVG (its text, or its file) into `side` x `side` pixels, RGBA, in its own proportions.

    Raises:
        UserError: resvg-py is missing.
        ValueError: it is no SVG that can be drawn.
    """
    try:
        import resvg_py
    except ImportError as problem:
        raise UserError("drawing pictograms needs resvg-py: pip install 'evertune[smol]'") from problem

    text, path = (None, str(svg)) if isinstance(svg, Path) else (svg, None)
    png = resvg_py.svg_to_bytes(svg_string=text, svg_path=path, width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def on_ground(drawing: Image.Image, choose: random.Random, *, grounds: Sequence[str] = GROUNDS) -> Image.Image:
    """The drawing, of at most SIDE x SIDE pixels, at a random angle and place on one of `grounds`; RGB."""
    turned = drawing.rotate(choose.uniform(-10, 10), resample=Image.Resampling.BICUBIC)
    ground = Image.new("RGBA", (SIDE, SIDE), choose.choice(grounds))
    place = (choose.randint(0, SIDE - turned.width), choose.randint(0, SIDE - turned.height))
    ground.alpha_composite(turned, place)
    return ground.convert("RGB")


def some_size(choose: random.Random) -> int:
    """Pixels that a drawing fills of SIDE, at random."""
    return choose.randint(int(SIDE * 0.75), SIDE)


def shows_something(image: Path) -> bool:
    """Whether there is anything in a file to be seen: it can be drawn, is not nearly empty and not all white."""
    drawing = _trimmed(image, side=FIRST_SIDE // COARSER)
    if drawing is None or (image.suffix == ".svg" and max(drawing.size) < LEAST_SIDE // COARSER):
        return False
    white = Image.new("RGBA", drawing.size, "white")  # the ground it may stand on
    white.alpha_composite(drawing)
    return int(np.asarray(white.convert("L").resize((16, 16))).min()) < 255 - HARDLY


def trimmed(image: Path) -> Image.Image:
    """The drawing in a file that `shows_something`, RGBA, without the empty margins."""
    drawing = _trimmed(image, side=FIRST_SIDE)
    assert drawing is not None
    return drawing


def _trimmed(image: Path, *, side: int) -> Image.Image | None:
    try:
        drawing = rendered(image, side=side) if image.suffix == ".svg" else Image.open(image).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    seen = drawing.getchannel("A").point([0] * HARDLY + [255] * (256 - HARDLY)).getbbox()
    return drawing.crop(seen) if seen else None


def fitted(drawing: Image.Image, *, side: int) -> Image.Image:
    """The same in its own proportions in the middle of `side` x `side` pixels, with room for being turned a little."""
    scale = ROOM * side / max(drawing.size)
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(drawing.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), _middle(size, side))
    return canvas


def _middle(size: tuple[int, int], side: int) -> tuple[int, int]:
    return (side - size[0]) // 2, (side - size[1]) // 2
