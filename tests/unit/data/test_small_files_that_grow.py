"""Small files whose content would take far more memory or time than their size: refused before it is made."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc

import numpy as np
import pytest

from evertune.data import arrow_process, embedded, instruction_files, json_lists
from evertune.data.arrow_records import values_in
from evertune.data.embedded import EmbeddedImages
from evertune.data.formats import format_of
from evertune.data.json_lists import items, lines, members
from evertune.data.reading import read_entries
from evertune.metrics.matrix_files import read_matrix
from evertune.runs.ledger import read_ledger
from evertune.runs.tracking.jsonl import read_points
from evertune.service.integrity import _damaged_lines
from evertune.tools.rescore.predictions import read_predictions
from evertune.tools.rescore.reading import read_rows
from evertune.training.answer_files import read_answers
from evertune.utils import regular_files
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import read_json
from evertune.utils.parsing import CHARACTERS_PER_VALUE, MOST_VALUES, json_value, written_lines

LISTS = "[" + "[]," * 1_300_000 + "[]]"
"""4 MB that Python takes 100 MB for."""
OBJECT = '{"a":{' + '"b":{},' * 1_300_000 + '"b":{}}}'


# JSON


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda path: list(items(path)), f"[{LISTS}]"),
        (lambda path: list(members(path)), f'{{"a":{LISTS}}}'),
        (lambda path: list(items(path, under="x")), f'{{"a":[{LISTS}]}}'),
        (lambda path: list(lines(path)), f'{{"a":1}}\n{LISTS}'),
        (lambda path: next(one for one in read_entries(path) if isinstance(one, DataError)).args, f"{LISTS}\n"),
        (read_rows, LISTS),
        (read_rows, "{}\n" * 1_300_000),
        (read_predictions, '{"text":{}}\n' * 900_000),
        (read_matrix, LISTS),
        (read_json, LISTS),
        (read_json, OBJECT),
        (lambda path: read_ledger(path.parent), f"{LISTS}\n"),
        (lambda path: read_ledger(path.parent), '{"event":[1,2,3]}\n' * 700_000),
        (read_answers, LISTS),
        (read_points, LISTS),
        (_damaged_lines, LISTS),
    ],
)
def test_small_values_without_end_are_not_decoded(tmp_path, monkeypatch, read, text):
    monkeypatch.setattr(json_lists, "PIECE", 8 << 20)  # what fits into one of the usual size is decoded
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"[\d,]+ values in [\d,]+ characters; at most [23],[\d,]+ are read"):
        raise DataError(*read(path))


@pytest.mark.slow
def test_how_many_values_a_text_may_have():
    assert len(json_value("[" + "1," * (MOST_VALUES - 2) + "1]")) == MOST_VALUES - 1
    sparse = json.dumps(["x" * CHARACTERS_PER_VALUE] * (MOST_VALUES + 1))
    assert len(json_value(sparse)) == len(json_value(sparse.encode())) == MOST_VALUES + 1


@pytest.mark.slow
def test_what_is_beside_the_wanted_list_may_be_of_any_length(tmp_path):
    """COCO's files have the images before the annotations: 30 MB that are passed over one by one."""
    path = tmp_path / "a.json"
    images = [{"file_name": "x" * 1000, "id": number} for number in range(20_000)]
    path.write_text(json.dumps({"info": {"year": 2014}, "images": images, "data": [{"a": 1}], "end": 1}))
    tracemalloc.start()
    assert list(items(path, under="data")) == [(1, {"a": 1})]
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert [one.value for one in read_entries(path)] == [{"a": 1}]


@pytest.mark.slow
def test_a_number_without_end_is_not_read_on(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[0." + "1" * (40 << 20) + "]")
    with pytest.raises(DataError, match="not valid JSON"):
        list(items(path))


def test_lines_are_numbered_and_never_a_list():
    assert list(written_lines('\n  {"a":\u2028 1}\n \n\x85\n2\r\n')) == [(2, '  {"a":\u2028 1}'), (5, "2\r")]
    assert list(written_lines("")) == list(written_lines("\n" * 9)) == []


# Conversations


def test_turns_that_repeat_each_other_are_bounded(tmp_path, monkeypatch):
    """Each turn is asked with all before it: 2 MB of short ones were 2 GB before the first was written."""
    monkeypatch.setattr(instruction_files, "LONGEST_CONVERSATION", 100_000)
    turns = [{"from": ("human", "gpt")[n % 2], "value": "x"} for n in range(2000)]
    path = tmp_path / "c.json"
    path.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[:2]}]))
    refused, row = format_of("llava").rows(path, split="train")
    assert row.answers == ("x",) and refused.kind == "huge text"
    assert "row 1: 1,000 turns, each repeating those before it, take more than 100,000 characters" in str(refused)


# Images inside a table


IMAGE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()


def test_rows_that_name_the_images_of_rows_above(tmp_path, monkeypatch):
    """Thirty rows of two names each are a thousand million images."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    table = f"index,image,instruction,answer\n0,{IMAGE},q,a\n"
    table += "".join(f'{n},"[{n - 1},{n - 1}]",q,a\n' for n in range(1, 12))
    (tmp_path / "t.csv").write_text(table)
    rows = list(format_of("table").rows(tmp_path / "t.csv", split="train"))
    assert [len(row.images) for row in rows[:9]] == [2**n for n in range(9)]
    assert "row 10: more than 256 images" in str(rows[9]) and rows[9].kind == "too many images"
    assert all("neither an image nor the 'index'" in str(row) for row in rows[10:])


@pytest.mark.parametrize("cell", [[IMAGE.encode()] * 257, f"[{','.join([IMAGE] * 257)}]", "[" + "," * (8 << 20) + "]"])
def test_a_cell_of_many_images(tmp_path, monkeypatch, cell):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "kept", lambda content: "x")
    tracemalloc.start()
    with pytest.raises(DataError, match=r"here: (more than 256 images|.* is neither)"):
        EmbeddedImages().names(cell, index=None, origin="here")
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


# Parquet and Arrow: Python takes 8 bytes and more for a value that Arrow keeps in a bit, or in nothing


pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
NAMES = {"image": None, "instruction": "q", "answer": "a"}


def lists(inner, lengths):
    """A column of lists of the lengths, of nulls or truth values that are all false."""
    count = sum(lengths)
    bits = [None, pa.py_buffer(bytes(count // 8 + 1))]
    values = pa.nulls(count) if inner == "null" else pa.Array.from_buffers(pa.bool_(), count, bits)
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), values)


def written(path, **columns):
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["null", "bool"])
def test_parquet_of_small_values(tmp_path, inner):
    """A column that nobody asks for is never made Python's; of one that is, a cell has a bound."""
    path = written(tmp_path / "t.parquet", q=["x", "y"], a=["1", "2"], junk=lists(inner, [30_000_000, 1]))
    begun = time.process_time()
    assert [row.answers for row in format_of("table").rows(path, split="train", **NAMES)] == [("1",), ("2",)]
    assert time.process_time() - begun < 1
    refused, row = format_of("table").rows(path, split="train", **NAMES, extras=["junk"])
    assert "row 1, column 'junk': 30,000,001 values; at most 2,000,000 are read" in str(refused)
    assert row.answers == ("2",)


@pytest.mark.slow
def test_parquet_of_many_small_values(tmp_path, monkeypatch):
    """Each row is small enough; all together are not."""
    monkeypatch.setattr(regular_files, "MOST_OF_NOTHING", 8 << 20)
    many = ["x"] * 100
    path = written(tmp_path / "t.parquet", q=many, a=many, junk=lists("null", [10_000] * 100))
    seen = 0
    with pytest.raises(DataError, match="unpacks to more than 8 MiB"):
        for _ in format_of("table").rows(path, split="train", **NAMES, extras=["junk"]):
            seen += 1
    assert seen < 50


@pytest.mark.slow
def test_a_saved_data_set_of_small_values(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = pa.table({"q": ["x", "y"], "a": ["1", "2"], "junk": lists("bool", [30_000_000, 1])})
    datasets.Dataset(table).save_to_disk(tmp_path / "d")
    begun = time.process_time()
    rows = format_of("huggingface").rows(tmp_path / "d", split="train", **NAMES)
    assert [row.answers for row in rows] == [("1",), ("2",)]
    assert time.process_time() - begun < 3
    refused, _ = format_of("huggingface").rows(tmp_path / "d", split="train", **NAMES, extras=["junk"])
    assert "row 1, column 'junk': 30,000,001 values" in str(refused)


@pytest.mark.slow
def test_types_that_name_a_text_many_times_are_sent_in_full(tmp_path):
    words = pa.DictionaryArray.from_arrays(pa.array([0, 0, 1], pa.int32()), pa.array(["yes", "no"]))
    table = pa.table({"q": ["x", "y"], "a": pa.ListArray.from_arrays([0, 2, 3], words)})
    pq.write_table(table, tmp_path / "t.parquet")
    assert arrow_process._plain(table.schema.field("a").type) == pa.list_(pa.string())
    rows = list(format_of("table").rows(tmp_path / "t.parquet", split="train", **NAMES))
    assert [row.answers for row in rows] == [("yes", "yes"), ("no",)]


def test_values_are_counted_in_every_type():
    values = {
        pa.int8(): ([1, 2, None], 3),
        pa.list_(pa.int8()): ([[1, 2], None, [3]], 3 + 3),
        pa.large_list(pa.null()): ([[None, None]], 1 + 2),
        pa.list_(pa.int8(), 2): ([[1, 2], [3, 4]], 2 + 4),
        pa.struct({"a": pa.int8(), "b": pa.list_(pa.int8())}): ([{"a": 1, "b": [1, 2]}], 1 + 1 + 1 + 2),
        pa.map_(pa.string(), pa.int8()): ([[("a", 1), ("b", 2)]], 1 + 2 + 2 + 2),
    }
    for kind, (content, count) in values.items():
        assert values_in(pa.array([*content, *content], kind).slice(len(content))) == count, kind
        assert values_in(pa.chunked_array([content, content], kind)) == 2 * count


@pytest.mark.slow
def test_parquet_of_very_many_columns(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({f"c{n}": pa.array([], pa.int8()) for n in range(20_000)}), path)
    with pytest.raises(DataError, match="can't be read as Parquet: 20,000 columns; at most 16,384 are read"):
        next(format_of("table").rows(path, split="train", **NAMES))


@pytest.mark.slow
def test_class_labels_nested_without_end(tmp_path):
    table = pa.table({"q": ["x"], "a": ["y"]}).replace_schema_metadata({"huggingface": "[" * 100_000})
    pq.write_table(table, tmp_path / "t.parquet")
    assert next(format_of("table").rows(tmp_path / "t.parquet", split="train", **NAMES)).answers == ("y",)


# CSV


@pytest.mark.slow
def test_tables_of_many_columns_take_time_by_their_bytes(tmp_path):
    """A header of a million columns took 20 ms a row, of which each may have two bytes."""
    path = tmp_path / "t.csv"
    path.write_text("q,a" + "".join(f",c{n}" for n in range(16_000)) + "\n" + "x,y\n" * 20_000)
    begun = time.process_time()
    rows = list(format_of("table").rows(path, split="train", **NAMES))
    assert time.process_time() - begun < 3
    assert len(rows) == 20_000 and rows[0].fields["c15999"] == "" and rows[0].fields["a"] == "y"
    path.write_text("q,a" + "".join(f",c{n}" for n in range(20_000)) + "\nx,y\n")
    with pytest.raises(DataError, match=r"20,002 columns; at most 16,384 are read"):
        list(format_of("table").rows(path, split="train", **NAMES))


@pytest.mark.slow
def test_a_row_of_cells_without_end(tmp_path):
    """The quotes let it go on over lines, each of which is short."""
    path = tmp_path / "t.csv"
    path.write_text("q,a\nx,y" + ',"\n"' * 1_100_000 + "\n")
    with pytest.raises(DataError, match=r"line 1000000 belongs to a row of more than 1,000,000 cells"):
        list(format_of("table").rows(path, split="train", **NAMES))


def test_names_of_columns_in_a_message_are_cut(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"{n}" * 300 for n in range(1000, 6000)) + "\n")
    with pytest.raises(DataError, match="has no column 'q'; known: 1000") as problem:
        list(format_of("table").rows(path, split="train", **NAMES))
    assert len(str(problem.value)) < 30_000
