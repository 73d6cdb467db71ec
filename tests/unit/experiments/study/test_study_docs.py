"""docs/study.md says what the committed results say: verdicts, differences, and the level at which they hold."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from evertune.experiments.study import Study, read_study
from evertune.experiments.study.result import interval_text, result_of
from evertune.reporting.labels import signed

DOCS = Path(__file__).parents[4] / "docs"
NUMBER = r"[+−]?\d+\.\d"
INTERVAL = re.compile(rf"\[{NUMBER}, {NUMBER}\]")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    for file in (DOCS / "results" / "paper").rglob("*.json"):
        place = out / file.relative_to(DOCS / "results" / "paper")
        place = place if file.name == "chosen.json" else place.with_suffix("") / "results.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    return result_of(Study(read_study("paper"), out))


@pytest.fixture(scope="module")
def rows():
    section = (DOCS / "study.md").read_text(encoding="utf-8").partition("## What it found")[2]
    lines = [line for line in section.splitlines() if re.match(r"\| F\d \|", line)]
    return {name.strip(): cells for _, name, *cells in (line.split("|") for line in lines)}


@pytest.mark.slow
def test_verdicts(result, rows):
    assert list(rows) == [finding.name for finding in result.findings]
    for finding in result.findings:
        assert f"**{finding.verdict}**" in rows[finding.name][1], finding.name


def test_intervals(result, rows):
    for finding in result.findings:
        shown = {interval_text(one) for one in finding.comparisons}
        strict = {f"{signed(low)}, {signed(high)}" for one in finding.comparisons for low, high in [one.strict()]}
        text = rows[finding.name][2]
        for found in INTERVAL.findall(text):
            corrected = found.strip("[]") in strict and f"1 − 0.05/{deciding(finding)}" in text
            assert corrected or any(found in one for one in shown), f"{finding.name}: {found} is not among {shown}"
        for found in re.findall(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]", text):
            assert found in shown, f"{finding.name}: {found}"


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
