"""Read a JSONL file of `{image, instruction, answer | answers, id}` rows beside a folder of pictures.

Every task of evertune ends up here, the built-in ones too. A row that can't be used stops before any training, with
its file and line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from evertune.errors import DataError, nearest
from evertune.tasks.task import Sample

KEYS = {"image", "instruction", "answer", "answers", "id"}


def read_jsonl(path: Path, *, images: Path | None = None) -> tuple[Sample, ...]:
    """Read all rows of `path`; pictures are named relative to `images` (default: the file's folder).

    Raises:
        DataError: the file is missing or empty, or a row is broken; the message names file and line.
    """
    root = (images or path.parent).resolve()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path} can't be read as UTF-8 text: {problem}") from problem
    samples = tuple(
        _sample(line, root, origin=f"{path}:{number}", number=number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not samples:
        raise DataError(f"{path} has no rows; each line is an object with image, instruction and answer")
    _refuse_duplicate_ids(samples)
    return samples


def check_pictures(samples: tuple[Sample, ...]) -> None:
    """Decode every picture once, so that a broken one stops the run before training, not in the middle.

    Raises:
        DataError: a picture is missing, truncated or not a picture; the message names file and line.
    """
    for image, sample in {s.image: s for s in samples}.items():
        open_picture(image, origin=sample.origin)


def open_picture(path: Path, *, origin: str) -> Image.Image:
    """Open a picture as RGB, as it is seen: EXIF rotation applied, transparency on white, first frame only."""
    from PIL import ImageOps

    try:
        with Image.open(path) as picture:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                white = Image.new("RGBA", layer.size, "white")
                return Image.alpha_composite(white, layer).convert("RGB")
            return upright.convert("RGB")
    except FileNotFoundError as problem:
        raise DataError(f"{origin}: the picture {path} does not exist") from problem
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as problem:
        raise DataError(f"{origin}: the picture {path} is broken or not a picture ({problem})") from problem


def _sample(line: str, root: Path, *, origin: str, number: int) -> Sample:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as problem:
        raise DataError(f"{origin}: not valid JSON (column {problem.colno}: {problem.msg})") from problem
    if not isinstance(row, dict):
        raise DataError(f"{origin}: a row must be an object with image, instruction and answer")
    if stray := sorted(row.keys() - KEYS):
        raise DataError(f"{origin}: unknown key '{stray[0]}'; {nearest(stray[0], KEYS)}")
    return Sample(
        id=str(row.get("id", number)),
        image=confined(_text(row, "image", origin), root, origin),
        instruction=_text(row, "instruction", origin),
        answers=_answers(row, origin),
        origin=origin,
    )


def _text(row: dict[str, Any], key: str, origin: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{origin}: '{key}' must be a text that is not empty")
    return value.strip()


def _answers(row: dict[str, Any], origin: str) -> tuple[str, ...]:
    if ("answer" in row) == ("answers" in row):
        raise DataError(f"{origin}: a row has either 'answer' (a text) or 'answers' (a list of texts)")
    if "answer" in row:
        return (_text(row, "answer", origin),)
    answers = row["answers"]
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{origin}: 'answers' must be a list with at least one text")
    return tuple(_text({"answers": answer}, "answers", origin) for answer in answers)


def confined(name: str, root: Path, origin: str) -> Path:
    """Where the picture `name` is, which must be below `root`."""
    root = root.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise DataError(f"{origin}: the picture '{name}' lies outside of {root}; move it there or set 'images'")
    if not path.is_file():
        raise DataError(f"{origin}: the picture {path} does not exist")
    return path


def _refuse_duplicate_ids(samples: tuple[Sample, ...]) -> None:
    seen: dict[str, str] = {}
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{sample.origin}: the id '{sample.id}' stands at {seen[sample.id]} already")
        seen[sample.id] = sample.origin
