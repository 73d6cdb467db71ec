"""Sentences break between words and before no unit; what is there to be copied is whole; a pipe gets whole lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import evertune.cli
from evertune.cli.options import print_json
from evertune.cli.printing import broken, show_facts, show_note, show_text, show_value
from evertune.reporting.blocks import BlockTable
from evertune.utils.terminal import CONTROL, Terminal


def printed(show, *arguments, width=80, **more):
    out = io.StringIO()
    show(Console(file=out, width=width), *arguments, **more)
    return out.getvalue().splitlines()


def test_a_sentence_breaks_between_words_and_a_long_word_stays_whole():
    """A terminal broke `bfloat16` after `bfloa`, and rich breaks a path that is longer than a line."""
    path = "/a/" + "long/" * 20
    lines = printed(show_text, f"one two three {path} four", width=20)
    assert lines == ["one two three", path, "four"]
    assert printed(show_text, "[red]no markup[/red]") == ["[red]no markup[/red]"]


@pytest.mark.parametrize(
    "value", ["12.5 kB", "5 min 0 s", "35.7 ± 2.0", "−0.62 [−0.81, −0.30]", "80 %,", "-1.0 to +2.0"]
)
def test_no_value_is_broken_over_two_lines(value):
    for width in range(len(value), len(value) + 12):
        lines = printed(show_text, f"at most {value} of it", width=width)
        assert any(value in line for line in lines), (width, lines)
        assert max(map(len, lines)) <= width


def test_characters_that_take_two_columns_are_counted_so():
    first, second = broken(Text("図 図図図図 図"), width=12)
    assert (first.plain, second.plain) == ("図 図図図図", "図")


def test_styles_and_empty_lines_stay():
    lines = list(broken(Text.assemble(("note", "yellow"), "  a b\n\nc"), width=8))
    assert [line.plain for line in lines] == ["note  a", "b", "", "c"]
    assert lines[0].spans and not lines[1].spans


def test_a_value_is_one_line_at_any_width():
    assert printed(show_value, "report", "/a place/" + "x" * 90, width=40) == ["report  /a place/" + "x" * 90]


def test_a_pipe_gets_one_line():
    out = io.StringIO()
    show_note(Terminal(file=out), "word " * 100)
    assert out.getvalue() == "note  " + ("word " * 100).strip() + "\n"


def test_facts_have_no_markup():
    assert printed(show_facts, "[x]: title", {"[y]": "[z]"}) == ["[x]: title", "[y]  [z]"]


def test_an_address_among_facts_is_one_line_and_texts_hang_below_their_beginning():
    """`.../docs/Finetune_Custom_Data.md` was broken before its last letters."""
    address = "https://example.org/" + "long/" * 20
    lines = printed(show_facts, "llava", {"source": address, "files": "one two " * 20}, width=40)
    assert lines[:2] == ["llava", f"source  {address}"]
    assert lines[2].startswith("files   one two") and all(line.startswith(" " * 8 + "one") for line in lines[3:])


def test_json_on_a_terminal_steers_it_not(capsys):
    value = {"name": "\x9b31m\u202e\x1b[2J\nä"}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value and not CONTROL.search(text) and "ä" in text


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.text("ab 図", min_size=1, max_size=24), min_size=2, max_size=9),
    st.lists(st.integers(1, 14), min_size=9, max_size=9),
    st.sampled_from([40, 80, 140]),
    st.integers(0, 1),
)
def test_no_table_is_wider_than_the_terminal_or_cuts_a_number(titles, widths, width, texts):
    """rich narrowed a column below its longest cell, made it wide again and cut what stood on the right."""
    cells = ["n" * 8, *("9" * size for size in widths)][: len(titles)]
    out = io.StringIO()
    Console(file=out, width=width).print(BlockTable(titles, [cells], texts=texts))
    lines = out.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    shown = [word for line in lines for word in line.split()]
    assert all(shown.count(cell) >= cells.count(cell) for cell in cells)


def test_no_command_leaves_the_breaking_of_sentences_to_the_terminal():
    """`soft_wrap` is for rows, which fit, and for what `show_value` prints."""
    allowed = {"printing.py", "console.py"}
    files = [file for file in Path(evertune.cli.__file__).parent.glob("*.py") if "soft_wrap" in file.read_text()]
    assert {file.name for file in files} == allowed


@pytest.mark.parametrize("width", [80, 140])
def test_a_text_at_the_end_of_a_table_stands_on_the_left_and_wraps(width):
    """The meaning of each kind of cache stood on the right."""
    header = ("kind", "entries", "size", "longest unused", "last used", "what")
    rows = [("features", "6", "372.2 kB", "12 days", "0 min", "vision features of images"), ("rows", *"1234", "x" * 39)]
    out = io.StringIO()
    Console(file=out, width=width).print(BlockTable(header, rows, texts=1, total=("total", "7", "9 MB", "", "", "")))
    lines = out.getvalue().splitlines()
    column = next(line for line in lines if "what" in line).index("what")
    (features,) = [line for line in lines if line.startswith("features")]
    assert features[column:].startswith("vision features") and max(map(len, lines)) <= width
    assert lines[-1].split() == ["total", "7", "9", "MB"]
