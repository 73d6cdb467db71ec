"""The page, the Markdown and the terminal's table of a study, from results that nobody measured."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from test_study_findings import ASKED, comparison, study

from evertune.cli.study_view import show_study
from evertune.experiments.study.choose import ChosenValue
from evertune.experiments.study.findings import findings, variants
from evertune.experiments.study.markdown import as_markdown
from evertune.experiments.study.overview import overview_of
from evertune.experiments.study.page import write_page
from evertune.experiments.study.result import Result, bootstrap_text, in_short, interval_text, why_not
from evertune.reporting.labels import signed
from evertune.reporting.tables import compare


def result(runs, **more):
    choice = ChosenValue(
        "strengths", "one", "aligned", "ewc", "ewc.strength", 10.0, True, (100, 101), ((1.0, 40.0), (10.0, 50.0))
    )
    values = {
        "name": "small",
        "title": "A small <study>",
        "progress": {"main": (len(runs), len(runs) + 1)},
        "findings": findings(runs, ASKED),
        "rows": compare(runs),
        "variants": variants(runs),
        "choices": [choice],
        "notes": ["a <b>note</b>"],
        "failed": {},
    }
    return Result(**{**values, **more})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = study({"tir+ewc": (30, 5)})
    return write_page(result(runs), folder / "index.html").read_text()


@pytest.mark.slow
def test_the_page_opens_without_a_network_and_escapes(page):
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!#)', page)
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "A small &lt;study&gt;" in page and "a &lt;b&gt;note&lt;/b&gt;" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_says_every_verdict_and_every_number(page):
    found = findings(study({"tir+ewc": (30, 5)}), ASKED)
    text = re.sub(r"<[^>]+>", " ", page)
    for finding in found:
        assert finding.claim in text
        for one in finding.comparisons:
            assert one.label in text and interval_text(one) in text and bootstrap_text(one) in text
    units = [", ".join(map(signed, one.differences)) for f in found for one in f.comparisons]
    assert all(each in text for each in units) and max(each.count(",") for each in units) > 0
    assert "<b>10</b></td><td>1: 40.0, 10: 50.0</td>" in page and "held-out seeds" in text


def test_an_empty_study_has_a_page_too(tmp_path):
    empty = result([], choices=[], stopped="main: nothing is chosen yet")
    page = write_page(empty, tmp_path / "index.html").read_text()
    assert "nothing is chosen yet" in page and page.count("· not measured") > 20
    assert "All methods" not in page
    assert "missing: replay on one from aligned, seed 0" in page
    assert "**not measured**" in as_markdown(empty)
    json.dumps(empty.as_dict(), allow_nan=False)


def test_markdown_has_the_findings_the_overview_and_the_choice():
    text = as_markdown(result(study()))
    assert "| F1 | A model tuned on tasks one after another forgets. | **confirmed** |" in text
    assert "| ewc.strength | ewc | one | **10** | 1: 40.0, 10: 50.0 |" in text
    assert "| sequential |" in text and "one from aligned" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1


def test_the_terminal_shows_findings_and_averages():
    output = io.StringIO()
    show_study(Console(file=output, width=120), result(study()))
    text = output.getvalue()
    assert "confirmed" in text and "eproj (reuse)" in text and "finished runs" in text


def test_the_overview_puts_a_variant_below_its_method_and_leaves_out_what_has_nothing_to_compare():
    overview = overview_of(compare(study()))
    names = [name for name, _, _ in overview.lines]
    assert names[:2] == ["zero-shot", "sequential"] and names.index("eproj (reuse)") == names.index("eproj") + 1
    assert ("two", "aligned") not in overview.places and len(overview.places) == 4
    assert [bound for _, _, bound in overview.lines] == [True] + [False] * 6


def test_words_for_numbers():
    assert signed(3.21) == "+3.2" and signed(-0.5) == "−0.5" and signed(0.0) == "0.0" and signed(0.01) == "0.0"
    assert interval_text(comparison(1.0, 3.0, 5.0)) == "+3.0 [−2.0, +8.0]"
    assert interval_text(comparison(2.0)) == "+2.0" and why_not(comparison(2.0)) == "one unit only: no interval"
    (f1, *_) = findings(study(noise=0.0), ASKED)
    assert in_short(f1) == "2 of 2 confirmed; means +30.0"
    assert in_short(findings([], ASKED)[0]) == "no runs yet"


def test_the_templates_are_part_of_the_package():
    import evertune.experiments.study

    folder = Path(evertune.experiments.study.__file__).parent
    assert {"study.html.j2", "study.css", "paper.yaml"} <= {path.name for path in folder.iterdir()}
