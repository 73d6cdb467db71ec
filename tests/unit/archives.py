"""Archives made by hand for the tests of packages: wheels, npm tarballs and Debian packages, with hostile members."""

from __future__ import annotations

import io
import tarfile
import zipfile

FILES = {
    "toy/data/a.svg": b"<svg/>",
    "toy/data/deep/b.svg": b"<svg id='b'/>",
    "toy/data/a.svg.gz": b"packed",
    "toy/code.py": b"raise SystemExit",
    "toy/data/../../../../slipped.svg": b"out",
    "/slipped/toy/data/c.svg": b"out",
}
LINKS = {"toy/data/link.svg": "/etc/hostname", "toy/data/up": "../../../.."}


def zipped(files=FILES):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
    return held.getvalue()


def tarred(files=FILES, *, links=LINKS, start="", mode="w:gz"):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as content:
        for name, target in links.items():
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry = tarfile.TarInfo(start + name)
                entry.type, entry.linkname = kind, target
                content.addfile(entry)
        device = tarfile.TarInfo(start + "toy/data/device.svg")
        device.type = tarfile.CHRTYPE
        content.addfile(device)
        through = tarfile.TarInfo(start + "toy/data/up/slipped.svg")
        content.addfile(through)
        for name, data in files.items():
            entry = tarfile.TarInfo(name if name.startswith("/") else start + name)
            entry.size = len(data)
            content.addfile(entry, io.BytesIO(data))
    return held.getvalue()


def ar(members):
    """An `ar` file: sizes in decimal at byte 48 of a header of 60, members filled up to an even length."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        parts += [
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode(),
            data,
            b"\n" * (len(data) % 2),
        ]
    return b"".join(parts)


def debian(files=FILES, *, compression="xz"):
    data = tarred(files, start="./", mode=f"w:{compression}")
    control = tarred({"control": b"Package: toy\n"}, links={})
    return ar({"debian-binary": b"2.0\n", "control.tar.gz": control, f"data.tar.{compression}": data})
