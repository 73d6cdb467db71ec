"""Images inside of a table: VLMEvalKit's base64, Parquet of the hub; and why other readers refuse them."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from reading_rows import colour, read, write_lines

from evertune.data import load_stream
from evertune.data.embedded import EmbeddedImages, is_inside
from evertune.tools.data import check
from evertune.tools.data.source import Hints
from evertune.utils.errors import UserError


def content(value, kind="PNG", side=16):
    stream = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def text(value, kind="PNG", side=16):
    return base64.b64encode(content(value, kind, side)).decode()


def shown(sample):
    return [path.read_bytes() for path in sample.images]


def stream_of(folder, **task):
    (folder / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [{"name": "t", **task}]}))
    return load_stream(str(folder / "s.yaml"), decode=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_base64_as_vlmevalkit_writes_it(tmp_path, kind):
    """Case 16, base64.tsv: JPEGs begin with /9j/ and were taken for names of files."""
    rows = [f"{n}\t{text(9 * n + 1, kind)}\tWhich {n}?\tA" for n in range(5)]
    (tmp_path / "t.tsv").write_text("\n".join(["index\timage\tquestion\tanswer", *rows]))
    (task,) = stream_of(tmp_path, format="table", data="t.tsv", options={"instruction": "question"}).tasks
    found = {sample.instruction: shown(sample) for sample in (*task.train, *task.test)}
    assert {n: found[f"Which {n}?"] for n in range(5)}.keys() == set(range(5)) and len(task.test) == 1
    for n in range(5):
        (image,) = found[f"Which {n}?"]
        assert base64.b64encode(image).decode() == rows[n].split("\t")[1]


def test_a_large_cell_several_images_and_the_index_of_another_row(tmp_path):
    """Case 16, base64-large.tsv: Python's csv takes 131,072 characters unless it is told."""
    large, small = text(200, side=300), text(3)
    assert len(large) > 131_072
    cells = [large, f"['{small}', '{large}']", "7", "99", small]
    rows = [f"{7 + n}\t{cell}\tq{n}\tA" for n, cell in enumerate(cells)]
    (tmp_path / "t.TSV").write_text("\n".join(["index\timage\tquestion\tanswer", *rows]))
    options = {"instruction": "question"}
    from evertune.data.formats import table

    folder = table.images(tmp_path / "t.TSV", split="train", **options)
    samples, problems = read("table", tmp_path / "t.TSV", images=folder, **options)
    assert [[len(image) for image in shown(sample)] for sample in samples] == [
        [len(base64.b64decode(x)) for x in images] for images in ([large], [small, large], [large], [small])
    ]
    assert len(problems) == 1 and "row 4: '99' is neither an image nor the 'index' of a row above" in problems[0]


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_parquet_of_the_hub(tmp_path, several):
    """Case 16, hub.parquet: `{bytes, path}`, and class labels as numbers."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": content(9 * n + 1), "path": f"{n}.png"} for n in range(5)]
    columns = {
        "image": [[cell] * 2 for cell in cells] if several else [*cells[:4], None],
        "question": [f"Which {n}?" for n in range(5)],
        "answer": [0, 1, 0, 1, 1],
    }
    about = {"info": {"features": {"answer": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    made = pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps(about)})
    parquet.write_table(made, tmp_path / "t.parquet")
    options = {"instruction": "question"}
    (task,) = stream_of(tmp_path, format="table", data="t.parquet", options=options).tasks
    found = {sample.instruction: sample for sample in (*task.train, *task.test)}
    for n in range(5):
        sample = found[f"Which {n}?"]
        wanted = [content(9 * n + 1)] * (2 if several else 1) if several or n < 4 else []
        assert shown(sample) == wanted and sample.answers == (("cat", "dog")[columns["answer"][n]],)
    assert not len(check(str(tmp_path / "t.parquet"), hints=Hints(options=options)).errors)
    with pytest.raises(UserError, match="the images are inside .*t.parquet: remove 'images'"):
        stream_of(tmp_path, format="table", data="t.parquet", options=options, images=".")


@pytest.mark.slow
def test_a_label_that_is_missing_is_no_answer(tmp_path):
    """The hub writes -1 for labels that it keeps back: no class, and no answer either."""
    pyarrow, datasets = pytest.importorskip("pyarrow"), pytest.importorskip("datasets")
    from pyarrow import parquet

    features = {"answer": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    columns = {"instruction": ["a", "b", "c"], "answer": [1, -1, 0]}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), tmp_path / "t.parquet")
    kinds = {"instruction": datasets.Value("string"), "answer": datasets.ClassLabel(names=["cat", "dog"])}
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).save_to_disk(str(tmp_path / "set"))
    for format, place in (("table", "t.parquet"), ("huggingface", "set")):
        samples, problems = read(format, tmp_path / place, image=None)
        assert [sample.answers for sample in samples] == [("dog",), ("cat",)]
        assert len(problems) == 1 and "row 2: the column 'answer' is empty" in problems[0]


@pytest.mark.slow
def test_lists_of_labels_are_words(tmp_path):
    """The numbers of the classes were taught: "1" for a dog."""
    pyarrow, datasets = pytest.importorskip("pyarrow"), pytest.importorskip("datasets")
    from pyarrow import parquet

    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    columns = {"instruction": ["a", "b", "c"], "answer": [[1, 0], [-1], [0, -1]]}
    written = {name: {"feature": label, "_type": name} for name in ("Sequence", "List")} | {"old": [label]}
    for name, answer in written.items():
        about = {"huggingface": json.dumps({"info": {"features": {"answer": answer}}})}
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), path)
    kinds = {
        "instruction": datasets.Value("string"),
        "answer": datasets.List(datasets.ClassLabel(names=["cat", "dog"])),
    }
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).save_to_disk(str(tmp_path / "set"))
    for format, place in (("table", "Sequence.parquet"), ("table", "List.parquet"), ("huggingface", "set")):
        samples, problems = read(format, tmp_path / place, image=None)
        assert [sample.answers for sample in samples] == [("dog", "cat"), ("cat",)]
        assert len(problems) == 1 and "row 2: the column 'answer' is empty" in problems[0]


@pytest.mark.slow
def test_parquet_whose_paths_are_names_of_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": None, "path": colour(tmp_path, f"{n}.png", (n, 0, 0))} for n in range(3)]
    schema = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {"image": pyarrow.array(cells, schema), "instruction": ["a", "b", "c"], "answer": ["x"] * 3}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    samples, problems = read("table", tmp_path / "t.parquet")
    assert [sample.images[0].name for sample in samples] == ["0.png", "1.png", "2.png"] and not problems


def test_one_of_the_two_in_a_table(tmp_path):
    lines = ["image,instruction,answer", "a.png,q,x", f"{text(3)},r,y"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    samples, problems = read("table", tmp_path / "t.csv")
    assert len(samples) == 1 and "row 2: the image is inside the table" in problems[0]
    (tmp_path / "u.csv").write_text("\n".join([lines[0], lines[2], lines[1]]))
    samples, problems = read("table", tmp_path / "u.csv")
    assert len(samples) == 1 and "row 2: 'a.png' is neither an image nor" in problems[0]


@pytest.mark.slow
def test_a_saved_data_set_says_that_images_is_in_vain(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "instruction": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = {"image": [{"bytes": content(n + 1)} for n in range(4)], "instruction": list("abcd"), "answer": list("wxyz")}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UserError, match="remove 'images'"):
        stream_of(tmp_path, format="huggingface", root="set", images=".")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (text(3, "JPEG"), "is written into the row, and a name is read here"),
        (text(3), "is written into the row, and a name is read here"),
        (f"data:image/png;base64,{text(3)}", "is written into the row, and a name is read here"),
        ("https://example.org/a.png", "is an address: download it, and name the file"),
        ("/9j/a.jpg", "lies outside of the images' folder"),
    ],
)
def test_other_readers_say_what_it_is(tmp_path, name, complaint):
    own = write_lines(tmp_path / "t.jsonl", {"image": name, "instruction": "q", "answer": "a"})
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    write_lines(tmp_path / "l.jsonl", {"image": name, "conversations": turns})
    for format, path in (("jsonl", own), ("llava", tmp_path / "l.jsonl")):
        samples, problems = read(format, path)
        assert not len(samples) and complaint in problems[0] and len(problems[0]) < 400


def test_what_is_inside():
    assert is_inside(b"x") and is_inside({"bytes": b"x", "path": None}) and is_inside([b"x"]) and is_inside(text(3))
    for value in ("a.png", "", None, [], {"bytes": None, "path": "a"}, "/9j/" + "photo-" * 20 + ".jpg", 3.0, "[]"):
        assert not is_inside(value)
    one, other = (EmbeddedImages().names(cells, index=None, origin="") for cells in ([b"x", b"y"], [b"x", b"x"]))
    assert one[0] == other[0] == other[1] != one[1]
