"""Whatever a file holds, `data check` and `data convert` end in a result or in an error that names it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from reading_rows import write_lines
from test_fuzz_data import IMAGES, LLAVA_ROWS, OWN_ROWS, TEST_ROWS, VALUES, WHOLE

from evertune.cli import main as cli
from evertune.tools.data import check, convert
from evertune.tools.data.preview import write_preview
from evertune.tools.data.source import Hints
from evertune.utils.errors import UserError

ONE_FOLDER = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TARGETS = ("t.csv", "t.parquet", "t.jsonl", "t.json")
ONE_TARGET = st.sampled_from([(target,) for target in TARGETS])  # a Parquet file costs two processes


def command(*arguments):
    """(exit code, what was said) of a command in this process; anything but its own exit comes out."""
    before, output = sys.argv, io.StringIO()
    sys.argv = ["evertune", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            cli.main()
        return 0, output.getvalue()
    except SystemExit as stop:
        return stop.code or 0, output.getvalue()
    finally:
        sys.argv = before


def check_all(path, targets=TARGETS, **hints):
    """Check, preview and convert a file to `targets`; what is accepted by the one is accepted by the other."""
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    hints = Hints(**hints)
    try:
        found = check(str(path), hints=hints)
    except UserError as problem:
        assert str(problem)
        return None
    json.dumps(found.as_dict()).encode()
    page = write_preview(found, None, out / "p.html").read_text()
    assert "<script" not in page
    for target in targets:
        try:
            written = convert(path, out / target, hints=hints, skip_invalid=True)
        except UserError as problem:
            assert str(problem) and not (out / target).exists()
        else:
            assert written.rows > 0
            assert not len(check(str(out / target), decode=False, hints=Hints(**_own(written))).errors)
    return found


def _own(written):
    """How the written file is read, as its entry for a YAML says."""
    return {key: written.entry[key] for key in ("format", "options") if key in written.entry}


@pytest.mark.slow
@ONE_FOLDER
@given(st.lists(st.one_of(OWN_ROWS, VALUES), max_size=4), ONE_TARGET)
@example([{"instruction": "q", "answer": "a", "id": 1}] * 3, TARGETS)
@example([{"instruction": "q", "answers": ["a", ""], "extras": {"\ud800": "x"}}], TARGETS)
@example([{"instruction": "\u202eقطة\u2066", "answer": "قطة"}, {"instruction": "q\0", "answer": "a"}], TARGETS)
def test_own_rows(tmp_path, rows, targets):
    check_all(write_lines(tmp_path / "s.jsonl", *map(json.dumps, rows)), targets)


@pytest.mark.slow
@ONE_FOLDER
@given(st.lists(st.one_of(LLAVA_ROWS, TEST_ROWS, VALUES), max_size=4), ONE_TARGET)
@example([{"text": "q", "answer": "a", "\ud800": "x"}], TARGETS)
def test_llava_rows(tmp_path, rows, targets):
    (tmp_path / "s.json").write_text(json.dumps(rows))
    check_all(tmp_path / "s.json", targets, format="llava")


@pytest.mark.slow
@ONE_FOLDER
@given(st.sampled_from(["t.jsonl", "t.json", "t.csv"]), ONE_TARGET, st.data())
def test_damaged_files(tmp_path, file, targets, data):
    content = WHOLE[file].encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    content = content[:start] + data.draw(st.binary(max_size=6)) + content[end:]
    (tmp_path / file).write_bytes(content)
    check_all(tmp_path / file, targets)


@pytest.mark.slow
@ONE_FOLDER
@given(st.binary(max_size=80), st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".yaml", ".txt"]))
@example(b"", ".json")
@example(b"[" * 100_000, ".json")
@example(b"\xff\xfe[\x00]\x00", ".json")
def test_files_of_anything_from_the_command(tmp_path, content, ending):
    path = tmp_path / f"s{ending}"
    path.write_bytes(content)
    for arguments in (["check", path], ["check", path, "--json"], ["convert", path, tmp_path / "none.csv"]):
        code, output = command("data", *arguments)
        assert code in (0, 1, 2) and "Traceback" not in output
        assert output.strip()
    (tmp_path / "none.csv").unlink(missing_ok=True)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(IMAGES), st.data())
def test_damaged_images(tmp_path, content, data):
    """A row's image is sound or a problem of that row; the other rows are always there."""
    start = data.draw(st.integers(0, len(content)))
    changed = content[:start] + data.draw(st.binary(max_size=4)) + content[start + data.draw(st.integers(0, 400)) :]
    (tmp_path / "a").write_bytes(changed)
    for side, name in enumerate(("b.png", "c.png"), start=3):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    rows = [{"image": name, "instruction": "q", "answer": "a"} for name in ("a", "b.png", "c.png")]
    found = check(str(write_lines(tmp_path / "s.jsonl", *rows)))
    assert len(found.errors) + sum(len(half.samples) for half in found.halves) == 3
    assert all("s.jsonl:1: " in text for _, _, output in found.errors.kinds() for _, text in output)


def png(width, height):
    """A PNG whose header promises `width` x `height` pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def odd_images(folder):
    """One image of each kind that the documentation names, and whether it can be used."""
    base = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8))
    exif = base.getexif()
    exif[0x0112] = 6
    base.convert("CMYK").save(folder / "cmyk.jpg")
    base.convert("P").save(folder / "palette.png")
    base.convert("LA").save(folder / "alpha.png")
    base.save(folder / "exif.jpg", exif=exif)
    base.save(folder / "animated.gif", save_all=True, append_images=[base.rotate(90), base.rotate(180)])
    Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    whole = (folder / "exif.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000))
    (folder / "huge.png").write_bytes(png(2**31 - 1, 2**31 - 1))
    (folder / "page.html").write_text("<html>")
    (folder / "ps.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    good = ["cmyk.jpg", "palette.png", "alpha.png", "exif.jpg", "animated.gif", "deep.png"]
    return good, ["cut.jpg", "empty.png", "bomb.png", "huge.png", "page.html", "ps.eps"]


def test_images_of_every_kind(tmp_path, lmm):
    good, bad = odd_images(tmp_path)
    rows = [{"id": name, "image": name, "instruction": "q", "answer": "a"} for name in (*good, *bad)]
    found = check(str(write_lines(tmp_path / "s.jsonl", *rows)), lmm=lmm)
    assert sorted(sample.id for half in found.halves for sample in half.samples) == sorted(good)
    kinds = {kind: count for kind, count, _ in found.errors.kinds()}
    assert kinds == {"broken image": 4, "image too large": 2}
    page = write_preview(found, lmm, tmp_path / "p.html").read_text()
    assert "12 x 20" in page, "EXIF rotation is applied where the image is shown"


@pytest.mark.slow
def test_names_that_lead_out(tmp_path):
    inside, secret = tmp_path / "data", tmp_path / "secret.png"
    inside.mkdir()
    Image.new("RGB", (3, 3)).save(secret)
    for side, name in ((4, "own.png"), (5, "other.png")):
        Image.new("RGB", (side, side)).save(inside / name)
    (inside / "link.png").symlink_to(secret)
    (inside / "up").symlink_to(tmp_path)
    names = [
        str(secret),
        "../secret.png",
        "x/../../secret.png",
        "link.png",
        "up/secret.png",
        "C:\\secret.png",
        "own.png",
        "other.png",
    ]
    rows = [{"id": name, "image": name, "instruction": "q", "answer": "a"} for name in names]
    found = check(str(write_lines(inside / "s.jsonl", *rows)))
    assert {kind: count for kind, count, _ in found.errors.kinds()} == {"image outside": 6}
    code, output = command("data", "check", inside / "s.jsonl")
    assert code == 1 and "image outside: 6" in output
    code, output = command("data", "convert", inside / "s.jsonl", tmp_path / "t.jsonl")
    assert code == 2 and "secret.png" in output and not (tmp_path / "t.jsonl").exists()


def test_huge_texts_and_lines(tmp_path):
    rows = ["x" * 100_001, "y" * 100_000, "ok"]
    file = write_lines(tmp_path / "s.jsonl", *({"instruction": text, "answer": "a"} for text in rows))
    code, output = command("data", "check", file)
    assert code == 1 and "huge text: 1" in output and "long instruction: 1" in output and len(output) < 5_000


@pytest.mark.slow
def test_a_gold_file_of_another_split(tmp_path, published):
    """Answers of TextVQA's training questions for its test rows: a problem of each row, with both files named."""
    place = tmp_path / "data"
    shutil.copytree(published, place)
    shutil.copy(place / "TextVQA" / "TextVQA_0.5.1_train.json", place / "TextVQA" / "TextVQA_0.5.1_val.json")
    code, output = command("data", "check", "coin", "--data", place)
    assert code == 1 and "is it of another split?" in output and "TextVQA_0.5.1_val.json" in output


@pytest.mark.slow
def test_an_annotation_file_of_another_split(tmp_path, published):
    place = tmp_path / "data"
    shutil.copytree(published, place)
    names = [f"v2_mscoco_{part}2014_annotations.json" for part in ("train", "val")]
    shutil.copy(*(place / "VQAv2" / name for name in names))
    arguments = [place / "VQAv2", "--format", "vqav2", "--images", place / "COCO2014"]
    code, output = command("data", "check", *arguments)
    assert code == 1 and "question_id" in output
    code, output = command("data", "convert", *arguments, tmp_path / "t.jsonl", "--split", "test")
    assert code == 2 and "question_id" in output and not (tmp_path / "t.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder.jsonl", "folder.csv", "folder.yaml"])
def test_a_folder_with_the_name_of_a_file(tmp_path, name):
    (tmp_path / name).mkdir()
    for arguments in (["check", tmp_path / name], ["convert", tmp_path / name, tmp_path / "t.csv"]):
        code, output = command("data", *arguments)
        assert code in (1, 2) and "Traceback" not in output


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "s.jsonl"
    os.mkfifo(tmp_path / "pipe.png")
    write_lines(path, {"image": "pipe.png", "instruction": "q", "answer": "a"})
    code, output = command("data", "check", path)
    assert code == 1 and "is no file" in output, "a pipe is not waited for"
    assert Path(path).exists()
