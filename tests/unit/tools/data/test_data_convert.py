"""`data convert` and `data sample`: what is written is read back as it was, or refused; whole or not at all."""

from __future__ import annotations

import json

import pytest
from commands import evertune
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_rows import write_lines

from evertune.data.sources import read_whole
from evertune.data.stream import StreamFile
from evertune.data.task_file import TaskFile
from evertune.tools.data import convert, sample
from evertune.tools.data.source import Hints, one_file, reading
from evertune.utils.errors import DataError, UserError

ROWS = [
    {"id": "a", "image": "1.png", "instruction": 'Was ist "das"?\nKurz, bitte.', "answer": "ein Hund"},
    {"id": "b", "instruction": "ما هذا؟ 😀", "answers": ["قطة", "cat", "cat"]},
    {"id": "c", "images": ["1.png", "x/2.png"], "instruction": "=1+1", "answer": "-"},
]
ONE_FOLDER = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
WAYS = [("t.jsonl", "train"), ("t.csv", "train"), ("t.tsv", "train"), ("t.parquet", "train"), ("t.json", "test")]


def rows_of(path, entry=None):
    """All rows of a file as plain values, and what is wrong with the others."""
    task = TaskFile(**entry) if entry else one_file(path, Hints())
    how = reading(StreamFile(name="x", tasks=[task]), path)
    samples = read_whole(task, how)
    found = [samples.rows[int(at)] for at in samples.chosen]
    return [{k: v for k, v in row.items() if k != "origin"} for row in found], how.problems.counts


@pytest.fixture
def source(tmp_path):
    return write_lines(tmp_path / "source.jsonl", *ROWS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), WAYS)
def test_rows_come_back(tmp_path, source, name, split):
    written = convert(source, tmp_path / name, split=split, separator="~")
    expected, _ = rows_of(source)
    assert rows_of(tmp_path / name, written.entry) == (expected, {})
    assert written.rows == 3 and not written.lost and not written.numbered
    back = tmp_path / "back.jsonl"
    hints = Hints(options=written.entry.get("options", {}))
    convert(tmp_path / name, back, hints=hints)
    assert rows_of(back)[0] == expected


def test_conversations_keep_one_answer_and_say_so(tmp_path, source):
    written = convert(source, tmp_path / "t.json")
    assert written.lost == {"answers but the first": 1}
    content = json.loads((tmp_path / "t.json").read_text())
    assert content[0]["conversations"][0] == {"from": "human", "value": "<image>\n" + ROWS[0]["instruction"]}
    assert "image" not in content[1] and content[2]["image"] == ["1.png", "x/2.png"]
    expected, _ = rows_of(source)
    assert rows_of(tmp_path / "t.json")[0] == [{**row, "answers": row["answers"][:1]} for row in expected]


@pytest.mark.slow
def test_extras_stay_where_they_can(tmp_path):
    source = write_lines(
        tmp_path / "s.jsonl",
        {"id": "a", "instruction": "q", "answer": "1", "extras": {"size": "[3, 4]"}},
        {"id": "b", "instruction": "q", "answer": "2"},
    )
    assert convert(source, tmp_path / "train.json").lost == {"extras": 1}
    for name, split in WAYS:
        written = convert(source, tmp_path / name, split=split)
        rows, _ = rows_of(tmp_path / name, written.entry)
        assert rows[0]["extras"] == {"size": "[3, 4]"} and not any(rows[1].get("extras", {}).values())


@pytest.mark.slow
def test_annotators_who_wrote_nothing(tmp_path):
    source = write_lines(tmp_path / "s.jsonl", {"id": "a", "instruction": "q", "answers": ["x", "", "y", ""]})
    for name in ("t.jsonl", "t.parquet"):
        written = convert(source, tmp_path / name)
        assert rows_of(tmp_path / name, written.entry)[0][0]["answers"] == ["x", "", "y", ""]
    for name, split in (("t.csv", "train"), ("t.json", "test")):
        with pytest.raises(DataError, match=r"s.jsonl:1: .*(empty|wrote nothing)"):
            convert(source, tmp_path / name, split=split)


ODD = ["<image>", "a|b", "~", '"', "\u202e", "a\r\nb", "a\rb", "'", "\x0b", "\x85", "\ufeff", "=1", "\ud800", "a\0b"]
TEXTS = st.text(min_size=1, max_size=8) | st.sampled_from(ODD)
OWN = st.builds(
    lambda id, images, instruction, answers, extras: {
        "id": id, "images": images, "instruction": instruction, "answers": answers, "extras": extras
    },
    TEXTS,
    st.lists(st.sampled_from(["a.png", "b|c.png", "d/e.png", "ä.png"]), max_size=2),
    TEXTS,
    st.lists(TEXTS, min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["x", "id", "y"]), TEXTS, max_size=1),
)  # fmt: skip


@pytest.mark.slow
@ONE_FOLDER
@given(st.lists(OWN, min_size=1, max_size=4), st.sampled_from(WAYS))
def test_any_row_comes_back_or_is_refused(tmp_path, rows, way):
    """Of every file that was written every row is read back, the same."""
    name, split = way
    source, target = write_lines(tmp_path / "source.jsonl", *rows), tmp_path / name
    target.unlink(missing_ok=True)
    try:
        expected, _ = rows_of(source)
        written = convert(source, target, split=split, skip_invalid=True)
    except (UserError, DataError) as problem:
        assert str(problem) and not target.exists()
        return
    found, problems = rows_of(target, written.entry)
    assert not problems and len(found) == written.rows

    def plain(row):
        extras = {key: value for key, value in row.get("extras", {}).items() if value}
        name = None if written.numbered else row["id"]
        return json.dumps([name, row["images"], row["instruction"], row["answers"], extras])

    left = [plain(row) for row in expected]
    assert all(left.pop(left.index(plain(row))) for row in found)
    assert len(left) == written.skipped.counts.get("can't be written", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.parquet"])
def test_nothing_is_overwritten(tmp_path, source, name):
    target = tmp_path / name
    target.write_text("mine")
    with pytest.raises(UserError, match="exists; choose another name, or say --force"):
        convert(source, target)
    assert target.read_text() == "mine"
    convert(source, target, force=True)
    assert len(rows_of(target)[0]) == 3


def test_a_file_may_be_its_own_target(tmp_path, source):
    expected, _ = rows_of(source)
    convert(source, source, force=True)
    assert rows_of(source)[0] == expected


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.parquet"])
def test_whole_or_absent(tmp_path, name):
    """A row that can't be used, or can't be written, leaves nothing behind, unless it is left out."""
    source = write_lines(tmp_path / "s.jsonl", *ROWS, {"id": "d", "instruction": "q"})
    with pytest.raises(DataError, match=r"s.jsonl:4: .*either 'answer'"):
        convert(source, tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()
    written = convert(source, tmp_path / "out" / name, skip_invalid=True)
    assert written.rows == 3 and written.skipped.counts == {"unusable answer": 1}
    marked = write_lines(
        tmp_path / "m.jsonl", ROWS[0], {"id": "x", "instruction": "An <image>?", "answers": ["a|b", "c"]}
    )
    target = tmp_path / "other" / name
    if name in ("t.json", "t.csv"):
        with pytest.raises(DataError, match=r"m.jsonl:2: .*(stands for an image|separator)"):
            convert(marked, target)
        assert list(target.parent.iterdir()) == []
        assert convert(marked, target, skip_invalid=True).rows == 1
    else:
        assert convert(marked, target).rows == 2


def test_a_full_disk(tmp_path, source, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    convert(source, tmp_path / "first.jsonl")  # its index is in the cache from here on
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        convert(source, tmp_path / "out" / "t.jsonl")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_repeated_ids_become_numbers(tmp_path):
    """LLaVA's training lists repeat their ids; what is tested may not."""
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "s.json").write_text(json.dumps([{"id": "same", "conversations": turns}] * 3))
    for name, split in [*WAYS, ("train.json", "train")]:
        written = convert(tmp_path / "s.json", tmp_path / name, split=split)
        rows, problems = rows_of(tmp_path / name, written.entry)
        assert written.numbered and len(rows) == 3 and not problems


def test_published_data(tmp_path, published):
    hints = Hints(format="vqav2", prompt="{question} One word.", images=str(published / "COCO2014"))
    written = convert(published / "VQAv2", tmp_path / "t.jsonl", hints=hints, split="test")
    rows, _ = rows_of(tmp_path / "t.jsonl", written.entry)
    assert rows[0]["instruction"].endswith(" One word.") and len(rows[0]["answers"]) == 10
    assert all((tmp_path / written.entry["images"] / image).is_file() for row in rows for image in row["images"])
    with pytest.raises(UserError, match="split 'val'"):
        convert(published / "VQAv2", tmp_path / "u.jsonl", hints=hints, split="val")


def many(folder, count=40):
    rows = ({"id": f"r{n}", "instruction": f"q{n}", "answer": "a"} for n in range(count))
    return write_lines(folder / "many.jsonl", *rows)


def test_a_sample_is_the_same_for_the_same_seed(tmp_path):
    source = many(tmp_path)
    drawn = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample(source, tmp_path / f"{name}.jsonl", count=10, seed=seed)
        drawn[name] = [row["id"] for row in rows_of(tmp_path / f"{name}.jsonl")[0]]
    assert drawn["a"] == drawn["b"] != drawn["c"]
    assert len(set(drawn["a"])) == 10 and drawn["a"] == sorted(drawn["a"], key=lambda name: int(name[1:]))
    record = json.loads((tmp_path / "a.jsonl.sample.json").read_text())
    assert record["seed"] == 1 and record["count"] == 10 and record["source_rows"] == 40
    assert record["rows"] == drawn["a"]


@pytest.mark.slow
def test_every_row_is_drawn_about_as_often(tmp_path):
    source = many(tmp_path, 5)
    counts = dict.fromkeys((f"r{n}" for n in range(5)), 0)
    for seed in range(80):
        written = sample(source, tmp_path / "t.jsonl", count=2, seed=seed, force=True)
        for row in rows_of(written.target)[0]:
            counts[row["id"]] += 1
    assert all(16 < count < 48 for count in counts.values()), counts  # 32 +- 4 each


def test_the_seed_stands_in_the_file_where_it_can(tmp_path):
    from pyarrow.parquet import read_schema

    sample(many(tmp_path), tmp_path / "t.parquet", count=3, seed=7)
    content = json.loads(read_schema(tmp_path / "t.parquet").metadata[b"evertune sample"])
    record = json.loads((tmp_path / "t.parquet.sample.json").read_text())
    assert content["seed"] == 7 and content == {key: record[key] for key in content}


def test_a_sample_overwrites_nothing(tmp_path):
    source = many(tmp_path)
    (tmp_path / "t.jsonl.sample.json").write_text("mine")
    with pytest.raises(UserError, match="sample.json exists"):
        sample(source, tmp_path / "t.jsonl", count=3)
    assert not (tmp_path / "t.jsonl").exists()
    with pytest.raises(UserError, match="has 40 rows that can be used; 41 can't be drawn"):
        sample(source, tmp_path / "u.jsonl", count=41)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["convert", "none.jsonl", "t.csv"], "none.jsonl does not exist"),
        (["convert", "{source}", "t.txt"], "say with --to how it is to be written"),
        (["convert", "{source}", "t.csv", "--to", "llava"], "a file of 'llava' ends in .json or .jsonl"),
        (["convert", "{source}", "t.csv", "--separator", " "], "--separator must not be empty"),
        (["convert", "{source}", "t.csv", "--split", "val"], "split 'val': it is train or test"),
        (["convert", "{source}", "t.csv", "--format", "lava"], "did you mean 'llava'"),
        (["sample", "{source}", "t.csv", "--count", "9"], "9 can't be drawn"),
    ],
)
def test_mistakes_of_the_user(source, tmp_path, monkeypatch, arguments, complaint, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(source=source) for argument in arguments]
    code, out, err = evertune("data", *arguments, capsys=capsys)
    assert code == 2 and complaint in err and not out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.jsonl"]


def test_the_commands(source, tmp_path, capsys):
    code, out, _ = evertune("data", "convert", source, tmp_path / "out" / "t.csv", capsys=capsys)
    assert code == 0 and "3 rows" in out
    assert "{name: t, format: table, data: t.csv, images: .., options: {id: id, separator: '|'}}" in out
    target = tmp_path / "u.jsonl"
    code, out, _ = evertune("data", "convert", source, target, "--to", "llava", "--json", capsys=capsys)
    content = json.loads(out)
    assert code == 0 and content["rows"] == 3 and content["lost"] == {"answers but the first": 1}
    assert json.loads(target.read_text().splitlines()[0])["conversations"]
    code, out, _ = evertune("data", "sample", source, tmp_path / "s.json", "-n", 2, "--seed", 5, capsys=capsys)
    assert code == 0 and "s.json.sample.json" in out and len(json.loads((tmp_path / "s.json").read_text())) == 2
