"""The header of a safetensors file, checked before anything of the file is mapped, allocated or copied.

The library checks much of it too; here the checks are ours, the limits are tighter, and a mistake is one line that
names the file and the tensor. Only the header is read: 8 bytes with its length, then JSON.
Source of the format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.utils.errors import UserError
from evertune.utils.parsing import json_value

LONGEST_HEADER = 64 << 20
"""Bytes: the notes of a long stream's state stand in it too; a hundred thousand tensors need a tenth."""
MOST_TENSORS = 1_000_000
MOST_DIMENSIONS = 16
_NAMES = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "I16 U16 F16 BF16",
    32: "I32 U32 F32",
    64: "I64 U64 F64 C64",
}
BITS = {name: bits for bits, names in _NAMES.items() for name in names.split()}
"""Of one number of each kind that the format knows."""
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a header says of one tensor; `start` and `end` are its bytes behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file by name, when its header is sound and tells of this very file.

    Raises:
        UserError: it is missing, no regular file, or its header is not; the message names the file and the tensor.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep us waiting
        with os.fdopen(handle, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise UserError(f"{path}: its header would take {length:,} bytes of {size:,}: it is cut off or damaged")
            if length > LONGEST_HEADER:
                raise UserError(f"{path}: its header takes {length >> 20} MiB; at most {LONGEST_HEADER >> 20} are read")
            text = file.read(length)
    except (OSError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{path} can't be read: {getattr(problem, 'strerror', None) or problem}") from problem
    return _stored(_content(text, path), size - 8 - length, path)


def _content(text: bytes, path: Path) -> Mapping[str, Any]:
    try:
        content = json_value(text.decode())
    except ValueError as problem:
        raise UserError(f"{path}: its header is no JSON ({problem})") from problem
    if not isinstance(content, dict):
        raise UserError(f"{path}: its header is no object")
    notes = content.pop(METADATA, {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise UserError(f"{path}: the metadata in its header are no texts")
    if len(content) > MOST_TENSORS:
        raise UserError(f"{path}: {len(content):,} tensors; at most {MOST_TENSORS:,} are read")
    return content


def _stored(content: Mapping[str, Any], size: int, path: Path) -> dict[str, TensorHeader]:
    """Every tensor begins where the one before ends, from the first byte to the last."""
    found = {name: _tensor(entry, f"{path}: tensor '{name}'") for name, entry in content.items()}
    at = 0
    for name, one in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if one.start != at:
            what = "overlaps another one" if one.start < at else "leaves a gap before it"
            raise UserError(f"{path}: tensor '{name}' begins at byte {one.start:,}, not {at:,}: it {what}")
        at = one.end
    if at != size:
        raise UserError(f"{path}: its tensors take {at:,} bytes, the file has {size:,} of them")
    return found


def _tensor(entry: Any, where: str) -> TensorHeader:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise UserError(f"{where}: dtype, shape and data_offsets are needed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UserError(f"{where}: dtype {str(dtype)[:20]!r} is none that is known")
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise UserError(f"{where}: its shape is no list of at most {MOST_DIMENSIONS} whole numbers")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise UserError(f"{where}: its offsets are no two whole numbers")
    bits = BITS[dtype]
    for side in shape:
        bits *= side  # Python's numbers don't overflow
    if bits != 8 * (offsets[1] - offsets[0]):
        raise UserError(
            f"{where}: {dtype} of shape {shape} takes {bits // 8:,} bytes, its offsets say {offsets[1] - offsets[0]:,}"
        )
    return TensorHeader(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 63 for one in value)
