"""Small images of drawings: an SVG at a random size, angle and place on a ground.

`choose` decides everything that is random.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from evertune.utils.errors import UserError

SIDE = 128
GROUNDS = ("#ffffff", "#fde9d9", "#e2f0d9", "#dae8f7", "#fff6c9", "#eadcf4", "#dddddd", "#cfeeee")


def rendered(svg: Path, *, side: int) -> Image.Image:
    """Draw an SVG file into `side` x `side` pixels, RGBA, in its own proportions.

    Raises:
        UserError: resvg-py is missing.
        ValueError: it is no SVG that can be drawn.
    """
    try:
        import resvg_py
    except ImportError as problem:
        raise UserError("drawing pictograms needs resvg-py: pip install 'evertune[smol]'") from problem

    png = resvg_py.svg_to_bytes(svg_path=str(svg), width=side, height=side, skip_system_fonts=True)
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
