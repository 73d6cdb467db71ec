"""A report on several seeds: the mean matrix of each method first, seeds behind it, everything in one order, once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import DIRECT, JOINT, REPLAY, SEQUENTIAL, Page, make_run

from evertune.metrics.metrics import formulas
from evertune.reporting.definitions import definitions
from evertune.reporting.examples import Thumbnails, examples_of
from evertune.reporting.labels import EXPLANATIONS
from evertune.reporting.matrix import Matrix, load_matrix
from evertune.reporting.page import write_report
from evertune.reporting.plots import average_curve, mean_heat_map
from evertune.reporting.seeds import mean_matrix
from evertune.reporting.tables import compare, in_order

ORDER = ["sequential", "ewc", "replay", "joint", "direct"]
SCORES = {
    "direct": DIRECT,
    "replay": REPLAY,
    "joint": JOINT,
    "ewc": [[min(100.0, score + 2) for score in row] for row in SEQUENTIAL],
    "sequential": SEQUENTIAL,
}


def seeds_of(folder: Path, seeds: tuple[int, ...] = (1, 0)) -> list[Path]:
    """A run of each method and seed, in no order that a page has; the second seed is some points better."""
    return [
        make_run(folder / f"s{seed}" / method, [[min(100.0, s + 3 * seed) for s in row] for row in R], seed=seed)
        if method == "sequential"
        else make_run(folder / f"s{seed}" / method, R, method=method, seed=seed)
        for seed in seeds
        for method, R in SCORES.items()
    ]


def matrix_of(R: list[list[float | None]], seed: int, **more: Any) -> Matrix:
    return Matrix("m", "s", "ewc", seed, ["a", "b"], ["a", "b"], R, **more)


def test_the_mean_matrix_is_the_mean_of_the_seeds_that_have_a_cell() -> None:
    R = [
        [[1.0, None], [80.0, 5.0], [60.5, 90.0]],
        [[2.0, None], [70.0, None], [41.0, 80.0]],
        [[6.0, None], [75.0, None], [52.0, 70.0]],
    ]
    mean = mean_matrix("ewc", [matrix_of(rows, seed) for rows, seed in zip(R, (2, 0, 1), strict=True)])
    assert mean is not None and mean.seeds == (0, 1, 2)
    scores = np.array(R, dtype=float)
    with np.errstate(invalid="ignore"):
        wanted = np.nansum(scores, axis=0) / np.isfinite(scores).sum(axis=0)
    np.testing.assert_allclose(np.array(mean.R, dtype=float), wanted, equal_nan=True)
    assert mean.counts == np.isfinite(scores).sum(axis=0).tolist()
    assert mean.partial == 1 and mean.shares() == {(1, 1): "1/3"}
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", mean_heat_map(mean))
    assert "1/3" in texts and {"75", "51", "80"} <= set(texts) and "0" not in texts


def test_runs_in_progress_and_single_seeds_have_no_mean() -> None:
    done, begun = [[0.0, 0.0], [80.0, 0.0], [60.0, 90.0]], [[0.0, 0.0], [20.0, 0.0]]
    assert mean_matrix("ewc", [matrix_of(done, 0)]) is None
    assert mean_matrix("ewc", [matrix_of(done, 0), matrix_of(begun, 1)]) is None
    mean = mean_matrix("ewc", [matrix_of(done, 0), matrix_of(begun, 1), matrix_of(done, 2)])
    assert mean is not None and mean.seeds == (0, 2) and done == mean.R


@pytest.mark.slow
def test_methods_have_one_order_and_their_mean_before_their_seeds(tmp_path: Path) -> None:
    runs = seeds_of(tmp_path)
    source = write_report(runs, tmp_path / "out.html").read_text()
    assert re.findall(r"<h2>([a-z]+), 2 seeds</h2>", source) == ORDER
    assert re.findall(r'<a href="#method-1-\d">([a-z]+)</a>', source) == ORDER
    table = source[source.index("Methods side by side") : source.index("</table>")]
    assert re.findall(r'scope="row">([a-z-]+)</th>', table) == ["zero-shot", *ORDER]
    curve = average_curve([load_matrix(run) for run in runs])
    assert f"after each stage: {', '.join(ORDER)}" in curve and curve in source
    sections = re.split(r'<section id="method-1-\d">', source.split('<section id="definitions">')[0])[1:]
    for name, section in zip(ORDER, sections, strict=True):
        before = section[: section.index("<details")]
        assert f"Mean scores of {name} over seeds 0, 1" in before and before.count('<svg class="plot"') == 1
        assert re.findall(r'<details class="seed"><summary><b>(Seed \d)', section) == ["Seed 0", "Seed 1"]
    assert "in some of the seeds only" not in source


@pytest.mark.slow
def test_a_cell_that_a_seed_lacks_is_not_averaged_silently(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", SEQUENTIAL), make_run(tmp_path / "b", SEQUENTIAL, seed=1)]
    content = json.loads((runs[1] / "matrix.json").read_text())
    content["R"][1][2] = content["relaxed"][1][2] = None
    (runs[1] / "matrix.json").write_text(json.dumps(content))
    text = " ".join(Page(write_report(runs, tmp_path / "out.html")).text.split())
    assert "1 cell was evaluated in some of the seeds only" in text and " 1/2 " in text


@pytest.mark.slow
def test_a_definition_stands_once_however_many_runs_there_are(tmp_path: Path) -> None:
    text = " ".join(Page(write_report(seeds_of(tmp_path), tmp_path / "out.html")).text.split())
    found = [metric.title for metric in definitions([load_matrix(tmp_path / "s0" / "ewc")]).metrics]
    assert len(found) == len(formulas())
    once = [*formulas().values(), *(EXPLANATIONS[name] for name in formulas()), "not a random sample", "Wilson"]
    lines = [line for line in once if text.count(line) != 1 and line not in " ".join(set(once) - {line})]
    assert lines == []
    for line in ("Down a column", "Outlined", "partly right: above 0", "R[t,i]: score on task i"):
        assert text.count(line) == 1, line


def test_two_folders_of_one_name_are_two_variants(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / place / "ewc", R, method="ewc") for place, R in (("a", SEQUENTIAL), ("b", REPLAY))]
    matrices = [load_matrix(run) for run in runs]
    assert [row.method for row in compare(matrices)] == ["zero-shot", "ewc (ewc, 1)", "ewc (ewc, 2)"]
    assert sum(map(len, in_order(matrices).values())) == 2


def test_equal_gold_answers_are_shown_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "s", SEQUENTIAL)
    for path in run.glob("answers/*/*.jsonl"):
        path.write_text(path.read_text().replace('["circle"]', '["circle", "ring", "circle"]'))
    examples = examples_of(run, load_matrix(run), "shapes", Thumbnails())
    assert {row.gold for row in examples.rows} == {"circle / ring"}
