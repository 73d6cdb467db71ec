"""Stored scripts in a run folder and in data: the pages that evertune writes, in a real Chromium.

Answers, questions, names of tasks, files, streams and models say what an attacker would have them say. The pages show
it as text; were it not escaped, the content security policy would still keep it from running. Both are tested alone.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from browsing import CHROMIUM

import evertune
from evertune.reporting import page as report_page
from evertune.reporting.figures import Figure, Section, Table, write_figures
from evertune.reporting.page import write_report
from evertune.tools.data import check
from evertune.tools.data.preview import write_preview
from evertune.tools.data.source import Hints

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ATTACKS = (
    "<script>document.title='xss'</script>",
    '"><img src=x data-xss onerror="document.title=`xss`">',
    "</script></style></title></textarea><svg data-xss onload=document.title='xss'>",
    "<a data-xss href=\"javascript:document.title='xss'\">go</a>",
    "'-document.title='xss'-' {{7*7}} ${7*7} javascript:alert(1)",
    "<iframe data-xss srcdoc='<script>parent.document.title=1</script>'></iframe><base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'><form action=//evil.example><button data-xss>",
    "<style>@import url(//evil.example/x.css); main { display: none }</style><link rel=stylesheet href=//evil.example>",
)
NASTY = " ".join(ATTACKS)
NAME = "<img src=x data-xss onerror=document.title='xss'>"  # can be a file's name
INJECTED = "[data-xss], script, iframe, base, form, meta[http-equiv=refresh], link, style + style"


class ImageIndex:
    """A page as the browser has it after a moment, and all that happened."""

    def __init__(self, browser, path: Path) -> None:
        self.context = browser.new_context()
        self.page = self.context.new_page()
        self.console: list[str] = []
        self.requests: list[str] = []
        self.blocked: list[tuple[str, str]] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda problem: self.console.append(str(problem)))
        self.page.on("dialog", lambda dialog: self.console.append("dialog"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.blocked.append((request.url, request.failure)))
        self.page.goto(path.as_uri())
        self.title = self.page.title()
        for link in self.page.locator("a[href^='javascript:']").all()[:3]:
            link.evaluate("link => link.dispatchEvent(new MouseEvent('click', {bubbles: true}))")
        self.page.wait_for_timeout(150)
        self.injected = self.page.locator(INJECTED).count()
        self.ran = self.page.title() != self.title or self.page.url != path.as_uri()
        self.strangers = [url for url in self.requests if not url.startswith((path.as_uri(), "data:"))]


@pytest.fixture
def poisoned(tmp_path):
    """A finished run in which every text is an attack; no model was needed."""
    folder = tmp_path / NAME
    tasks = [f"{NASTY} {number}" for number in range(2)]
    R = [[0.0, 10.0], [50.0, 20.0], [40.0, 60.0]]
    cells = []
    for stage, task in itertools.product(range(3), range(2)):
        path = folder / "answers" / f"{stage}" / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"instruction": NASTY, "gold": [NASTY], "answer": NASTY, "expert": NASTY, "image": f"{NAME}.png"}
        path.write_text("".join(json.dumps({"id": f"{NASTY} {number}", **row}) + "\n" for number in range(3)))
        own = {"experts": {NASTY: 2, tasks[0]: 1}, "own_expert": tasks[task], "task_id": "inferred", "n": 3}
        where = {"stage": stage, "task": tasks[task], "answers": str(path.relative_to(folder))}
        cells.append({**where, "score": R[stage][task], "relaxed": 50.0, "score_rule": "exact", **own})
    matrix = {"format": 2, "model": NASTY, "stream": NASTY, "method": NASTY, "seed": 0, "known": [], "tasks": tasks}
    matrix |= {"stages": tasks, "finished": True, "R": R, "relaxed": R, "cells": cells, "warnings": [NASTY]}
    matrix |= {"metrics": {NASTY: 1.0}, "formulas": {NASTY: NASTY}, "settings": {"train": {NASTY: NASTY}}, "cost": {}}
    (folder / "matrix.json").write_text(json.dumps(matrix))
    (folder / "provenance.json").write_text(json.dumps({NASTY: {NASTY: NASTY}}))
    return folder


def pages(poisoned: Path, place: Path) -> dict[str, Path]:
    """Each page that is written, with attacks wherever a text comes from elsewhere."""
    svg = "<svg role='img' aria-label='ours'></svg>"
    section = Section(NASTY, [Figure(NASTY, svg, NASTY)], Table(NASTY, [NASTY], [[NASTY, NASTY]], NASTY), NASTY)
    (place / NAME).mkdir(parents=True)
    rows = [
        {"id": NASTY, "image": NAME, "instruction": NASTY, "answer": NASTY},
        {"instruction": NASTY, "answer": NASTY},
    ]
    data = place / NAME / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = check(str(data), hints=Hints())
    return {
        "report": write_report([poisoned, poisoned], place / "report.html"),
        "figures": write_figures(
            place / "figures.html", title=NASTY, subtitle=NASTY, lead=NASTY, sections=[section], notes=[NASTY]
        ),
        "preview": write_preview(checked, None, place / "preview.html"),
    }


def test_attacks_are_text(browser, poisoned, tmp_path):
    for name, path in pages(poisoned, tmp_path / "pages").items():
        seen = ImageIndex(browser, path)
        assert (name, seen.injected, seen.ran, seen.strangers, seen.console) == (name, 0, False, [], [])
        assert seen.page.locator("body").inner_text().count("<script>document.title='xss'</script>") >= 2, "it is shown"
        assert seen.page.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") != "none", (
            "our style holds"
        )
        for details in seen.page.locator("details").all()[:4]:
            before = details.evaluate("d => d.open")
            details.locator("summary").click()
            assert details.evaluate("d => d.open") != before, "what opens still opens"
        seen.context.close()


def test_without_escaping_the_policy_holds_and_the_test_above_fails(browser, poisoned, tmp_path, monkeypatch):
    real = report_page.environment

    def careless(*folders):
        made = real(*folders)
        made.autoescape = False
        return made

    for module in ("reporting.page", "reporting.figures", "tools.data.preview"):
        monkeypatch.setattr(f"evertune.{module}.environment", careless)
    for name, path in pages(poisoned, tmp_path / "pages").items():
        # A page that leads elsewhere by itself is what no policy can forbid: there escaping stands alone.
        path.write_text(path.read_text().replace("http-equiv=refresh", "data-refresh"))
        seen = ImageIndex(browser, path)
        assert seen.injected > 3, f"{name}: the attacks are in the page"
        assert not seen.ran and seen.strangers, f"{name}: they try, but the policy lets none of them run or load"
        assert {url for url, why in seen.blocked if "csp" in why.lower()} >= set(seen.strangers)
        assert any("Content Security Policy" in line for line in seen.console)
        seen.context.close()


def test_every_template_of_a_page_has_the_policy():
    source = Path(evertune.__file__).parent
    whole = [path for path in source.rglob("*.j2") if "<!doctype html>" in path.read_text()]
    assert len(whole) == 6
    for path in whole:
        if path.name != "enter.html.j2":  # the app's door sends a policy with every answer
            assert "{{ policy(css) }}" in path.read_text()
        assert "|safe" not in path.read_text() and "autoescape" not in path.read_text()
