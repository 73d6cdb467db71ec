"""Whatever a file holds, reading it ends in samples or in a DataError or UserError that names it."""

from __future__ import annotations

import io
import json
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from reading_rows import faults, read

from evertune.data.images import leads_out, open_image
from evertune.data.prompts import filled
from evertune.data.row_checks import LONGEST_TEXT
from evertune.utils.errors import DataError, UserError

ONE_FOLDER = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["a.png", "../a.png", "/etc/passwd", "a\0b", "\ud800", "\u202eabc", "<image>", "", " ", "{x}"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
TURNS = st.lists(
    st.fixed_dictionaries({}, optional={"from": st.sampled_from(["human", "gpt", "x", 1]), "value": VALUES})
)
OWN_ROWS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "image", "images", "instruction", "answer", "answers", "other"), VALUES)
)
LLAVA_ROWS = st.fixed_dictionaries(
    {"conversations": st.one_of(VALUES, TURNS)},
    optional=dict.fromkeys(("id", "image", "question_id", "text", "answer"), VALUES),
)
TEST_ROWS = st.fixed_dictionaries(
    {"text": VALUES}, optional=dict.fromkeys(("image", "question_id", "id", "answer", "size", "type"), VALUES)
)


def look_at_all(name, path, **options):
    """Read everything as a training would; what can't be used has a message, what can be used is whole."""
    try:
        samples, problems = read(name, path, **options)
    except (DataError, UserError) as problem:
        assert str(problem)
        return
    assert all(path.name in message for message in problems + faults(samples))
    for sample in samples:
        assert sample.instruction.strip() and sample.answers and len(sample.instruction) <= LONGEST_TEXT
        assert sample.answers[0].strip() and not any("\0" in answer for answer in sample.answers)
        assert all(image.is_relative_to(path.parent.resolve()) for image in sample.images)
        (sample.id + sample.instruction + "".join(sample.answers)).encode()
    for sample in samples.whole():
        assert len(sample.fingerprint) == 64


@pytest.mark.slow
@ONE_FOLDER
@given(st.lists(st.one_of(OWN_ROWS, VALUES), max_size=4))
@example([{"instruction": "q", "answer": "a", "id": 1}] * 3)
@example([{"instruction": "\ud800", "answer": "a"}, {"instruction": "q", "answer": "a", "id": "\udfff"}])
@example([{"instruction": "q\0", "answer": "a"}, {"instruction": "q", "answers": ["a", "\0"]}])
@example([{"images": ["a.png", "a\n.png"], "instruction": "q", "answers": ["a", "\u202e"]}])
def test_own_rows(tmp_path, rows):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    look_at_all("jsonl", tmp_path / "t.jsonl")
    (tmp_path / "t.json").write_text(json.dumps(rows))
    look_at_all("jsonl", tmp_path / "t.json")


@pytest.mark.slow
@ONE_FOLDER
@given(st.lists(st.one_of(LLAVA_ROWS, TEST_ROWS, VALUES), max_size=4))
def test_llava_rows(tmp_path, rows):
    (tmp_path / "t.json").write_text(json.dumps(rows))
    look_at_all("llava", tmp_path / "t.json")


@pytest.mark.slow
@ONE_FOLDER
@given(
    st.lists(st.dictionaries(st.sampled_from(["image", "instruction", "answer", "x"]), TEXTS, min_size=1), max_size=4)
)
def test_table_rows(tmp_path, rows):
    lines = [",".join(f'"{row.get(key, "")}"' for key in ("image", "instruction", "answer")) for row in rows]
    text = "\n".join(["image,instruction,answer", *lines])
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    look_at_all("table", tmp_path / "t.csv")


WHOLE = {
    "t.jsonl": '{"id": "1", "instruction": "q?", "answer": "a"}\n{"instruction": "r?", "answers": ["b", "c"]}\n',
    "t.json": '[{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},\n {"x": 12.5}]',
    "t.csv": 'image,instruction,answer\n"a.png","q ""x""",b\n,r,c\n',
}


@pytest.mark.slow
@ONE_FOLDER
@given(st.sampled_from([("jsonl", "t.jsonl"), ("llava", "t.json"), ("table", "t.csv")]), st.data())
def test_damaged_files(tmp_path, kind, data):
    """Bytes of a good file cut out, doubled or changed."""
    name, file = kind
    content = WHOLE[file].encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    content = (
        content[:start] + data.draw(st.one_of(st.binary(max_size=6), st.just(content[start:end] * 2))) + content[end:]
    )
    (tmp_path / file).write_bytes(content)
    look_at_all(name, tmp_path / file)


@pytest.mark.slow
@ONE_FOLDER
@given(st.binary(max_size=60))
@example(b"PAR1" + bytes(20) + b"PAR1")
def test_a_parquet_file_of_anything(tmp_path, content):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(content)
    look_at_all("table", tmp_path / "t.parquet")


def _images():
    made = Image.new("RGB", (24, 16), "red")
    made.putpixel((3, 3), (0, 255, 0))
    exif = made.getexif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "TGA"):
        buffer = io.BytesIO()
        made.save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
        yield buffer.getvalue()


IMAGES = list(_images())


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(range(len(IMAGES))), st.integers(0, 2**32), st.integers(0, 12))
def test_damaged_images(tmp_path, which, seed, changes):
    """An image or a DataError, whatever was changed in it."""
    choose, content = random.Random(seed), bytearray(IMAGES[which])
    for _ in range(changes):
        content[choose.randrange(min(len(content), 600))] = choose.randrange(256)
    if choose.random() < 0.2:
        content = content[: choose.randrange(len(content))]
    (tmp_path / "a.bin").write_bytes(content)
    try:
        image = open_image(tmp_path / "a.bin", origin="t.jsonl:1")
    except DataError as problem:
        assert str(problem).startswith("t.jsonl:1: the image")
    else:
        assert image.mode == "RGB" and min(image.size) > 0


@pytest.mark.slow
@given(st.text(alphabet="ab./\\:. C", max_size=12))
def test_a_name_that_stays_inside_resolves_inside(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp()
    if name.strip() and not leads_out(name):
        assert (root / name).resolve().is_relative_to(root)


@pytest.mark.slow
@given(st.text(max_size=20), st.dictionaries(st.sampled_from("abc"), st.text(max_size=8)))
def test_templates(template, fields):
    try:
        text = filled(template, fields, origin="x")
    except DataError as problem:
        assert "the prompt names" in str(problem)
    else:
        assert isinstance(text, str)
