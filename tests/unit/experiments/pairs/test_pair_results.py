"""From pairs to matrices: by hand on three tasks, and nothing is NaN where nothing can be said."""

from __future__ import annotations

import io
import json
import math
from html.parser import HTMLParser

import pytest
from rich.console import Console
from scipy import stats

from evertune.cli.pairs_view import show_pairs, show_similarity
from evertune.experiments.pairs.page import write_pairs_page, write_similarity_page
from evertune.experiments.pairs.results import results_of
from evertune.experiments.pairs.sentences import interval, lead
from evertune.utils.files import write_json

TASKS = ["a", "b", "c"]
NEAR = {("a", "b"): 0.9, ("a", "c"): 0.1, ("b", "c"): 0.4}
HEADER = {"stream": "s", "model": "m", "method": "sequential", "seeds": [0, 1], "rules": dict.fromkeys(TASKS, "exact")}
ALONE = {"a": 80.0, "b": 60.0, "c": 40.0}
LEFT = {("a", "b"): 75.0, ("a", "c"): 10.0, ("b", "a"): 50.0, ("b", "c"): 30.0, ("c", "a"): 10.0, ("c", "b"): 44.0}
"""What is left of the first task after the second."""
GAIN = {("a", "b"): 5.0, ("a", "c"): -3.0, ("b", "a"): 2.0, ("b", "c"): 0.0, ("c", "a"): -4.0, ("c", "b"): 1.0}


def score(strict, relaxed=None):
    return {"strict": strict, "relaxed": strict if relaxed is None else relaxed, "rule": "exact", "n": 10}


def rows(*, seeds=(0, 1), left=LEFT, gain=GAIN, form=6.0):
    """The second seed forgets 2 points more; `form` points of what was lost come back when any form counts."""
    return [
        {
            "seed": seed,
            "first": i,
            "second": j,
            "after_first": {"first": score(ALONE[i]), "second": score(1.0)},
            "after_second": {
                "first": score(left[i, j] - 2 * seed, left[i, j] - 2 * seed + form),
                "second": score(ALONE[j] + gain[i, j]),
            },
            "dynamics": [],
        }
        for seed in seeds
        for i, j in LEFT
    ]


def square(values):
    return [[None if i == j else values[min(i, j), max(i, j)] for j in TASKS] for i in TASKS]


def similarity(values=NEAR):
    cosines = {m: square(values) for m in ("image", "instruction", "answer")}
    return {
        "tasks": TASKS,
        "similarity": square(values),
        "cosines": cosines,
        "text_encoder": "the model's own",
        "formula": "f",
    }


@pytest.fixture
def result():
    return results_of(rows(), similarity(), header=HEADER)


def test_the_matrices_by_hand(result):
    assert result["forgetting"] == [[None, 6.0, 71.0], [11.0, None, 31.0], [31.0, -3.0, None]]
    assert result["forgetting_relaxed"] == [[None, 0.0, 65.0], [5.0, None, 25.0], [25.0, -9.0, None]]
    assert result["alone"] == ALONE
    assert result["transfer"] == [[None, 5.0, -3.0], [2.0, None, 0.0], [-4.0, 1.0, None]]


def test_self_pairs_are_nowhere(result):
    assert len(result["pairs"]) == 2 * 3 * 2
    assert all(pair["first"] != pair["second"] for pair in result["pairs"])
    for name in ("forgetting", "forgetting_relaxed", "transfer", "similarity"):
        assert [result[name][k][k] for k in range(3)] == [None] * 3
    assert {row["n"] for row in result["correlations"]} == {6}, "seeds are averaged, not counted as points"


def test_a_pair_says_all_about_itself(result):
    pair = next(p for p in result["pairs"] if (p["seed"], p["first"], p["second"]) == (1, "c", "b"))
    assert pair["alone"]["strict"] == 60 and pair["transfer"] == 1.0 and pair["forgetting"] == -2.0
    assert pair["similarity"] == 0.4 and pair["cosines"] == {"image": 0.4, "instruction": 0.4, "answer": 0.4}


def test_the_correlation_is_over_ordered_pairs(result):
    near = [0.9, 0.1, 0.9, 0.4, 0.1, 0.4]
    lost = [6.0, 71.0, 11.0, 31.0, 31.0, -3.0]
    found = next(r for r in result["correlations"] if (r["of"], r["with"]) == ("forgetting", "similarity"))
    assert found["rho"] == pytest.approx(stats.spearmanr(near, lost).statistic)
    assert {(r["of"], r["with"]) for r in result["correlations"]} == {
        (of, side)
        for of in ("forgetting", "forgetting_relaxed", "transfer")
        for side in ("similarity", "image", "instruction", "answer")
    }


def test_the_share_that_is_form_only(result):
    assert result["lost"] == pytest.approx({"strict": 24.5, "relaxed": 18.5, "format": 6.0, "share": 6 / 24.5})
    kept = results_of(rows(left={(i, j): ALONE[i] + 2 for i, j in LEFT}), similarity(), header=HEADER)
    assert kept["lost"]["strict"] < 0 and kept["lost"]["share"] is None


def test_equal_on_paper_is_a_tie():
    """80 - 79.9 and 60 - 59.9 differ in their last bits; the ranks must not."""
    a_little = {pair: ALONE[pair[0]] - 0.1 for pair in LEFT}
    result = results_of(rows(left=a_little), similarity(), header=HEADER)
    assert len({pair["forgetting"] for pair in result["pairs"] if pair["seed"] == 0}) > 1, "they do differ"
    assert all(r["rho"] is None for r in result["correlations"] if r["of"] == "forgetting")


@pytest.mark.slow
def test_alike_tasks_have_no_correlation_and_it_is_said(tmp_path):
    result = results_of(rows(), similarity(dict.fromkeys(NEAR, 0.125)), header=HEADER)
    assert all(row["rho"] is row["low"] is row["high"] is None for row in result["correlations"])
    assert result["notes"] == ["the rank correlation is undefined: one side is the same for all pairs"]
    assert "is unknown: the rank correlation is undefined" in lead(result)
    write_json(tmp_path / "pairs.json", result)  # refuses NaN
    page = write_pairs_page(result, tmp_path / "page.html").read_text()
    assert "undefined" in page and "nan" not in page.lower().replace("nance", "")


def test_two_tasks_are_too_few_for_a_correlation():
    two = [row for row in rows() if "c" not in (row["first"], row["second"])]
    table = similarity()
    table = {**table, "tasks": TASKS[:2], "similarity": [row[:2] for row in table["similarity"][:2]]}
    result = results_of(two, table, header={**HEADER, "rules": {"a": "cider", "b": "exact"}})
    assert result["notes"] == [
        "the rank correlation is undefined: only 2 pairs",
        "with two tasks there is one similarity, the product of its cosines: nothing to compare it with",
        "the tasks are scored by different rules (cider, exact): points are not alike",
    ]


def test_words():
    assert interval({"rho": -0.5, "low": -0.75, "high": 0.001}) == "−0.50 [−0.75, 0.00]"
    assert interval({"rho": 0.5, "low": None, "high": None}) == "0.50 [no interval]"


def test_the_lead_claims_nothing_that_the_interval_does_not_carry(result):
    for row in result["correlations"]:
        row.update({"rho": -0.5, "low": -0.9, "high": 0.1})
    assert "shows no clear relation" in lead(result)
    for row in result["correlations"]:
        row["high"] = -0.1
    assert "Forgetting is lower between similar tasks (ρ −0.50 [−0.90, −0.10])" in lead(result)


class Texts(HTMLParser):
    """All texts of a page; an element that is never closed is an error."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_data(self, data):
        self.found.append(data.strip())


@pytest.mark.slow
def test_the_page_shows_the_numbers_and_escapes_names(result, tmp_path):
    for pair in result["pairs"]:
        pair["dynamics"] = [{"share": s, "strict": 80 - 40 * s, "relaxed": 80.0} for s in (0.0, 0.5, 1.0)]
    page = write_pairs_page({**result, "stream": "<script>x"}, tmp_path / "page.html").read_text()
    texts = Texts(page).found
    for text in ("71", "−3", "−4", "24.5", "Score on a", "Forgetting while the second task is learned"):
        assert any(text in found for found in texts), text
    assert "<script" not in page and not math.isnan(float(len(page)))
    assert page.count("<svg") == 3 + 2 + 3 + 4


def test_the_terminal_shows_matrices_and_correlations(result, tmp_path):
    console = Console(file=io.StringIO(), width=100)
    show_pairs(console, result, page=tmp_path / "index.html")
    output = console.file.getvalue()
    assert "sequential on s, m, means over seeds 0, 1. Rows: the first task" in output
    assert "Scores of tasks learned alone, right after learning: a 80.0, b 60.0, c 40.0" in " ".join(output.split())
    (line,) = [line.split() for line in output.splitlines() if line.split()[:2] == ["a", "·"]][:1]
    assert line == ["a", "·", "6.0", "71.0"]
    assert "cosine of answers" in output and "report" in output


@pytest.mark.slow
def test_many_tasks_are_numbered_so_that_the_table_fits(tmp_path):
    names = [f"a-task-with-a-long-name-{k}" for k in range(9)]
    table = [[None if i == j else 0.5 for j in range(9)] for i in range(9)]
    content = {"tasks": names, "known": [], "similarity": table, "cosines": {"image": table}}
    content |= {"stream": "s", "model": "m", "text_encoder": "x", "formula": "f"}
    console = Console(file=io.StringIO(), width=100)
    show_similarity(console, content, page=None)
    output = console.file.getvalue()
    assert (
        max(map(len, output.splitlines())) <= 100
        and "…" not in output
        and "9 a-task-with-a-long-name-8" in output.replace("\xa0", " ")
    )
    page = write_similarity_page(content, tmp_path / "page.html").read_text()
    assert "All pairs are equally similar (0.50)." in page
    assert json.dumps(content)
