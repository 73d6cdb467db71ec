"""Images: read as they are seen, the same everywhere; what is broken, too large or outside is named."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from reading_rows import colour, faults, read, write_lines

from evertune.data import images
from evertune.data.images import leads_out, open_image, read_image
from evertune.utils.errors import DataError


def seen(path):
    return open_image(path, origin="x.jsonl:1")


def rows_of(folder, *names):
    rows = [{"image": name, "instruction": "what?", "answer": "red", "id": at} for at, name in enumerate(names)]
    return write_lines(folder / "task.jsonl", *rows)


def test_transparency_grey_and_rotation(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert seen(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (4, 4), 9).save(tmp_path / "grey.png")
    assert seen(tmp_path / "grey.png").getpixel((0, 0)) == (9, 9, 9)
    turned = Image.new("RGB", (4, 2), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert seen(tmp_path / "turned.jpg").size == (2, 4)


def test_palette_cmyk_and_animation(tmp_path):
    Image.new("RGB", (4, 4), "red").quantize(4).save(tmp_path / "palette.png")
    assert seen(tmp_path / "palette.png").getpixel((0, 0)) == (255, 0, 0)
    clear = Image.new("P", (4, 4), 0)
    clear.putpalette([255, 0, 0])
    clear.save(tmp_path / "clear.gif", transparency=0)
    assert seen(tmp_path / "clear.gif").getpixel((0, 0)) == (255, 255, 255)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red, green, blue = seen(tmp_path / "print.jpg").getpixel((4, 4))
    assert red > 245 and green < 10 and blue < 10
    frames = [Image.new("RGB", (4, 4), name) for name in ("red", "blue")]
    for kind in ("gif", "webp", "png"):
        frames[0].save(tmp_path / f"moving.{kind}", save_all=True, append_images=frames[1:], lossless=True)
        assert seen(tmp_path / f"moving.{kind}").getpixel((0, 0)) == (255, 0, 0), kind


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, kind):
    values = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{kind}")
    assert np.asarray(seen(tmp_path / f"deep.{kind}"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_values_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.array([[0.1, 3.0]], dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"x.jsonl:1: the image .*float.tif has values of 32 bits"):
        seen(tmp_path / "float.tif")


def bomb(side):
    """A PNG whose header promises side x side pixels; a few hundred bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_500, 14_000, 100_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side, recwarn, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"x.jsonl:1: the image .*bomb.png .*pixels"):
        seen(tmp_path / "bomb.png")
    assert not [w for w in recwarn.list if issubclass(w.category, Image.DecompressionBombWarning)]


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    colour(tmp_path, "a.png")
    monkeypatch.setattr(images, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="has 0 MiB"):
        seen(tmp_path / "a.png")


def test_no_interpreter_is_started(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="not an image"):
        seen(tmp_path / "a.png")


def test_the_hash_is_of_what_was_decoded(tmp_path):
    import hashlib

    colour(tmp_path, "a.png")
    assert read_image(tmp_path / "a.png", origin="")[1] == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()


@pytest.mark.slow
def test_broken_images_are_named_with_their_row(tmp_path):
    colour(tmp_path, "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    contents = {"empty": b"", "text": b"not an image", "half": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    samples, problems = read("jsonl", rows_of(tmp_path, "good.png", "empty.png", "gone.png", "text.png", "half.png"))
    assert not problems and len(samples) == 5
    messages = faults(samples)
    assert [s.id for s in samples.whole()] == ["0"]
    assert "task.jsonl:2: the image" in messages[0] and "is empty (0 bytes)" in messages[0]
    assert "task.jsonl:3: the image" in messages[1] and "does not exist" in messages[1]
    assert "task.jsonl:4: the image" in messages[2] and "not an image" in messages[2]
    assert "task.jsonl:5: the image" in messages[3] and "broken" in messages[3]


def test_links_out_of_the_root(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    colour(outside, "secret.png")
    colour(root, "a.png")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "inner.png").symlink_to(root / "a.png")
    path = rows_of(root, "a.png", "inner.png", "link.png", "folder/secret.png")
    samples, _ = read("jsonl", path)
    messages = faults(samples)
    assert [s.id for s in samples.whole()] == ["0", "1"]
    assert len(messages) == 2 and all("is a link to outside" in message for message in messages)
    allowed, _ = read("jsonl", path, allow_external_paths=True)
    assert not faults(allowed) and len(allowed) == 4


def test_names_outside_are_allowed_when_the_task_says_so(tmp_path):
    colour(tmp_path / "elsewhere", "b.png")
    path = rows_of(tmp_path / "elsewhere", "../elsewhere/b.png", str(tmp_path / "elsewhere" / "b.png"))
    refused, problems = read("jsonl", path)
    assert len(refused) == 0 and len(problems) == 2
    allowed, problems = read("jsonl", path, allow_external_paths=True)
    assert not problems and not faults(allowed) and len(allowed) == 2


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("a/b.png", False),
        ("a..b.png", False),
        ("./a.png", False),
        ("a/../b.png", False),
        ("..png", False),
        ("http:x.png", False),
        ("../a.png", True),
        ("a/../../b.png", True),
        ("/a.png", True),
        ("..", True),
        ("..\\a.png", True),
        ("C:\\a.png", True),
        ("c:/a.png", True),
        ("\\\\host\\a.png", True),
    ],
)
def test_which_names_lead_out(name, out):
    assert leads_out(name) == out
