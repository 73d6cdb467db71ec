"""Builders: each makes the rows and images of one kind of task from public data, as an ordinary JSONL folder.

A builder is a module with `ABOUT` (title, source, licence, citation: for `show`), `VERSION` (raise it when the output
changes) and `build(folder, *, train, test, seed, progress, **options)`, which writes `train.jsonl`, `test.jsonl` and
images into `folder`. Train and test never share an image.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from evertune.assets import Progress
from evertune.utils.errors import UserError, unknown
from evertune.utils.files import cache_folder, digest_of, whole_folder, write_atomically, write_jsonl


def builder_names() -> list[str]:
    """Names of all builders, as a stream's YAML uses them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def builder(name: str) -> ModuleType:
    """The builder called `name`."""
    if name not in builder_names():
        raise unknown("builder", name, builder_names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def built(name: str, options: dict[str, Any], *, progress: Progress | None = None) -> Path:
    """Return the folder that `builder(name)` made with `options`, making it first when it is not in the cache."""
    module = builder(name)
    key = digest_of({"builder": name, "version": module.VERSION, **options})[:12]
    folder = cache_folder() / "tasks" / f"{name}-{key}"
    if not (folder / "done").exists():
        with whole_folder(folder, proof="done") as place:
            try:
                module.build(place, progress=progress, **options)
            except TypeError as problem:
                raise UserError(f"builder '{name}' does not take these options: {problem}") from problem
            write_atomically(place / "done", "")
    return folder


def write_rows(folder: Path, split: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write `{split}.jsonl` from (image, instruction, answer) triples."""
    write_jsonl(
        folder / f"{split}.jsonl",
        (
            {"id": f"{split}-{number:05d}", "image": image, "instruction": instruction, "answer": answer}
            for number, (image, instruction, answer) in enumerate(rows)
        ),
    )
