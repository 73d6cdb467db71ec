"""Small pictures of drawings: an SVG or a picture with transparency, at a random size, angle and place on a ground.

The builders of pictograms, emoji, clip art and stamps share this; `choose` decides everything that is random.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from evertune.errors import UserError

SIDE = 128
GROUNDS = ("#ffffff", "#fde9d9", "#e2f0d9", "#dae8f7", "#fff6c9", "#eadcf4", "#dddddd", "#cfeeee")
FIRST_SIDE = 512
"""Clip art is drawn this large before its empty margins are cut off."""
HARDLY = 16
"""Levels of opacity that are taken for a margin."""
LEAST_SIDE = 64
LEAST_SPREAD = 12
"""Levels of 255: what is as even as that, or smaller than `LEAST_SIDE` of `FIRST_SIDE`, shows nothing."""


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


def on_ground(drawing: Image.Image, choose: random.Random) -> Image.Image:
    """The drawing, of at most SIDE x SIDE pixels, at a random angle and place on a random light ground; RGB."""
    turned = drawing.rotate(choose.uniform(-10, 10), resample=Image.Resampling.BICUBIC)
    ground = Image.new("RGBA", (SIDE, SIDE), choose.choice(GROUNDS))
    place = (choose.randint(0, SIDE - turned.width), choose.randint(0, SIDE - turned.height))
    ground.alpha_composite(turned, place)
    return ground.convert("RGB")


def some_size(choose: random.Random) -> int:
    """Pixels that a drawing fills of SIDE, at random."""
    return choose.randint(int(SIDE * 0.75), SIDE)


def trimmed(picture: Path) -> Image.Image | None:
    """The drawing in a file, RGBA, without the empty margins; None where there is nothing to see."""
    try:
        if picture.suffix == ".svg":
            drawing = rendered(picture, side=FIRST_SIDE)
        else:
            drawing = Image.open(picture).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    seen = drawing.getchannel("A").point([0] * HARDLY + [255] * (256 - HARDLY)).getbbox()
    part = drawing.crop(seen or (0, 0, 1, 1))
    return part if max(part.size) >= LEAST_SIDE and _shows_something(part) else None


def _shows_something(drawing: Image.Image) -> bool:
    """Whether it differs from the white ground it may stand on, in grey levels."""
    white = Image.new("RGBA", drawing.size, "white")
    white.alpha_composite(drawing)
    grey = np.asarray(white.convert("L").resize((16, 16)))
    return int(np.ptp(grey)) > LEAST_SPREAD


def fitted(drawing: Image.Image, *, side: int) -> Image.Image:
    """The same in its own proportions, its longer side `side` pixels long."""
    scale = side / max(drawing.size)
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    return drawing.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
