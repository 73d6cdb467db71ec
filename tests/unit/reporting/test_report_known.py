"""The report of a stream with tasks that were known before: numbers by hand, columns that say so."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from report_runs import Page, make_run
from rich.console import Console

from evertune.reporting.examples import Thumbnails, examples_of
from evertune.reporting.matrix import load_matrix
from evertune.reporting.page import write_report
from evertune.reporting.plots import forgetting_by_task, heat_map, learned_averages, task_forgetting
from evertune.reporting.tables import compare, metrics_with_references, rich_matrix
from evertune.utils.errors import RunFolderError

TASKS = ["old", "first", "second"]
R = [[60.0, 5.0, 10.0], [65.0, 80.0, 20.0], [55.0, 70.0, 90.0]]
DIRECT = [[60.0, 5.0, 10.0], [50.0, 85.0, 12.0], [52.0, 4.0, 88.0]]
JOINT = [[60.0, 5.0, 10.0], [62.0, 80.0, 90.0]]
KNOWN = {"known": TASKS[:1], "stages": TASKS[1:]}


def known_run(folder: Path, rows: list[list[float]] = R, **more: object) -> Path:
    return make_run(folder, rows, tasks=TASKS, **{**KNOWN, **more})


def test_tables_by_hand(tmp_path: Path) -> None:
    runs = [
        known_run(tmp_path / "s"),
        known_run(tmp_path / "d", DIRECT, method="direct"),
        known_run(tmp_path / "j", JOINT, method="joint", stages=["joint"]),
    ]
    matrices = [load_matrix(run) for run in runs]
    assert [matrices[0].stage_of(task) for task in TASKS] == [0, 1, 2]
    assert matrices[1].diagonal() == [None, 85.0, 88.0] and matrices[2].diagonal() is None
    values = {row.method: row.values for row in compare(matrices)}
    assert values["zero-shot"]["final_average"].mean == pytest.approx(25.0)
    assert values["sequential"]["forgetting"].mean == pytest.approx(10.0)
    assert values["sequential"]["intransigence"].mean == pytest.approx(1.5)
    assert values["sequential"]["relative_average"].mean == pytest.approx((70 / 85 + 90 / 88) / 2)
    assert values["sequential"]["gap_to_joint"].mean == pytest.approx(232 / 3 - 215 / 3)
    assert values["direct"]["learning_accuracy"].mean == pytest.approx(86.5)
    begun = load_matrix(known_run(tmp_path / "b", R[:2]))
    assert metrics_with_references(begun, [])["zero_shot"] == 7.5


def test_curves_by_hand(tmp_path: Path) -> None:
    matrix = load_matrix(known_run(tmp_path / "s"))
    assert learned_averages(matrix) == pytest.approx([72.5, 215 / 3])
    assert task_forgetting(matrix) == pytest.approx([10, 10])
    assert "old" in forgetting_by_task([matrix]) and "second" not in forgetting_by_task([matrix])
    direct = load_matrix(known_run(tmp_path / "d", DIRECT, method="direct"))
    assert learned_averages(direct) == pytest.approx([(60 + 85) / 2, (60 + 85 + 88) / 3])
    joint = load_matrix(known_run(tmp_path / "j", JOINT, method="joint", stages=["joint"]))
    assert learned_averages(joint) == pytest.approx([232 / 3] * 2)


def places(svg: str, text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(rf'<text[^>]*? x="([-\d.]+)" y="([-\d.]+)"[^>]*>{text}<', svg)]


@pytest.mark.slow
def test_the_heat_map_sets_known_columns_apart(tmp_path: Path) -> None:
    svg = heat_map(load_matrix(known_run(tmp_path / "s")))
    (old, _), (first, _), (second, _) = (places(svg, name)[0] for name in TASKS)
    assert first - old == pytest.approx(second - first + 6), "a gap after the known column"
    ((word, depth),) = places(svg, "known")
    assert word == pytest.approx(old) and depth < float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[0])
    assert "known" not in heat_map(load_matrix(make_run(tmp_path / "plain", R, tasks=TASKS, stages=TASKS[:2])))


@pytest.mark.slow
def test_the_page_says_what_was_known(tmp_path: Path) -> None:
    text = " ".join(Page(write_report([known_run(tmp_path / "s")], tmp_path / "out.html")).text.split())
    assert "2 tasks, learned one after another: first, second. Known before: old." in text
    assert "old known before" in text and "a_i: the row from which task i is known" in text
    assert "mean of max_{a_i≤l<T} R[l,i] - R[T,i] over a_i<T" in text
    plain = Page(write_report([make_run(tmp_path / "p", [*R, R[-1]], tasks=TASKS)], tmp_path / "plain.html")).text
    assert "known before" not in plain and "a_i" not in plain


def test_answers_to_a_known_task_are_compared_with_the_untouched_model(tmp_path: Path) -> None:
    run = known_run(tmp_path / "s")
    assert examples_of(run, load_matrix(run), "old", Thumbnails()).before == "base model"
    begun = known_run(tmp_path / "b", R[:1])
    assert examples_of(begun, load_matrix(begun), "old", Thumbnails()).problem == "nothing learned yet"


def test_the_terminal_says_what_was_known(tmp_path: Path) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(rich_matrix(load_matrix(known_run(tmp_path / "s"))))
    assert "known before: old" in console.export_text()


@pytest.mark.parametrize("known", [["first"], TASKS, "old"])
def test_known_tasks_that_are_not_the_first_ones_are_refused(tmp_path: Path, known: object) -> None:
    with pytest.raises(RunFolderError, match="'known' must name the first of the tasks"):
        load_matrix(known_run(tmp_path / "s", known=known))
