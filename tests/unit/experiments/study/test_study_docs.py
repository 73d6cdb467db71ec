"""docs/study.md says what the committed results say: verdicts, differences, and the level at which they hold."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import fmean

import pytest

from evertune.experiments.study import Study, read_study
from evertune.experiments.study.result import interval_text, result_of
from evertune.reporting.labels import signed

DOCS = Path(__file__).parents[4] / "docs"
NUMBER = r"[+−]?\d+\.\d"
INTERVAL = re.compile(rf"\[{NUMBER}, {NUMBER}\]")


SECTIONS = {"paper": "## The cautious regime", "plastic": "## The plastic regime"}


def found_in(study, out):
    """The result of a shipped study, from what is committed of it."""
    committed = DOCS / "results" / study
    for file in committed.rglob("*.json"):
        place = out / file.relative_to(committed)
        place = place if file.name == "chosen.json" else place.with_suffix("") / "results.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return result_of(Study(read_study(study), out))


def lines_of(study):
    """The lines of the study's section of the page."""
    text = (DOCS / "study.md").read_text(encoding="utf-8").partition(SECTIONS[study])[2]
    return text.partition("\n## ")[0].splitlines()


def rows_of(study):
    """{F1: [claim, verdict, text]} of the table of findings."""
    lines = [line for line in lines_of(study) if re.match(r"\| F\d \|", line)]
    return {name.strip(): cells for _, name, *cells in (line.split("|") for line in lines)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return {study: found_in(study, tmp_path_factory.mktemp(study)) for study in SECTIONS}


@pytest.fixture(scope="module")
def result(results):
    return results["paper"]


@pytest.fixture(scope="module")
def rows():
    return rows_of("paper")


@pytest.mark.slow
@pytest.mark.parametrize("study", SECTIONS)
def test_verdicts(results, study):
    rows = rows_of(study)
    assert list(rows) == [finding.name for finding in results[study].findings]
    for finding in results[study].findings:
        assert f"**{finding.verdict}**" in rows[finding.name][1], finding.name


@pytest.mark.parametrize("study", SECTIONS)
def test_intervals(results, study):
    rows = rows_of(study)
    for finding in results[study].findings:
        shown = {interval_text(one) for one in finding.comparisons}
        strict = {
            f"{signed(one.strict()[0])}, {signed(one.strict()[1])}" for one in finding.comparisons if one.strict()
        }
        text = rows[finding.name][2]
        for found in INTERVAL.findall(text):
            corrected = found.strip("[]") in strict and f"1 − 0.05/{deciding(finding)}" in text
            assert corrected or any(found in one for one in shown), f"{finding.name}: {found} is not among {shown}"
        for found in re.findall(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]", text):
            assert found in shown, f"{finding.name}: {found}"


def test_the_table_of_the_plastic_regime(results):
    """Every line: final average, forgetting and learning accuracy on pocket-b1, mean and standard deviation."""
    measured = {row.method: row for row in results["plastic"].rows if row.stream == "pocket-b1"}
    lines = table_of("plastic", columns=3)
    assert len(lines) >= 10
    for name, *cells in lines:
        row = measured[name]
        for cell, metric in zip(cells, ("final_average", "forgetting", "learning_accuracy"), strict=True):
            if cell.strip() != "-":
                assert cell.strip().strip("*") == row.values[metric].shown(metric), f"{name}: {metric}"


def test_the_final_averages_of_the_plastic_regime(results):
    measured = {(row.stream, row.model, row.method): row.values["final_average"] for row in results["plastic"].rows}
    aligned, instruct = "tiny-aligned", "tiny-instruct"
    places = [
        ("pocket-b1", aligned),
        ("pocket-b1-reversed", aligned),
        ("pocket-b2", instruct),
        ("pocket-b2-reversed", instruct),
    ]
    lines = table_of("plastic", columns=4)
    assert len(lines) >= 10
    for name, *cells in lines:
        for cell, place in zip(cells, places, strict=True):
            assert cell.strip() == measured[(*place, name)].shown("final_average"), f"{name}: {place}"


def test_the_table_of_right_and_wrong_images():
    measured = json.loads((DOCS / "results" / "uses-images-b1.json").read_text())
    assert len(measured) == 2 * 3 * 9
    cells = {
        (stream, task): f"{fmean(row['own'] for row in rows):.0f} / {fmean(row['moved_on'] for row in rows):.0f}"
        for stream, task in {(row["stream"], row["task"]) for row in measured}
        if (rows := [row for row in measured if (row["stream"], row["task"]) == (stream, task)])
    }
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines_of("plastic")]
    (head,) = [line[1:] for line in tables if line[:1] == ["on b1"]]
    for label, stream in (("given order", "pocket-b1"), ("reversed", "pocket-b1-reversed")):
        (shown,) = [line[1:] for line in tables if line[:1] == [label]]
        assert shown == [cells[stream, task] for task in head], label


def table_of(study, *, columns):
    """[method as in the results, cells ...] of the section's table of methods with so many columns of numbers."""
    lines = [line.split("|")[1:-1] for line in lines_of(study) if line.startswith("| `")]
    names = [name.strip().replace("`", "").replace(", ", " (", 1) + (")" if ", " in name else "") for name, *_ in lines]
    return [[name, *cells] for name, (_, *cells) in zip(names, lines, strict=True) if len(cells) == columns]


def test_f4_says_what_holds_at_its_level(result, rows):
    f4 = next(finding for finding in result.findings if finding.name == "F4")
    against = [one.label.split(":")[0] for one in f4.comparisons if one.interval()[1] < 0]
    assert against == ["ewc", "online-ewc"], "at 95 % each"
    assert not [one for one in f4.comparisons if one.decides and one.strict()[1] < 0], "at 1 - 0.05/8 none is"
    verdict, text = rows["F4"][1:3]
    assert "reverse" not in verdict and "contradicted" not in verdict
    assert "at 95 % each" in text and "1 − 0.05/8" in text
    for one in f4.comparisons:
        if one.interval()[1] < 0:
            low, high = one.strict()
            assert interval_text(one) in text and f"[{signed(low)}, {signed(high)}]" in text, one.label


def deciding(finding):
    return sum(one.decides for one in finding.comparisons)
