"""Matrices as people have them: index columns, numbered headers, no base row, blank cells, %, BOM, TSV, semicolons."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evertune.cli.main import app
from evertune.metrics.matrix_files import read_matrix
from evertune.metrics.metrics import metrics_of
from evertune.utils.errors import UserError

FULL = [[0, 0, 0], [80, 5, 10], [60, 70, 12], [75, 72, 65]]
SQUARE = FULL[1:]
ABSENT = [None, None, None]
LOWER = [[80, None, None], [60, 70, None], [75, 72, 65]]
NEEDS_BASE = ("zero_shot", "forward_transfer", "bwt_paper")


def read(tmp_path, text, name="m.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_matrix(path, **options)


@pytest.mark.parametrize(
    "text",
    [
        "0,0,0\n80,5,10\n60,70,12\n75,72,65\n",
        ",a,b,c\n0,0,0,0\n1,80,5,10\n2,60,70,12\n3,75,72,65\n",
        "stage,a,b,c\n0,0,0,0\n1,80,5,10\n2,60,70,12\n3,75,72,65\n",
        ",a,b,c\nbase,0,0,0\na,80,5,10\nb,60,70,12\nc,75,72,65\n",
        ",0,1,2\n0,0,0,0\n1,80,5,10\n2,60,70,12\n3,75,72,65\n",
        "a,b,c\n0,0,0\n80,5,10\n60,70,12\n75,72,65\n",
        "0,0,0,0\n1,80,5,10\n2,60,70,12\n3,75,72,65\n",
        "steps,a,b,c\n0,0,0,0\n500,80,5,10\n1000,60,70,12\n1500,75,72,65\n",
        "\ufeff0,0,0\n80,5,10\n60,70,12\n75,72,65\n",
        "\ufeff,a,b,c\r\n0,0,0,0\r\n1,80,5,10\r\n2,60,70,12\r\n3,75,72,65\r\n",
        "0%,0%,0%\n80%,5 %,10%\n60%,70%,12%\n75%,72%,65%\n",
        "0\t0\t0\n80\t5\t10\n60\t70\t12\n75\t72\t65\n",
        "after;a;b;c\n-;0,0;0,0;0,0\na;80,0;5,0;10,0\nb;60;70;12\nc;75;72;65\n",
        "0;0;0\n80;5;10\n60;70;12\n75;72;65\n",
        "0.0e+00 0.0e+00 0.0e+00\n8.0e+01 5 10\n60 70 12\n75 72 65\n",
        "after,c,a,b\nbase,0,0,0\na,10,80,5\nb,12,60,70\nc,65,75,72\n",
    ],
    ids=[
        "plain",
        "pandas index",
        "stage numbers",
        "names",
        "pandas header and index",
        "header without index",
        "index without header",
        "training steps",
        "BOM",
        "BOM and index",
        "percent",
        "tabs",
        "semicolons and decimal commas",
        "semicolons",
        "numpy",
        "columns in another order than the rows",
    ],
)
@pytest.mark.parametrize("name", ["m.csv", "m.CSV", "m.txt"])
def test_one_matrix_in_every_layout(tmp_path, text, name):
    found = read(tmp_path, text, name)
    assert found.R == FULL and found.known == 0
    assert metrics_of(found.R) == metrics_of(FULL)


@pytest.mark.parametrize("text", [",a,b\n0,10,20\n1,80,30\n2,60,70\n", "stage,a,b\n0,10,20\n1,80,30\n2,60,70\n"])
def test_an_index_column_is_no_task(tmp_path, text):
    assert metrics_of(read(tmp_path, text).R)["final_average"] == 65


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "80,5,10\n60,70,12\n75,72,65\n"),
        ("m.csv", "0,1,2\n80,5,10\n60,70,12\n75,72,65\n"),
        ("m.csv", "1,2,3\n80,5,10\n60,70,12\n75,72,65\n"),
        ("m.csv", "after,A,B,C\nA,80,5,10\nB,60,70,12\nC,75,72,65\n"),
        ("m.csv", ",0,1,2\n0,80,5,10\n1,60,70,12\n2,75,72,65\n"),
        ("m.tsv", "0\t80\t5\t10\n1\t60\t70\t12\n2\t75\t72\t65\n"),
        ("m.json", json.dumps(SQUARE)),
        ("m.json", json.dumps({"R": SQUARE})),
        ("m.json", json.dumps([["80%", "5%", "10%"], ["60%", "70%", "12%"], ["75%", "72%", "65%"]])),
    ],
)
def test_a_square_matrix_has_no_row_of_the_base_model(tmp_path, name, text):
    found = read(tmp_path, text, name)
    assert [ABSENT, *SQUARE] == found.R
    assert any("base model" in note and "--base" in note for note in found.notes)
    got, whole = metrics_of(found.R), metrics_of(FULL)
    for metric, value in got.items():
        assert value == (None if metric in NEEDS_BASE else whole[metric]), metric


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "after,A,B,C\nA,80,,\nB,60,70,\nC,75,72,65\n"),
        ("m.csv", "80,,\n60,70,\n75,72,65\n"),
        ("m.csv", "80\n60,70\n75,72,65\n"),
        ("m.csv", ",A,B,C\n0,80.0,nan,NaN\n1,60.0,70.0,-\n2,75.0,72.0,65.0\n"),
        ("m.csv", "80;;\n60;70;\n75;72;65\n"),
        ("m.tsv", "80\t\t\n60\t70\t\n75\t72\t65\n"),
        ("m.json", "[[80], [60, 70], [75, 72, 65]]"),
        ("m.json", "[[80, null, null], [60, 70, null], [75, 72, 65]]"),
        ("m.json", "[[80, NaN, NaN], [60, 70, NaN], [75, 72, 65]]"),
        ("m.json", b"\xef\xbb\xbf[[80], [60, 70], [75, 72, 65]]"),
    ],
)
def test_a_lower_triangle_gives_what_needs_no_more(tmp_path, name, text):
    found = read(tmp_path, text, name)
    assert [ABSENT, *LOWER] == found.R
    got, whole = metrics_of(found.R), metrics_of(FULL)
    for metric in ("final_average", "mean_average", "learning_accuracy", "bwt", "forgetting"):
        assert got[metric] == whole[metric], metric
    for metric in NEEDS_BASE:
        assert got[metric] is None, metric


def test_a_lower_triangle_below_the_row_of_the_base_model(tmp_path):
    found = read(tmp_path, "1,2,4\n80\n60,70\n75,72,65\n")
    assert [[1, 2, 4], *LOWER] == found.R
    got = metrics_of(found.R)
    assert got["zero_shot"] == pytest.approx(7 / 3) and got["forward_transfer"] is None


def test_with_known_tasks(tmp_path):
    rows = "60,5,10\n65,80,20\n55,70,90\n"
    assert read(tmp_path, rows, known=1).R == [[60, 5, 10], [65, 80, 20], [55, 70, 90]]
    square = read(tmp_path, "65,80,20\n55,70,90\n", known=1)
    assert square.R == [ABSENT, [65, 80, 20], [55, 70, 90]]
    got = metrics_of(square.R, known=1)
    assert got["learning_accuracy"] == 85 and got["bwt"] is None and got["forgetting"] is None, (
        "from row 0 on for a known task"
    )
    lower = read(tmp_path, json.dumps({"R": [[65, 80], [55, 70, 90]], "known": ["old"]}), "m.json")
    assert lower.R == [ABSENT, [65, 80, None], [55, 70, 90]]


def test_the_columns_of_known_tasks_come_first_and_the_others_as_they_were_learned(tmp_path):
    rows = "after,old,b,a\nbase,60,5,10\na,65,80,20\nb,55,70,90\n"
    found = read(tmp_path, rows, known=1)
    assert found.R == [[60, 10, 5], [65, 20, 80], [55, 90, 70]] and "order" in found.notes[0]


def test_a_decimal_comma_is_one_wherever_commas_separate_nothing(tmp_path):
    assert read(tmp_path, "80,5\t5,25\n60,0\t70\n", "m.tsv").R[1:] == [[80.5, 5.25], [60, 70]]
    assert read(tmp_path, "80,5;5,25\n60,0;70\n").R[1:] == [[80.5, 5.25], [60, 70]]


def test_what_the_shape_can_not_tell_is_said_by_the_reader(tmp_path):
    rows = "0,0,0\n80,5,10\n60,70,12\n"
    assert read(tmp_path, rows).R[0] == ABSENT
    assert FULL[:3] == read(tmp_path, rows, base=True).R
    assert read(tmp_path, "70,80,90\n", base=False).R == [ABSENT, [70, 80, 90]]
    in_progress = read(tmp_path, "after,a,b,c\nbase,0,0,0\na,80,5,10\nb,60,70,12\n")
    assert FULL[:3] == in_progress.R, "its rows have names"
    run = {"R": [[0, 0], [70, 80]], "tasks": ["a", "b"], "stages": ["joint"]}
    assert read(tmp_path, json.dumps(run), "matrix.json").R == [[0, 0], [70, 80]]


def test_what_was_made_of_a_matrix_is_said(tmp_path):
    numbered = read(tmp_path, "0,1,2\n0,0,0\n80,5,10\n60,70,12\n75,72,65\n")
    assert numbered.R == FULL and "0, 1, 2" in numbered.notes[0] and "0.0" in numbered.notes[0]
    assert [[0, 1, 2], *SQUARE] == read(tmp_path, "0.0,1.0,2.0\n80,5,10\n60,70,12\n75,72,65\n").R
    other = read(tmp_path, "after,c,a,b\nbase,0,0,0\na,10,80,5\nb,12,60,70\nc,65,75,72\n")
    assert "order" in other.notes[0]
    odd = read(tmp_path, "0,0,0,0\n80,5,10,3\n60,70,12,4\n")
    assert "3 rows" in odd.notes[0] and "4 columns" in odd.notes[0]
    assert read(tmp_path, "0,0,0\n80,5,10\n60,70,12\n75,72,65\n").notes == ()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.csv", "80,60,75\n,70,72\n,,65\n", "above the diagonal.*transpose"),
        ("m.json", "[[80, 60, 75], [null, 70, 72], [null, null, 65]]", "above the diagonal.*transpose"),
        ("m.csv", "a,b\n80,5\n60,oops\n", "m.csv:3: 'oops' is not a number"),
        ("m.csv", "80,5\noops,7\n", "m.csv:2: 'oops' is not a number"),
        ("m.csv", "80,5,7\n60,70\n75,72,65\n", "row 2 of the matrix has 2 scores, row 1 has 3"),
        ("m.csv", "after,a,b,c\na,80,5x,7\nb,60,70,6\n", "'5x' is not a number"),
        ("m.csv", "80,5x,7\n60,70,6\n50,65,90\n", "m.csv:1: '5x' is not a number"),
        ("m.csv", "80,inf\n60,70\n", "m.csv:1: 'inf' is not a number"),
        ("m.csv", "a,b\n,\n,\n", "no rows of numbers"),
        ("m.json", "[[1, true], [2, 3]]", "row 1, column 2 of the matrix is True"),
        ("m.json", "[[1, Infinity], [2, 3]]", "row 1, column 2 of the matrix is inf"),
        ("m.json", "[1, 2]", "expected rows"),
        ("m.csv", b"\xff\xfe8\x000\x00", "UTF-8"),
    ],
)
def test_what_can_not_be_read_is_refused(tmp_path, name, text, complaint):
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, text, name)


@pytest.mark.slow
def test_the_command_prints_what_it_made_of_the_file(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("80,5,10\n60,70,12\n75,72,65\n")
    output = json.loads(CliRunner().invoke(app, ["metrics", str(path), "--json"]).stdout)
    assert output["metrics"]["bwt"] == -1.5 and output["metrics"]["zero_shot"] is None
    assert "base model" in output["notes"][0]
    output = json.loads(CliRunner().invoke(app, ["metrics", str(path), "--base", "--json"]).stdout)
    assert output["metrics"]["zero_shot"] == pytest.approx(95 / 3) and output["metrics"]["learning_accuracy"] is None


@pytest.mark.parametrize("name", ["avg", "Average", "mean", "ACC", "Avg.", "mean acc", "BWT"])
def test_summaries_of_a_table_are_no_tasks_and_no_stages(tmp_path, name):
    # As a column, an average was a task; as a last row, it was a stage, and the first stage the base model.
    lines = [",a,b,c,!\na,80,5,10,31.7\nb,60,70,12,47.3\nc,75,72,65,70.7\n!,71.7,49,29,\n"]
    lines += [",a,b,c\na,80,5,10\nb,60,70,12\nc,75,72,65\n!,71.7,49,29\n"]
    lines += [",a,b,c,!\nbase,0,0,0,0\na,80,5,10,31.7\nb,60,70,12,47.3\nc,75,72,65,70.7\n"]
    for text, base in zip(lines, (ABSENT, ABSENT, FULL[0]), strict=True):
        found = read(tmp_path, text.replace("!", name))
        assert [base, *SQUARE] == found.R
        assert any("left out" in note and name in note for note in found.notes)


@pytest.mark.parametrize("title", ["# my matrix", "Accuracy of SeqFT", "# numpy\n# two lines"])
def test_a_title_is_no_header(tmp_path, title):
    # With a title in one cell, the first column of scores was dropped as an index.
    assert read(tmp_path, f"{title}\n80.5,5,10\n60,70,12\n75,72,65\n").R[1:] == [[80.5, 5, 10], *SQUARE[1:]]
    assert read(tmp_path, f"{title}\n,a,b,c\n0,0,0,0\n1,80,5,10\n2,60,70,12\n3,75,72,65\n").R == FULL


def test_separators_at_the_ends_of_lines_are_no_column(tmp_path):
    assert [ABSENT, *SQUARE] == read(tmp_path, "80,5,10,\n60,70,12,\n75,72,65,\n").R
    assert [ABSENT, *SQUARE] == read(tmp_path, ",a,b,c,,\na,80,5,10,,\nb,60,70,12,,\nc,75,72,65,,\n").R


def test_names_go_with_their_columns_where_later_rows_are_missing(tmp_path):
    # The header's names were counted from its end: task a had the column b, and its row was the base model's.
    found = read(tmp_path, "after,a,b,c\na,80\nb,60,70\n")
    assert found.R == [[None, None], [80, None], [60, 70]]


@pytest.mark.parametrize("text", ["may,june,july\n80,3\n75.5,70\n", "stage,may,june,july\n1,80,3\n2,75.5,70\n"])
def test_a_header_with_more_names_than_columns_is_said(tmp_path, text):
    notes = read(tmp_path, text).notes
    assert any("the header has no scores below july" in note for note in notes)
    assert not any("no scores below" in note for note in read(tmp_path, "may,june\n80,3\n75.5,70\n").notes)
    assert not any("no scores below" in note for note in read(tmp_path, "stage,may,june\n1,80,3\n2,75.5,70\n").notes)
    assert not any("no scores below" in note for note in read(tmp_path, "may,june\n0,80,3\n1,75.5,70\n").notes)
    assert not any("no scores below" in note for note in read(tmp_path, "may,june,,\n80,3\n75.5,70\n").notes)


def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv does not exist$"):
        read_matrix(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="is a folder: give the file of a matrix"):
        read_matrix(tmp_path)
