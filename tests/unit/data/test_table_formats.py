"""Tables and Hugging Face data sets by the names of their columns."""

from __future__ import annotations

import csv
import sys

import pytest
from PIL import Image
from reading_rows import colour, faults, read, write_lines

from evertune.data import load_stream
from evertune.runs.api import configure
from evertune.tools.data import check
from evertune.tools.data.convert import convert
from evertune.tools.data.source import Hints
from evertune.utils.errors import DataError, UserError

COLUMNS = {"image": "file", "instruction": "question", "answer": "label"}


def write(folder, rows, name="birds.csv"):
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if name.lower().endswith("tsv") else ",")
        table.writeheader()
        table.writerows(rows)
    return path


ROWS = [
    {"file": "a.png", "question": 'Which, "bird"?\nSay.', "label": "tit; blue tit", "hint": "small"},
    {"file": "b.png", "question": "Which?", "label": "ציפור", "hint": ""},
]


@pytest.mark.parametrize("name", ["birds.csv", "birds.tsv", "birds.TSV", "birds.Csv"])
def test_text_tables(tmp_path, name):
    path = write(tmp_path, ROWS, name)
    samples, problems = read("table", path, **COLUMNS, prompt="{question} Hint: {hint}", separator=";")
    assert [s.answers for s in samples] == [("tit", "blue tit"), ("ציפור",)] and not problems
    assert samples[0].instruction == 'Which, "bird"?\nSay. Hint: small' and samples[0].images == (tmp_path / "a.png",)
    assert [s.id for s in samples] == ["1", "2"]


def test_ids_extras_and_no_images(tmp_path):
    path = write(tmp_path, ROWS)
    samples, _ = read("table", path, **{**COLUMNS, "image": None}, id="label", extras=["hint"])
    assert [s.id for s in samples] == ["tit; blue tit", "ציפור"] and samples[0].images == ()
    assert [dict(s.extras) for s in samples] == [{"hint": "small"}, {"hint": ""}]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.TSV", "x.PARQUET", "x.CSV", "x.JSON", "x.JSONL"])
def test_an_ending_in_capitals(tmp_path, name):
    """Case 13: what `convert` writes, `check` and a run read."""
    if name == "x.PARQUET":
        pytest.importorskip("pyarrow")
    names = [colour(tmp_path, f"{n}.png", (n, 0, 0)) for n in range(5)]
    rows = [{"image": name, "instruction": f"Which {n}?", "answer": "red, or blue"} for n, name in enumerate(names)]
    source = write_lines(tmp_path / "t.jsonl", *rows)
    convert(source, tmp_path / name)
    assert check(str(tmp_path / name)).tasks()["x"] == {"train": 4, "test": 1, "images": 5}
    assert not len(check(str(tmp_path / name)).errors)
    (task,) = load_stream(str(tmp_path / name)).tasks
    assert {sample.instruction for sample in (*task.train, *task.test)} == {f"Which {n}?" for n in range(5)}
    assert {sample.answers for sample in task.train} == {("red, or blue",)}


@pytest.mark.slow
def test_a_stream_and_a_run_in_capitals(tmp_path):
    source = write_lines(
        tmp_path / "t.jsonl",
        *({"image": colour(tmp_path, f"{n}.png", (n, 0, 0)), "instruction": "q", "answer": "a"} for n in range(5)),
    )
    (tmp_path / "S.YAML").write_text(f"name: s\ntasks: [{{name: t, data: {source.name}}}]")
    assert len(load_stream(str(tmp_path / "S.YAML")).tasks) == 1 and not len(check(str(tmp_path / "S.YAML")).errors)
    (tmp_path / "R.YML").write_text("stream: S.YAML\nmodel: random\n")
    assert configure(tmp_path / "R.YML").stream == str(tmp_path / "S.YAML")
    (tmp_path / "Q.YML").write_text("stream: t.jsonl\nmodel: random\n")
    assert configure(tmp_path / "Q.YML").stream == str(source), "a file of rows counts from the YAML too"


@pytest.mark.slow
def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = {"file": ["a.png", "b.png"], "question": ["q", "r"], "label": [["x", "y"], ["z"]], "n": [1, 2]}
    parquet.write_table(pyarrow.table(content), tmp_path / "t.parquet")
    samples, problems = read("table", tmp_path / "t.parquet", **COLUMNS, prompt="{n}. {question} {label}")
    assert [s.answers for s in samples] == [("x", "y"), ("z",)] and not problems
    assert samples[0].instruction == "1. q x, y"
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="t.parquet can't be read as Parquet"):
        read("table", tmp_path / "t.parquet", **COLUMNS)


def test_mistakes(tmp_path):
    path = write(
        tmp_path, [*ROWS, {"file": "c.png", "question": " ", "label": "x"}, {"file": "d.png", "question": "q"}]
    )
    samples, problems = read("table", path, **COLUMNS)
    assert len(samples) == 2
    assert "row 3: the instruction is empty" in problems[0] and "row 4: the column 'label' is empty" in problems[1]
    with pytest.raises(DataError, match="has no column 'lable'; did you mean 'label'"):
        read("table", path, **{**COLUMNS, "answer": "lable"})
    (tmp_path / "bad.csv").write_bytes(b'file,question,label\na,b,"c\n')
    with pytest.raises(DataError, match="bad.csv: not a table behind line 1"):
        read("table", tmp_path / "bad.csv", **COLUMNS)
    stream = tmp_path / "s.yaml"
    stream.write_text("name: s\ntasks: [{name: a, format: table, data: birds.csv, options: {imag: file}}]")
    with pytest.raises(UserError, match="task 'a': .*imag"):
        load_stream(str(stream))


@pytest.mark.parametrize(("name", "library"), [("table", "pyarrow"), ("huggingface", "datasets")])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, name, library):
    (tmp_path / "t.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, library, None)
    place = tmp_path / "t.parquet" if name == "table" else tmp_path
    with pytest.raises(UserError, match=r"pip install 'evertune\[data\]'"):
        read(name, place, **COLUMNS)


@pytest.fixture
def saved(tmp_path):
    """A data set that `save_to_disk` wrote, with an image column."""
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(6)]
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "question": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    content = {"photo": images, "question": [f"{n}?" for n in range(6)], "label": [0, 1, 0, 1, 0, 1]}
    whole = datasets.Dataset.from_dict(content, features=features)
    parts = {"train": whole.select(range(4)), "validation": whole.select(range(4, 6))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    return tmp_path


@pytest.mark.slow
def test_a_saved_data_set(saved):
    stream = saved / "s.yaml"
    stream.write_text(
        "name: s\ntasks: [{name: a, format: huggingface, root: saved, options: "
        "{image: photo, instruction: question, answer: label, test: validation}}]"
    )
    (task,) = load_stream(str(stream), decode=True, takes=range(1, 2)).tasks
    assert [s.answers for s in task.train] == [("cat",), ("dog",), ("cat",), ("dog",)]
    assert [s.instruction for s in task.test] == ["4?", "5?"]
    assert Image.open(task.test[1].images[0]).getpixel((0, 0)) == (5, 0, 0)
    again = load_stream(str(stream), decode=True)
    assert again.tasks == (task,)


@pytest.mark.slow
def test_a_split_or_column_that_is_not_there(saved):
    options = {"image": "photo", "instruction": "question", "answer": "label"}
    with pytest.raises(DataError, match="has no split 'tset'; did you mean 'test'|known"):
        read("huggingface", saved / "saved", **options, split="test", test="tset")
    with pytest.raises(DataError, match="has no column 'image'"):
        read("huggingface", saved / "saved")
    with pytest.raises(DataError, match="can't be opened as a data set"):
        read("huggingface", saved, **options)


@pytest.mark.slow
def test_images_that_are_no_images(saved):
    options = {"image": "question", "instruction": "question", "answer": "label"}
    samples, problems = read("huggingface", saved / "saved", **options)
    assert not len(samples) and "the image's column holds no images" in problems[0]


@pytest.mark.slow
def test_several_images_and_none(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = Image.open(tmp_path / colour(tmp_path, "a.png"))
    features = datasets.Features(
        {
            "image": datasets.List(datasets.Image()),
            "instruction": datasets.Value("string"),
            "answer": datasets.Value("int64"),
        }
    )
    content = {"image": [[one, one], []], "instruction": ["same?", "2 + 2?"], "answer": [1, 4]}
    datasets.Dataset.from_dict(content, features=features).save_to_disk(str(tmp_path / "set"))
    from evertune.data.formats import huggingface

    samples, problems = read("huggingface", tmp_path / "set", images=huggingface.images(tmp_path))
    assert [len(s.images) for s in samples] == [2, 0] and samples[1].answers == ("4",)
    assert not problems and not faults(samples)


def written_set(folder, splits=None):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "instruction": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    images = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(10)]
    whole = {"image": images, "instruction": [f"{n}?" for n in range(10)], "answer": ["x"] * 10}
    made = datasets.Dataset.from_dict(whole, features=features)
    (datasets.DatasetDict(dict.fromkeys(splits, made)) if splits else made).save_to_disk(str(folder / "saved"))


@pytest.mark.slow
def test_a_data_set_without_splits_is_parted(tmp_path):
    """Case 14: both splits were the same ten rows."""
    written_set(tmp_path)
    for place in ("root: saved", "data: saved"):
        (tmp_path / "s.yaml").write_text(
            f"name: s\ntasks: [{{name: t, format: huggingface, {place}, test_share: 0.3}}]"
        )
        (task,) = load_stream(str(tmp_path / "s.yaml"), decode=True).tasks
        assert (len(task.train), len(task.test)) == (7, 3)
        assert not {sample.instruction for sample in task.train} & {sample.instruction for sample in task.test}
        assert check(str(tmp_path / "s.yaml")).tasks()["t"] == {"train": 7, "test": 3, "images": 10}
    found = check(str(tmp_path / "saved"), hints=Hints(format="huggingface"))
    assert not len(found.errors) and found.tasks()["saved"] == {"train": 8, "test": 2, "images": 10}
    written = convert(tmp_path / "saved", tmp_path / "all.jsonl", hints=Hints(format="huggingface"))
    assert written.rows == 10


@pytest.mark.slow
def test_a_data_set_of_one_split_says_which_it_has(tmp_path):
    written_set(tmp_path, ["train"])
    (tmp_path / "s.yaml").write_text("name: s\ntasks: [{name: t, format: huggingface, root: saved}]")
    with pytest.raises(DataError, match="has no split 'test'; known: train .options: {train: SPLIT, test: SPLIT}"):
        load_stream(str(tmp_path / "s.yaml"))
    assert "has no split 'test'" in str(list(check(str(tmp_path / "s.yaml")).errors.kinds()))


def test_a_table_whose_columns_have_other_names_says_which_and_how(tmp_path):
    """No guess by chance ('frage' for 'image'), and the option of the command beside the key of a YAML."""
    write(tmp_path, [{"bild": "a.png", "frage": "Was?", "antwort": "x"}])
    with pytest.raises(DataError) as refused:
        read("table", tmp_path / "birds.csv")
    text = str(refused.value)
    assert "has no column 'image'; known: antwort, bild, frage" in text and "did you mean" not in text
    assert "--option image=COLUMN" in text and "options: {image: COLUMN}" in text


@pytest.mark.parametrize(
    "text",
    [
        "image;instruction;answer\na.png;Which, or what?;tit\n",
        '\ufeffimage;answer;instruction\na.png;tit;"Which, or what?"\n',
    ],
)
def test_a_table_of_a_spreadsheet_that_writes_semicolons(tmp_path, text):
    colour(tmp_path, "a.png", (1, 2, 3))
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    samples, problems = read("table", tmp_path / "t.csv")
    assert not problems and samples[0].instruction == "Which, or what?" and samples[0].answers == ("tit",)


def test_a_comma_in_the_header_separates(tmp_path):
    colour(tmp_path, "a.png", (1, 2, 3))
    (tmp_path / "t.csv").write_text("image,instruction,answer,a;b\na.png,Which?,tit; x,1\n", encoding="utf-8")
    samples, problems = read("table", tmp_path / "t.csv")
    assert not problems and samples[0].answers == ("tit; x",)


def test_a_table_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "t.csv").write_bytes("image,instruction,answer\na.png,Was?,\u00e9t\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read("table", tmp_path / "t.csv")
