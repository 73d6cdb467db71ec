"""A run's result as objects: frames, CSV, LaTeX, plots, texts of a few lines, and the same from disk."""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import replace

import pandas as pd
import pytest
from answered_runs import write_run
from matrices import matrix
from PIL import Image

import evertune
from evertune.metrics.metrics import metrics_of
from evertune.reporting.examples import Thumbnails, examples_of
from evertune.reporting.latex import as_latex, escaped
from evertune.reporting.tables import compare
from evertune.utils.errors import RunFolderError, UserError

SCORES = {"colour": [100.0, 0.0, 100.0, 100.0], "shape": [0.0, 0.0, 100.0]}


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "two" / "replay", SCORES)
    write_run(tmp_path / "two" / "ewc", {task: each[::-1] for task, each in SCORES.items()}, method="ewc")
    return tmp_path / "two"


def test_a_result_as_a_tidy_frame(folder):
    frame = evertune.load_run(folder).to_frame()
    assert list(frame.columns) == ["method", "seed", "stage", "task", "score", "relaxed", "n", "se", "probe"]
    assert len(frame) == 2 * 3 * 2
    assert frame.set_index(["method", "stage", "task"]).score["replay", 2, "colour"] == 75
    last = frame[(frame.method == "replay") & (frame.stage == 2)].set_index("task")
    assert last.n.to_dict() == {"colour": 4, "shape": 3}
    assert last.se["colour"] == pytest.approx(pd.Series(SCORES["colour"]).sem())
    again = frame[frame.method == "ewc"].pivot(index="stage", columns="task", values="score")
    assert metrics_of(again) == evertune.load_run(folder).runs["ewc"].matrix.metrics


def test_a_matrix_as_a_wide_frame(folder):
    run = evertune.load_run(folder).runs["replay"]
    frame = run.matrix.to_frame()
    assert list(frame.index) == ["base", "colour", "shape"] and list(frame.columns) == ["colour", "shape"]
    assert frame.loc["shape", "colour"] == 75 and frame.loc["base"].sum() == 0
    assert metrics_of(frame) == run.matrix.metrics
    assert run.matrix.to_frame(relaxed=True).equals(frame)
    started = replace(run.matrix, R=run.matrix.R[:1], relaxed=None)
    assert list(started.to_frame().index) == ["base"]
    with pytest.raises(UserError, match="no relaxed scores"):
        started.to_frame(relaxed=True)


def test_without_pandas_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = evertune.load_run(folder)
    for make in (result.to_frame, result.runs["ewc"].matrix.to_frame):
        with pytest.raises(UserError, match=r"to_frame\(\) needs pandas: pip install pandas"):
            make()
    assert len(result.to_csv().splitlines()) == 13
    assert metrics_of(result.runs["ewc"].matrix.R)


def test_csv_has_the_rows_of_the_frame(folder, tmp_path):
    result = evertune.load_run(folder)
    text = result.to_csv(tmp_path / "cells.csv")
    assert (tmp_path / "cells.csv").read_text() == text
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), result.to_frame())
    write_run(tmp_path / "odd", {'a,"b"': [0.0], "c": [100.0]})
    assert {row["task"] for row in csv.DictReader(io.StringIO(evertune.load_run(tmp_path / "odd").to_csv()))} == {
        'a,"b"',
        "c",
    }


def test_a_latex_table_of_methods_by_metrics(folder):
    text = evertune.load_run(folder).to_latex()
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrr}" and lines[1] == r"\toprule" and lines[-1] == r"\end{tabular}"
    assert lines[2].startswith("method & seeds & final average & learning accuracy & forgetting")
    assert [line.split(" & ")[0] for line in lines[4:-2]] == ["zero-shot", "ewc", "replay"]
    assert all(line.count(" & ") == 6 and line.endswith(r" \\") for line in [lines[2], *lines[4:-2]])
    assert r"$-$" in text and "−" not in text, "a minus of mathematics"


def test_what_latex_would_read_is_escaped():
    assert escaped(r"a_b 5% & $x^2$ {~} \n #1") == (
        r"a\_b 5\% \& \$x\textasciicircum{}2\$ \{\textasciitilde{}\} \textbackslash{}n \#1"
    )
    runs = [matrix("my_own+ewc", seed=seed, final=50.0 + seed) for seed in (1, 2)]
    assert r"my\_own+ewc & 2 & 51.5 $\pm$ 0.7" in as_latex(compare(runs))


@pytest.mark.slow
def test_plots_of_one_method_and_of_several(folder, tmp_path):
    result = evertune.load_run(folder)
    both, one = result.plot(), evertune.load_run(folder / "ewc").plot()
    assert ">replay 54<" in both._repr_svg_() and "Average over the tasks" in repr(both)
    assert one._repr_svg_() == result.runs["ewc"].plot()._repr_svg_() and "stages by tasks" in repr(one)
    for name, start in (("p.svg", b"<svg xmlns="), ("p.PNG", b"\x89PNG"), ("p.pdf", b"%PDF")):
        assert both.save(tmp_path / name).read_bytes().startswith(start)
    with Image.open(tmp_path / "p.PNG") as image:
        assert image.size == (900, 580) and image.convert("L").getextrema()[1] == 255
    assert one._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"p.gif: a plot is saved as .svg, .png or .pdf"):
        both.save(tmp_path / "p.gif")


def test_a_standalone_plot_is_well_formed_and_black_on_white(folder):
    ElementTree = pytest.importorskip("xml.etree.ElementTree")
    root = ElementTree.fromstring(evertune.load_run(folder).plot()._repr_svg_())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("color") == "black"
    assert root[0].get("fill") == "white"


def test_several_methods_on_one_task_have_no_curve(tmp_path):
    for method in ("a", "b"):
        write_run(tmp_path / method, {"only": [100.0]}, method=method)
    with pytest.raises(UserError, match=r"needs a stream of two tasks .*result.runs\['a'\].plot\(\)"):
        evertune.load_run(tmp_path).plot()


def test_texts_are_a_few_lines(folder):
    result = evertune.load_run(folder)
    text = repr(result)
    assert text.splitlines()[0] == f"Result in '{folder}': made-up, random, seed 0"
    assert "replay  final average 54.2, learning accuracy 16.7, forgetting -75.0" in text
    small = repr(result.runs["replay"].matrix).splitlines()
    assert small[0] == "Matrix(replay on made-up, random, seed 0: 2 of 2 stages, 2 tasks)"
    assert re.split(" +", small[1].strip()) == ["after", "colour", "shape"] and len(small) == 6
    assert repr(result.runs["replay"]).startswith(f"Run in '{folder}/replay'\nMatrix(replay")
    many = [f"task-{n}" for n in range(500)]
    long = replace(result.runs["ewc"].matrix, tasks=many, stages=many, R=[[1.0] * 500] * 501, relaxed=None)
    assert len(repr(long)) < 300 and "500 of 500 stages, 500 tasks" in repr(long)
    assert "in progress: 0 of 2 stages" in repr(
        replace(result, runs={"x": replace(result.runs["ewc"], matrix=replace(long, R=long.R[:1], stages=many[:2]))})
    )


def test_answers_of_a_cell(folder):
    run = evertune.load_run(folder).runs["replay"]
    rows = run.answers(2, "colour")
    assert [row["score"] for row in rows] == SCORES["colour"] and rows[0]["gold"] == ["a"]
    assert run.answers("shape", "colour") == rows
    assert (
        [row["score"] for row in run.answers("base", "shape")]
        == [0, 0, 0]
        == [row["relaxed"] for row in run.answers(0, "shape")]
    )
    for stage, task, complaint in (
        ("shapes", "colour", "unknown stage 'shapes'; did you mean 'shape'"),
        (3, "colour", "stage 3: expected 0 to 2, or a name: base, colour, shape"),
        (True, "colour", "stage True"),
        (0, "color", "unknown task 'color'; did you mean 'colour'"),
    ):
        with pytest.raises(UserError, match=complaint):
            run.answers(stage, task)
    (folder / "replay" / "answers" / "02" / "shape.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"shape.jsonl is missing"):
        run.answers(2, "shape")


def test_a_run_from_its_folder(folder, tmp_path):
    result = evertune.load_run(str(folder))
    assert set(result.runs) == {"replay", "ewc"} and result.report == folder / "report" / "index.html"
    one = evertune.load_run(folder / "ewc")
    assert list(one.runs) == ["ewc"] and one.runs["ewc"] == result.runs["ewc"] and one.folder == folder / "ewc"


def test_what_is_no_run_is_refused_in_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="a Result is no run folder: expected a path, for example 'runs/first'"):
        evertune.load_run(evertune.load_run(folder))
    with pytest.raises(RunFolderError, match="nowhere does not exist"):
        evertune.load_run(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="is not a folder"):
        evertune.load_run(folder / "ewc" / "matrix.json")
    with pytest.raises(UserError, match=r"holds no run .*; load one of .*two/ewc, .*two/replay"):
        evertune.load_run(tmp_path)
    write_run(folder / "again", SCORES, seed=1)
    with pytest.raises(UserError, match=r"holds several runs of replay \(again, replay\)"):
        evertune.load_run(folder)
    (folder / "again" / "matrix.json").write_text("{}")
    with pytest.raises(RunFolderError, match="matrix.json is not the matrix of a run"):
        evertune.load_run(folder)
    (folder / "ewc" / "matrix.json").unlink()
    (folder / "ewc" / "config.yaml").write_text("")
    with pytest.raises(UserError, match="the run in it has not finished its first row"):
        evertune.load_run(folder / "ewc")


def test_a_report_of_a_rule_that_only_the_run_knew(tmp_path):
    """The scores are in the rows, so the page needs no rule of the user's own."""
    folder = write_run(tmp_path / "run", SCORES, rule="my-own-rule")
    found = examples_of(folder, evertune.load_run(folder).runs["replay"].matrix, "shape", Thumbnails())
    assert not found.problem and [row.after.mark for row in found.rows].count("right") == 1
    bare = write_run(tmp_path / "bare", SCORES, rule="my-own-rule", scored=False)
    found = examples_of(bare, evertune.load_run(bare).runs["replay"].matrix, "shape", Thumbnails())
    assert "my-own-rule" in found.problem
