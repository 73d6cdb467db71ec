"""Images that cost more than their header says: decoded in a process with limits, and refused in one line there."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, features

from evertune.data import image_decoder, images
from evertune.data.images import format_of, image_of_bytes, pixels_of_bytes
from evertune.data.ordinary_images import is_ordinary
from evertune.utils.errors import DataError
from evertune.utils.worker_process import pool_of

AVIF = (
    "c-muNU{FXasVqn=%S>Yc0uY^>nP!-qnV9D5Xy^nKdYzkElE?r7iWw<6MNl?FL1uCZ0~+8f$SlbPvlxL`E;A=T8N_h`@fjhajKT~ItmlAijm*rv"
    "G`LzRASaax%1bOWFm%q($p_n&m03_!0HnP$3zGAJv`A)gK`PWf2PhUO$gIc&2{3bTZ~!Tu#4<zYMtL5PkZ^K-PElTRP6g0pUIw-XppbZGK`zWs"
    "K!>p~GBvXRU3D!tC9y<^fs0%Id*1!swTqafcsY#ra0~DqZ*Psf|NsA^^9L9hBF~@Fi@GY$=gT7H+&brpay;jMjtpM0*d5OewCC^bx~ic4LnQOS"
    "r7iY1ESiqG?k<rL-|f)#a{5)4wwql=!J9LzUBfKC-*0V*U`@EyaDTFkbKuGC#jF))UYExVW1|n=RoU*#)Fjyc_q@crxo1|K&N6%!^8MMHua|d)"
    "SIA$gZ&qTvRUo&fj&YXVoez%s{{=n8Vlp3$hV^JzkA^iVu3j)Sjiyyl=K%mvk>?}"
)
"""A frame of 12,000 x 12,000 pixels whose container says 64 x 64."""


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(tags, data):
    """A TIFF of these (tag, type, count, value); -1 stands for where `data` begins."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count) + struct.pack("<I", start if value < 0 else value)
        for tag, kind, count, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def large_tile(side=12_000):
    packer = zlib.compressobj()
    data = b"".join([packer.compress(bytes(side)) for _ in range(side)] + [packer.flush()])
    size = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff([*size, (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, -1), (325, 4, 1, len(data))], data)


def entries_of_the_same_bytes():
    size = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, -1)]
    more = [(40_000 + number, 1, 1 << 20, -1) for number in range(200)]
    return tiff([*size, (279, 4, 1, 64), *more], bytes(1 << 20))


def small_comment_blocks(size=2 << 20):
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff\x21\xfe" + b"\1A" * (size // 2)
    return head + b"\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0\x3b"


def skipped_rows(width=1_000_000):
    data, offset = b"\0\2\0\xff\0\1", 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, width, 1, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + bytes(1024) + data


def small_exif_segments(size):
    plain = encoded(Image.new("RGB", (8, 8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 16) + b"Exif\0\0" + b"A" * 8
    return plain[:2] + segment * (size // len(segment)) + plain[2:]


def scans(number):
    """A progressive JPEG whose last scan stands `number` times more in it."""
    plain = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * number + plain[-2:]


def frame_of_another_size():
    return zlib.decompress(base64.b85decode(AVIF))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [large_tile, entries_of_the_same_bytes, small_comment_blocks, skipped_rows, frame_of_another_size]
)
def test_an_image_that_costs_more_than_its_header_says_is_one_line(make):
    if make is frame_of_another_size and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = memory()
    try:
        image_of_bytes(make(), where="here")
        said = ""
    except DataError as caught:
        said = str(caught)
    cheap = make is skipped_rows and int(PIL.__version__.partition(".")[0]) < 11  # decoded there within its size
    assert cheap or re.fullmatch(r"here (takes far more (memory|time)|is broken).*", said), said
    assert memory() - before < 64 << 10, "kB of this process"
    assert image_of_bytes(encoded(Image.new("RGB", (4, 4)), "BMP"), where="here")[0].size == (4, 4), "the next one"


def memory():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def test_what_is_decoded_in_this_process_is_bounded_by_its_structure():
    image, exif = Image.new("RGB", (64, 64), "red"), Image.Exif()
    exif[0x0112] = 6
    sound = [encoded(image, "JPEG", exif=exif, icc_profile=bytes(200_000), comment="c" * 60_000)]
    sound += [encoded(image, "JPEG", progressive=True), encoded(image, "MPO", save_all=True, append_images=[image])]
    sound += [encoded(image, "JPEG") + b"\xff\xda" * 1_000, encoded(image, "PNG", exif=exif), scans(20)]
    sound += [encoded(image, "WEBP")]
    assert [is_ordinary(content) for content in sound] == [True] * len(sound)
    png = encoded(image, "PNG")
    chunk = b"\0\0\0\1tEXta" + struct.pack(">I", zlib.crc32(b"tEXta"))
    odd = [scans(1_000), small_exif_segments(1_000), b"\xff\xd8" + b"\xff" * 10_000, png[:33] + chunk * 100 + png[33:]]
    odd += [encoded(image, "PNG", save_all=True, append_images=[image.rotate(1), image.rotate(9, expand=True)])]
    odd += [encoded(image, "PNG", exif=bytes(100_000)), png[:-30], png[:20], b"\xff\xd8\xff", b"\xff\xd8", b"", b"BM"]
    odd += [encoded(image, kind) for kind in ("GIF", "TIFF", "BMP", "TGA", "PPM")]
    odd += [encoded(image, "WEBP", exif=exif), encoded(image, "WEBP", lossless=True)]
    odd += [sound[-1][:26] + b"\xff\x3f\xff\x3f" + sound[-1][30:]]
    assert [is_ordinary(content) for content in odd] == [False] * len(odd)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (300, 200), (700, 900)])
def test_a_process_with_limits_decodes_the_same(kind, size):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    content = encoded(Image.fromarray(values), kind)
    for action, options in (("rgb", {}), ("thumbnail", {"side": 100})):
        here = image_decoder.decoded(action, content, **options)
        there = images._decoded_elsewhere(action, content, options)
        assert here.mode == there.mode and here.tobytes() == there.tobytes()
    for action in ("described", "measured"):
        here, there = image_decoder.decoded(action, content), images._decoded_elsewhere(action, content, {})
        assert there.items() >= here.items()
    assert format_of(content, where="") == kind and pixels_of_bytes(content, where="") == size[0] * size[1]


@pytest.mark.slow
def test_images_of_many_threads_and_forks():
    contents = [encoded(Image.new("RGB", (40, 40), (value, 0, 0)), "BMP") for value in range(40)]

    def red(content):
        return image_of_bytes(content, where="")[0].getpixel((0, 0))[0]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(red, contents)) == list(range(40))
    assert len(pool_of(Path(image_decoder.__file__))._idle) <= 4
    child = os.fork()
    if not child:
        os._exit(0 if red(contents[7]) == 7 else 1)
    assert os.waitpid(child, 0)[1] == 0
    for worker in pool_of(Path(image_decoder.__file__))._idle:
        worker._process.send_signal(signal.SIGKILL)
        worker._process.wait()
    assert red(contents[9]) == 9, "another one is started"


@pytest.mark.slow
def test_the_decoder_imports_nothing_of_evertune():
    code = (
        "import runpy, sys, io; sys.stdin = io.TextIOWrapper(io.BytesIO());"
        f"runpy.run_path({image_decoder.__file__!r}, run_name='__main__');"
        "print({'torch', 'evertune', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True).strip() == "set()"
