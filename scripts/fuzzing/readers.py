"""Every reader of files that strangers make, as (sound files, what is done with one of their like).

A reader gets the input and a folder of its own. It may end well or with a `UserError`; anything else is a finding.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from evertune.utils.errors import UserError
from fuzzing.inputs import Seed

Run = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Reader:
    """A reader and its seeds.

    Attributes:
        share: of a million inputs; those that cost a second get few.
        seconds: of the processor that one input may take.
    """

    name: str
    seeds: Sequence[Seed]
    run: Run
    share: int
    seconds: float = 10.0


class World:
    """What readers need that is made once: a run folder, the published layouts, a place to work in."""

    def __init__(self, *, run: Path, data: Path) -> None:
        self.run, self.data = run, data

    @cached_property
    def lmm(self) -> Any:
        """The model of the run, untouched."""
        from evertune.runs.api import model_of

        return model_of(self.run)


def readers(world: World) -> list[Reader]:
    """All of them."""
    found = [reader for number in range(groups()) for reader in group(world, number)]
    assert len({reader.name for reader in found}) == len(found)
    return found


def groups() -> int:
    """How many groups of readers there are."""
    return len(_made())


def group(world: World, number: int) -> list[Reader]:
    """The readers of one group: a process imports what its own group needs only."""
    return _made()[number](world)


def _made() -> list[Callable[[World], list[Reader]]]:
    from fuzzing import readers_data, readers_runs

    return [*readers_data.GROUPS, *readers_runs.GROUPS]


def file_reader(name: str, read: Callable[[Path], object]) -> Run:
    """A reader of one file that is called `name`."""

    def run(content: bytes, place: Path) -> None:
        path = place / name
        path.write_bytes(content)
        read(path)

    return run


def any_of(reads: Iterable[Callable[[], object]]) -> None:
    """Try all of some readers; refused when each of them refuses."""
    refusals: list[UserError] = []
    accepted = False
    for read in reads:
        try:
            read()
            accepted = True
        except UserError as problem:
            refusals.append(problem)
    if refusals and not accepted:
        raise refusals[-1]


def used_up(found: Iterator[Any]) -> None:
    """Look at everything that comes."""
    for _ in found:
        pass


def headed(content: bytes) -> tuple[str, bytes]:
    """The name in the first line of an input, and what follows."""
    head, _, rest = content.partition(b"\n")
    return head.decode("utf-8", "replace"), rest


def image_files() -> list[bytes]:
    """A small image in each format that Pillow writes here."""
    base = Image.new("RGB", (13, 9), (200, 30, 90))
    base.putpixel((3, 4), (1, 2, 3))
    kinds: list[tuple[str, str, Mapping[str, Any]]] = [
        *(("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "LA", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {})),
        *(("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}), ("GIF", "P", {}), ("BMP", "RGB", {})),
        *(("TIFF", "RGB", {}), ("TIFF", "L", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"})),
        *(("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("PPM", "RGB", {}), ("ICO", "RGBA", {})),
        *(("TGA", "RGB", {}), ("JPEG2000", "RGB", {}), ("AVIF", "RGB", {}), ("MPO", "RGB", {})),
    ]
    found = []
    for kind, mode, options in kinds:
        held = io.BytesIO()
        try:
            image = Image.new("I;16", (13, 9), 9000) if mode == "I;16" else base.convert(mode)
            image.save(held, kind, **options)
        except (KeyError, OSError, ValueError):  # not built in
            continue
        found.append(held.getvalue())
    exif = base.getexif()
    exif[0x0112] = 6
    held = io.BytesIO()
    base.save(held, "JPEG", exif=exif)
    animated = io.BytesIO()
    base.save(animated, "GIF", save_all=True, append_images=[base.rotate(90)])
    return [*found, held.getvalue(), animated.getvalue()]


def as_url(image: bytes) -> str:
    """An image as chat requests have it."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def reading(content: bytes, place: Path, reader: Reader) -> str:
    """Give one input to a reader: `accepted` or `refused`.

    Raises:
        BaseException: whatever is no `UserError`: a finding.
    """
    try:
        reader.run(content, place)
    except UserError as problem:
        assert str(problem).strip(), "an error says something"
        return "refused"
    return "accepted"


def shortened(content: bytes, *, items: int = 2) -> bytes:
    """A JSON file with its long lists and objects cut, so that inputs are small."""

    def cut(value: Any) -> Any:
        if isinstance(value, list):
            return [cut(one) for one in value[:items]]
        return {key: cut(one) for key, one in list(value.items())[:12]} if isinstance(value, dict) else value

    return json.dumps(cut(json.loads(content))).encode()


def emptied(place: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place
