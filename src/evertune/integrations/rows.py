"""Rows of a Trainer's data set as samples: methods draw, keep and replay them without knowing what is in them.

A sample is a reference to its row here. A row that a method keeps is held by its content, and goes into checkpoints as
tensors and JSON: nothing is ever pickled.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from evertune.data.task import Sample, Subset
from evertune.training.states import split_state
from evertune.utils.errors import UserError

Row = Any
"""What the data set has at an index, usually a dict; its collator reads it."""
KEPT = "kept/"
PROMPT, ANSWER = "prompt ", "answer "
"""Before the reference to a row: what its text is."""
ARRAY, BYTES, PNG, LIST = "$array", "$bytes", "$png", "$list"


class Rows:
    """The rows of the task's data set, and those that methods keep.

    Args:
        dataset: has a length, and a row at each index.
        kept: rows of earlier tasks by the digest of their content; grows in place.
    """

    def __init__(self, dataset: Any, kept: dict[str, Row]) -> None:
        self._dataset, self._kept = dataset, kept
        self.samples: Sequence[Sample] = _References(len(dataset))

    def of(self, reference: str) -> Row:
        """The row of a sample's `id`."""
        if reference.startswith(KEPT):
            return self._kept[reference.removeprefix(KEPT)]
        return self._dataset[int(reference)]

    def keep(self, sample: Sample) -> Sample:
        """The same sample, with a row that stays when the data set is gone.

        Raises:
            UserError: a value of the row is of a kind that can't be saved.
        """
        row = self.of(sample.id)
        key = split_state({"row": packed(row)}).fingerprint
        self._kept[key] = row
        return _reference(f"{KEPT}{key}")


class _References(Sequence[Sample]):
    """A sample for every row of a data set; none is read."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | Sequence[Sample]:
        places = range(self._count)[at]
        return Subset(self, places) if isinstance(places, range) else _reference(str(places))


def _reference(name: str) -> Sample:
    return Sample(name, (), f"{PROMPT}{name}", (f"{ANSWER}{name}",), origin=f"row {name}")


class PlannedDataset(Dataset[Row]):
    """What a Trainer reads in place of its data set, where methods add rows to it."""

    def __init__(self, rows: Rows, plan: Sequence[Sample]) -> None:
        self._rows, self._plan = rows, plan

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, at: int) -> Row:
        return self._rows.of(self._plan[int(at)].id)


def packed(value: Any) -> Any:
    """A row as nested dicts of tensors and JSON values (`split_state`).

    Raises:
        UserError: a value is of another kind.
    """
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return {ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, bytes):
        return {BYTES: _tensor_of(value)}
    if isinstance(value, Image.Image):
        content = io.BytesIO()
        value.save(content, format="PNG")
        return {PNG: _tensor_of(content.getvalue())}
    if isinstance(value, Mapping):
        return {str(key): packed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        parts = [packed(inner) for inner in value]
        plain = all(not isinstance(part, Tensor | dict) for part in parts)
        return parts if plain else {LIST: {str(at): part for at, part in enumerate(parts)}}
    raise UserError(
        f"a row that a method keeps has a value of type {type(value).__name__}, which can't be saved: take numbers, "
        "text, bytes, tensors, arrays, PIL images, and lists and dicts of these"
    )


def unpacked(value: Any) -> Any:
    """The reverse of `packed`; tuples have become lists."""
    if not isinstance(value, Mapping):
        return value
    kind = next(iter(value)) if len(value) == 1 else None
    if kind not in (ARRAY, BYTES, PNG, LIST):
        return {key: unpacked(part) for key, part in value.items()}
    inner = value[kind]
    if kind == LIST:
        return [unpacked(inner[str(at)]) for at in range(len(inner))]
    array = inner.numpy()
    return array if kind == ARRAY else array.tobytes() if kind == BYTES else _image_of(array.tobytes())


def _image_of(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=["PNG"])
    image.load()
    return image


def _tensor_of(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
