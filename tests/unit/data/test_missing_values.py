"""What is missing is missing: NaN is never taught or scored as a word, and a 3 beside it is no "3.0"."""

from __future__ import annotations

import json
import math

import pytest
from reading_rows import read, write_lines

from evertune.data.records import number_text
from evertune.tools.data.convert import convert
from evertune.tools.rescore import gold
from evertune.tools.rescore.predictions import read_predictions
from evertune.utils.errors import DataError

NAN = math.nan


def rows_of(key, values):
    return [{"question_id": n, "image": "p.png", "text": f"How many {n}?", key: v} for n, v in enumerate(values)]


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, [NAN], ["3", NAN], None])
def test_a_test_row_without_an_answer(tmp_path, value):
    """Case 06: `json.dumps` and pandas write NaN, which JSON does not have; it was the answer "nan"."""
    (tmp_path / "t.json").write_text(json.dumps(rows_of("answer", [3, value, 4.0, 2.5])))
    samples, problems = read("llava", tmp_path / "t.json")
    assert [sample.answers for sample in samples] == [("3",), ("4",), ("2.5",)] and len(problems) == 1
    assert "row 2" in problems[0] and "answer" in problems[0]
    lines = write_lines(tmp_path / "t.jsonl", *rows_of("answer", [3, value]))
    samples, problems = read("llava", lines)
    assert len(samples) == len(problems) == 1 and "t.jsonl:2" in problems[0]


@pytest.mark.parametrize("key", ["answer", "instruction", "image", "id"])
def test_own_rows(tmp_path, key):
    row = {"image": "p.png", "instruction": "q", "answer": "a"}
    samples, problems = read("jsonl", write_lines(tmp_path / "t.jsonl", {**row, key: NAN}, row))
    assert len(samples) == len(problems) == 1 and f"'{key}'" in problems[0]
    extras = {**row, "extras": {"type": NAN}}
    assert "extras" in read("jsonl", write_lines(tmp_path / "u.jsonl", extras))[1][0]


def test_turns_and_published_files(tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": NAN}]
    (tmp_path / "t.json").write_text(json.dumps([{"conversations": turns}]))
    samples, problems = read("llava", tmp_path / "t.json")
    assert not len(samples) and "'value' must be a text that is not empty, not NaN" in problems[0]
    (tmp_path / "VizWiz").mkdir()
    (tmp_path / "VizWiz" / "train.json").write_text(
        json.dumps([{"image": "a.jpg", "question": "q", "answers": [{"answer": NAN}]}])
    )
    samples, problems = read("vizwiz", tmp_path / "VizWiz")
    assert not len(samples) and "NaN" in problems[0]


def test_extras_of_a_test_row_leave_it_out(tmp_path):
    row = {**rows_of("answer", ["3"])[0], "type": NAN, "size": [NAN, 2], "kind": "2D"}
    (tmp_path / "t.json").write_text(json.dumps([row]))
    (sample,), problems = read("llava", tmp_path / "t.json")
    assert "type" not in sample.extras and sample.extras["kind"] == "2D" and not problems
    json.loads(sample.extras["size"])


@pytest.mark.slow
def test_tables(tmp_path):
    """pandas makes floats of a column of whole numbers with a gap."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    floats = pyarrow.array([3.0, NAN, 4.0, None, 2.5], pyarrow.float64(), from_pandas=False)
    content = {
        "image": ["p.png"] * 5,
        "instruction": [f"{n}?" for n in range(5)],
        "answer": floats,
        "level": floats,
        "n": [[1.0, NAN, None], [], None, [2.0], ["x"] and [3.0]],
    }
    parquet.write_table(pyarrow.table(content), tmp_path / "t.parquet")
    samples, problems = read("table", tmp_path / "t.parquet", id="level", extras=["level"])
    assert [sample.answers for sample in samples] == [("3",), ("4",), ("2.5",)]
    assert [sample.id for sample in samples] == [sample.extras["level"] for sample in samples] == ["3", "4", "2.5"]
    assert [problem.partition(": ")[2] for problem in problems] == ["the column 'answer' is empty"] * 2
    samples, _ = read("table", tmp_path / "t.parquet", prompt="{level}|{n}")
    assert samples[0].instruction == "3|1, , "
    many = pyarrow.table({**content, "answer": [["a", None], [NAN and "b"], ["c"], ["d"], ["e"]]})
    parquet.write_table(many, tmp_path / "u.parquet")
    samples, problems = read("table", tmp_path / "u.parquet")
    assert len(samples) == 4 and "'answer' holds neither a text nor a list of texts" in problems[0]


@pytest.mark.slow
def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    content = {"instruction": ["a", "b", "c"], "answer": [3.0, NAN, 4.0]}
    datasets.Dataset.from_dict(content).save_to_disk(str(tmp_path / "set"))
    samples, problems = read("huggingface", tmp_path / "set", image=None)
    assert [sample.answers for sample in samples] == [("3",), ("4",)] and len(problems) == 1


def test_what_is_converted(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(rows_of("answer", [3.0, NAN])))
    written = convert(tmp_path / "t.json", tmp_path / "o.jsonl", skip_invalid=True)
    assert written.rows == 1 and json.loads((tmp_path / "o.jsonl").read_text())["answer"] == "3"


@pytest.mark.parametrize("value", [NAN, math.inf, [NAN, "yes"]])
def test_gold_and_prediction_files(tmp_path, value):
    path = tmp_path / "gold.json"
    path.write_text(json.dumps([{"question_id": 0, "answer": "yes"}, {"question_id": 1, "answer": value}]))
    with pytest.raises(DataError, match="entry 2: the answer must be a text.*(NaN|Infinity)"):
        gold.questions(path, "test")
    (tmp_path / "p.jsonl").write_text(json.dumps({"question_id": 0, "text": value}))
    with pytest.raises(DataError, match="line 1"):
        read_predictions(tmp_path / "p.jsonl")
    path.write_text(json.dumps([{"question_id": 0, "answer": 3.0}, {"question_id": 1, "answer": [2, 2.5]}]))
    assert [one.answers for one in gold.questions(path, "test")] == [("3",), ("2", "2.5")]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, "3"),
        (3, "3"),
        (-2.0, "-2"),
        (2.5, "2.5"),
        (1e300, "1e+300"),
        (0.1, "0.1"),
        (-0.0, "0"),
        (2**60, f"{2**60}"),
    ],
)
def test_numbers_as_texts(number, text):
    assert number_text(number) == text
