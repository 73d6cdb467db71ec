"""Sizes in bytes, as users write and read them: `2GB`, `512 MB`."""

from __future__ import annotations

import math
import re

UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_written = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?) *([kmgt]?)(i?)b?", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """`2GB`, `1.5 TB` (powers of 1000), `2GiB` (of 1024) or a plain number of bytes.

    Raises:
        ValueError: it is none of these.
    """
    found = _written.fullmatch(text.strip())
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    if not found or not number <= 1e18:
        raise ValueError(f"{text[:40]!r} is no size: write 2GB, 500MB or a number of bytes")
    return round(number * float((1024 if found[3] else 1000) ** UNITS[found[2].upper()]))


def size(count: float) -> str:
    """Bytes as `512 bytes`, `12.3 kB`, `4.5 MB` (powers of 1000)."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
