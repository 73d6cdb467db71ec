"""The reader of large JSON: the values that the standard library reads, from pieces of any size; mistakes by place."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.data import json_lists
from evertune.data.json_lists import items, lines, members
from evertune.utils.errors import DataError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def numbered(values):
    return list(enumerate(values, start=1))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "a.json"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Every value is cut somewhere."""
    monkeypatch.setattr(json_lists, "PIECE", 5)


indents = st.sampled_from([None, 0, 3, 40])


@pytest.mark.slow
@given(values=st.lists(VALUES, max_size=6), indent=indents, plain=st.booleans())
def test_a_list_as_the_standard_library_reads_it(path, values, indent, plain):
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=plain), encoding="utf-8", errors="surrogatepass")
    assert list(items(path)) == numbered(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.slow
@given(value=st.dictionaries(st.text(), VALUES, max_size=6), indent=indents)
def test_members_and_the_list_under_a_key(path, value, indent):
    path.write_text(json.dumps(value, indent=indent))
    assert list(members(path)) == [(n, key, inner) for n, (key, inner) in enumerate(value.items(), start=1)]
    path.write_text(json.dumps({"info": value, "data": list(value.values()), "end": [1]}, indent=indent))
    assert list(items(path, under="data")) == numbered(value.values())


@pytest.mark.slow
@given(values=st.lists(VALUES, max_size=6))
def test_lines(path, values):
    path.write_text("".join(f"{json.dumps(value)}\n\n" for value in values))
    assert list(lines(path)) == [(2 * n + 1, value) for n, value in enumerate(values)]


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "read", "complaint"),
    [
        ('[{"a": 1},\n {"a": tru}]', items, r":2: not valid JSON \(column 8: Expecting value"),
        ('[{"a": 1},\n {"a" 1}]', items, r":2: not valid JSON \(column 7: Expecting ':' delimiter"),
        ('[{"a": 1}\n {"a": 1}]', items, r":2: not valid JSON \(column 2: , or \] is needed"),
        ('[{"a": 1},\n {"a": "x', items, r":2: not valid JSON \(column 8: Unterminated string"),
        ('[{"a": 1},', items, r":1: not valid JSON \(column 11: Expecting value"),
        ('[1, 2] "more"', items, r":1: not valid JSON \(column 8: something follows"),
        ('{"a": [1]}', items, r":1: not valid JSON \(column 1: \[ is needed"),
        ("", items, r":1: not valid JSON \(column 1: \[ is needed"),
        ('["\x01"]', items, "Invalid control character"),
        ("[" * 200_000, items, "not valid JSON"),
        ("[" + "1" * 5_000 + "]", items, "not valid JSON .*digits"),
        ("[[1]]", members, r":1: not valid JSON \(column 1: \{ is needed"),
        ('{"a": 1,\n\n 2: 3}', members, r":3: not valid JSON \(column 2: a key in double quotes"),
        ('{"a": 1,}', members, r":1: not valid JSON \(column 9: a key in double quotes"),
        ('{"a": 1}\n{"a": ]}', lines, r":2: not valid JSON \(column 7: Expecting value"),
    ],
)
def test_mistakes_are_named_with_line_and_column(tmp_path, monkeypatch, piece, text, read, complaint):
    monkeypatch.setattr(json_lists, "PIECE", piece)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=complaint):
        list(read(tmp_path / "a.json"))


def test_a_missing_list_a_missing_file_and_other_bytes(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"annotations": []}')
    with pytest.raises(DataError, match="has no list 'questions'"):
        list(items(path, under="questions"))
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        list(items(tmp_path / "none.json"))
    with pytest.raises(DataError, match="can't be read"):
        list(items(tmp_path))
    path.write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="can't be read as UTF-8"):
        list(items(path))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert list(items(tmp_path / "a.json")) == [(1, 1)]


@pytest.mark.slow
def test_memory_holds_a_piece_and_an_item(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", 1 << 16)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": n, "text": "x" * 200} for n in range(40_000)]))
    tracemalloc.start()
    count = sum(1 for _ in items(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 40_000 and path.stat().st_size > 8e6 and peak < 1e6


def test_a_mistake_in_the_middle_is_found_without_reading_on(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "PIECE", 1 << 16)
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1 "b": 2},' + ", ".join(["1234567890"] * 1_000_000) + "]")
    tracemalloc.start()
    with pytest.raises(DataError, match="column 10"):
        list(items(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6


def test_numbers_that_json_does_not_have_are_no_numbers(path):
    path.write_text('[{"a": NaN}, [Infinity, -Infinity], 1]')
    (_, first), (_, second), _ = items(path)
    assert [repr(value) for value in (first["a"], *second)] == ["NaN", "Infinity", "-Infinity"]
    assert not any(isinstance(value, str | int | float | list | dict) for value in (first["a"], *second))
