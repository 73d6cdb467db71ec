"""Recognises JPEG, PNG and lossy WebP files whose header bounds the cost of decoding them.

They are decoded in this process; everything else, and every unusual JPEG, PNG or WebP, in a process with limits.
"""

from __future__ import annotations

from evertune.data.image_decoder import MOST_PIXELS

MOST_SEGMENTS = 512
"""Of a JPEG before its first scan: a colour profile has up to 255."""
MOST_SCANS = 64
"""Each may take as long as the whole image, in 42 bytes. Progressive JPEG of the known encoders has about ten."""
MOST_CHUNKS, MOST_OTHERS = 1 << 14, 64
"""Of a PNG; and those that hold no pixels, each of which may unpack to 1 MiB."""
MOST_EXIF = 1 << 16
"""Bytes; each entry may name all of them, so the entries together are at most a thousand times as long."""
PLAIN = {0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""JPEG segments: frames that are sequential or progressive, tables, comments, what applications add."""
SCAN, EXIF, SEQUENTIAL = 0xDA, 0xE1, {0xC0, 0xC1}
CHUNKS = set(b"IHDR PLTE tRNS cHRM gAMA iCCP sBIT sRGB cICP bKGD hIST pHYs sPLT tIME eXIf tEXt zTXt iTXt".split())
EXIF_AS_TEXT = b"Raw profile type"


def is_ordinary(content: bytes) -> bool:
    """Whether this is a JPEG, PNG or lossy WebP whose header bounds its cost; decodes nothing."""
    if content.startswith(b"\xff\xd8"):
        return _is_ordinary_jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _is_ordinary_png(content)
    width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return content.startswith(b"RIFF") and content[8:16] == b"WEBPVP8 " and width * height <= MOST_PIXELS


def _is_ordinary_jpeg(content: bytes) -> bool:
    at, has_exif, parts = 2, False, 0
    for _ in range(MOST_SEGMENTS):
        start, marker = content[at : at + 1], int.from_bytes(content[at + 1 : at + 2])
        if start == b"\xff" and marker == SCAN:
            whole = content[at + 4 : at + 5] == bytes([parts])  # then the decoder reads no other scan
            return whole or content.count(b"\xff\xda", at) <= MOST_SCANS
        if start != b"\xff" or marker not in PLAIN:
            return False
        if marker == EXIF and content.startswith(b"Exif", at + 4):
            if has_exif:
                return False
            has_exif = True
        if marker in SEQUENTIAL:
            parts = int.from_bytes(content[at + 9 : at + 10])
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return False


def _is_ordinary_png(content: bytes) -> bool:
    at, others = 8, 0
    for _ in range(MOST_CHUNKS):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if kind == b"IEND":
            return True
        if kind != b"IDAT":
            others += 1
            large = kind == b"eXIf" and length > MOST_EXIF
            if kind not in CHUNKS or others > MOST_OTHERS or large or content.startswith(EXIF_AS_TEXT, at + 8):
                return False
        at += 12 + length
    return False
