"""Helpers of the tests about data: read a file as a task would, and keep what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from evertune.data.formats import format_of
from evertune.data.image_index import DECODED, ImageIndex
from evertune.data.rows import IndexKey, indexed
from evertune.data.samples import Samples


def read(name, place, *, images=None, prompt=None, allow_external_paths=False, split="train", **options):
    """The samples of a file, and the messages of the rows that can't be used."""
    layout = format_of(name)
    files = tuple(layout.files(place, split=split, **options))
    recipe = IndexKey(name, 1, place, split, options, prompt or layout.PROMPT, allow_external_paths, files)
    rows = indexed(recipe, lambda: layout.rows(place, split=split, **options))
    root = images or (place if place.is_dir() else place.parent)
    return Samples(ImageIndex(rows, root, allow_external_paths=allow_external_paths)), [
        str(problem) for problem in rows.problems()
    ]


def faults(samples):
    """What is wrong with the images, all of them decoded."""
    samples.look(depth=DECODED)
    return [str(fault) for fault in samples.faults()]


def write_lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def colour(folder, name, value=(255, 0, 0)):
    """A small image of one colour; returns its name."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), value).save(path)
    return name
