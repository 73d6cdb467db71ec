"""Published data layouts, one module each: they read the files of the authors and yield rows.

A format is a module with `ABOUT` (title, source, licence, citation, how to get the files: for `show`), `PROMPT` (a
template with the names of a row's fields in braces), and `rows(place, *, split, **options)`, which reads `place`, a
file or the folder of a data set, and yields a `Row` per sample, one after another: large files are never held in
memory.

A row that can't be used is yielded as a `DataError`, so that the others are read and one report names them all; an
error of the whole file is raised. Optional: `VERSION` (raise it when the rows of the same files change),
`files(place, *, split, **options)` (the files that are read, for the key of the index; default: every file below a
folder that is no image), `images(place, *, split, **options)` (the root of images that the format writes itself,
None where the rows name files) and `one_split(place, **options)` (whether the place has no splits, and is parted).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evertune.utils.errors import UserError, unknown
from evertune.utils.plugins import OF_A_FORMAT, Lazy, Registry


@dataclass(frozen=True, slots=True)
class Row:
    """One sample as published, before prompts are filled and image paths are resolved.

    Attributes:
        id: unique within a split.
        images: paths relative to the root of the images; none, one or several.
        fields: fields for the prompt: `question`, `options`, `ocr`, ...
        answers: the accepted answers, the training target first; several for annotators or captions.
        origin: file and line (or number) for messages.
        extras: other fields that a score needs: the type of a question, the size of an image.
        unique: whether another row of the same id is a mistake; published training files repeat theirs.
    """

    id: str
    images: tuple[str, ...]
    fields: Mapping[str, str]
    answers: tuple[str, ...]
    origin: str
    extras: Mapping[str, str] = field(default_factory=dict)
    unique: bool = True


def _refuse_unusable(_name: str, layout: Any) -> None:
    if missing := [part for part in OF_A_FORMAT if not hasattr(layout, part)]:
        raise UserError(f"it has no {missing[0]}: a format has {', '.join(OF_A_FORMAT)}")
    if not isinstance(layout.ABOUT, dict) or "title" not in layout.ABOUT:
        raise UserError("its ABOUT has no 'title'")


FORMATS: Registry[Any] = Registry(
    "formats",
    {module.name.replace("_", "-"): Lazy(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)},
    check=_refuse_unusable,
)
"""By the name that a stream's YAML uses; each a module, or what a plug-in has in its place."""


def format_names() -> list[str]:
    """Names of all formats, as a stream's YAML uses them."""
    return sorted(FORMATS)


def format_of(name: str) -> Any:
    """The format called `name`.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]
