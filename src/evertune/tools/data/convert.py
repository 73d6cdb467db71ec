"""`evertune data convert` and `data sample`: rows of any readable format into a file that stands alone.

Writes are atomic, and an existing file is replaced only on request.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evertune.data.issues import Issues
from evertune.data.samples import Samples
from evertune.data.sources import SPLITS, read_half, read_whole
from evertune.data.stream import StreamFile
from evertune.tools.data.source import Hints, one_file, reading
from evertune.tools.data.writers import Row, RowFacts, kind_of, writable, writer_of
from evertune.utils.errors import UserError
from evertune.utils.files import digest, whole_file, write_json


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What was written.

    Attributes:
        lost: how many rows had something that the format can't hold, and what.
        numbered: whether rows are called by their numbers, because ids repeat.
        entry: the task as a stream's YAML beside the target would name it.
        skipped: what was left out.
        record: where the seed of a sample is written down.
    """

    target: Path
    rows: int
    lost: dict[str, int]
    numbered: bool
    entry: dict[str, Any]
    skipped: Issues
    record: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": str(self.target),
            "rows": self.rows,
            "lost": self.lost,
            "numbered": self.numbered,
            "entry": self.entry,
            "skipped": self.skipped.counts,
            **({"record": str(self.record)} if self.record else {}),
        }


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What to write where."""

    target: Path
    kind: str
    split: str
    separator: str
    skip_invalid: bool
    force: bool

    def refuse_to_overwrite(self, path: Path) -> None:
        """Raise when there is something at `path` that may not be overwritten."""
        if path.is_dir() or (path.exists() and not self.force):
            raise UserError(f"{path} exists; choose another name" + ("" if path.is_dir() else ", or say --force"))


def convert(
    source: Path,
    target: Path,
    *,
    to: str | None = None,
    hints: Hints | None = None,
    split: str = "train",
    separator: str = "|",
    skip_invalid: bool = False,
    force: bool = False,
) -> ConversionResult:
    """Write the rows of `source` to `target`.

    Args:
        source: a file, or the folder of a data set, whose format `hints` say.
        target: its ending, or `to`, decides how it is written: `jsonl`, `llava` or `table`.
        to: needed where the ending is not enough: LLaVA rows as JSON Lines.
        hints: how `source` is read; default: by its ending.
        split: of a data set; and whether LLaVA's conversations (`train`) or its questions (`test`) are written.
        separator: between several answers in a cell of CSV or TSV.
        skip_invalid: leave out rows that can't be used or written.
        force: overwrite `target`.

    Raises:
        UserError: `target` exists; DataError: a row can't be used or written. Nothing was written then.
    """
    request = _request(target, to, split, separator, skip_invalid=skip_invalid, force=force)
    samples, skipped = _read(source, hints or Hints(), request)
    return _write(samples, request, skipped)


def sample(
    source: Path,
    target: Path,
    *,
    count: int,
    seed: int = 0,
    to: str | None = None,
    hints: Hints | None = None,
    split: str = "train",
    separator: str = "|",
    skip_invalid: bool = False,
    force: bool = False,
) -> ConversionResult:
    """Write `count` rows of `source`, drawn without repetition and in their order; the same ones for the same seed.

    The seed is written down in `TARGET.sample.json`, and in a Parquet file itself. The other arguments are those of
    `convert`.

    Raises:
        UserError: there are fewer rows; else as `convert`.
    """
    request = _request(target, to, split, separator, skip_invalid=skip_invalid, force=force)
    record = target.with_name(f"{target.name}.sample.json")
    request.refuse_to_overwrite(record)
    samples, skipped = _read(source, hints or Hints(), request)
    if not 1 <= count <= len(samples):
        raise UserError(f"{source} has {len(samples):,} rows that can be used; {count:,} can't be drawn from them")
    drawn = sorted(random.Random(seed).sample(range(len(samples)), count))
    content = {
        "source": str(source),
        "split": split,
        "source_rows": len(samples),
        "source_texts": digest(np.ascontiguousarray(samples.rows.texts).tobytes())[:16],
        "count": count,
        "seed": seed,
    }
    return _write(samples.choose(samples.chosen[drawn]), request, skipped, record=record, content=content)


def _request(
    target: Path, to: str | None, split: str, separator: str, *, skip_invalid: bool, force: bool
) -> ConversionRequest:
    if split not in SPLITS:
        raise UserError(f"split '{split}': it is {' or '.join(SPLITS)}")
    request = ConversionRequest(target, kind_of(target, to), split, separator, skip_invalid, force)
    request.refuse_to_overwrite(target)
    return request


def _read(source: Path, hints: Hints, request: ConversionRequest) -> tuple[Samples, Issues]:
    if not source.exists():
        raise UserError(f"{source} does not exist")
    entry = one_file(source, hints)
    how = reading(StreamFile(name=entry.name, tasks=[entry]), source)
    samples = read_half(entry, how, request.split) if entry.root else read_whole(entry, how, split=request.split)
    if not request.skip_invalid:
        how.problems.refuse(stream=str(source), outcome="written")
    return samples, how.problems


def _write(
    samples: Samples,
    request: ConversionRequest,
    skipped: Issues,
    *,
    record: Path | None = None,
    content: dict[str, Any] | None = None,
) -> ConversionResult:
    about = {"evertune sample": json.dumps(content)} if content else {}
    writer = writer_of(request.kind, request.target, split=request.split, separator=request.separator, about=about)
    facts = _facts(samples)
    unwritten = Issues()
    with whole_file(request.target) as path:
        writer.write(path, writable(_rows(samples), writer, facts, unwritten), facts)
        if not request.skip_invalid:
            unwritten.refuse(stream=str(request.target), outcome="written")
        if len(unwritten) == len(samples):
            raise UserError(f"{request.target}: no row can be written")
        if record:
            write_json(record, {**(content or {}), "rows": [samples.rows[int(at)]["id"] for at in samples.chosen]})
        request.refuse_to_overwrite(request.target)
    entry = _entry(samples, request, writer.options(facts))
    skipped.merge(unwritten)
    rows = len(samples) - len(unwritten)
    return ConversionResult(request.target, rows, writer.lost(facts), not facts.own_ids, entry, skipped, record)


def _rows(samples: Samples) -> Iterator[Row]:
    return (samples.rows[at] for at in samples.chosen.tolist())


def _facts(samples: Samples) -> RowFacts:
    facts = RowFacts()
    ids = np.empty(len(samples), np.int64)
    extras: dict[str, None] = {}
    for number, row in enumerate(_rows(samples)):
        ids[number] = hash(row["id"])
        facts.several_images += len(row["images"]) > 1
        facts.several_answers += len(row["answers"]) > 1
        facts.with_extras += bool(row.get("extras"))
        extras |= dict.fromkeys(row.get("extras", {}))
    facts.extras = list(extras)
    facts.own_ids = len(np.unique(ids)) == len(ids)
    return facts


def _entry(samples: Samples, request: ConversionRequest, options: dict[str, Any]) -> dict[str, Any]:
    here, root = request.target.parent.resolve(), samples.seen.root
    relative = os.path.relpath(root, here)
    images = str(root) if relative.startswith("../..") else relative
    return {
        "name": request.target.stem,
        **({"format": request.kind} if request.kind != "jsonl" else {}),
        "data": request.target.name,
        **({"images": images} if root != here else {}),
        **({"options": options} if options else {}),
    }
