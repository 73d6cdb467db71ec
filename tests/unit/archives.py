"""Wheels made by hand for the tests of packages, with hostile members."""

from __future__ import annotations

import io
import zipfile

FILES = {
    "toy/data/a.svg": b"<svg/>",
    "toy/data/deep/b.svg": b"<svg id='b'/>",
    "toy/data/a.svg.gz": b"packed",
    "toy/code.py": b"raise SystemExit",
    "toy/data/../../../../slipped.svg": b"out",
    "/slipped/toy/data/c.svg": b"out",
}


def zipped(files=FILES):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return held.getvalue()
