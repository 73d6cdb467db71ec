"""Page, Markdown, JSON and terminal have the same numbers; the page sorts and filters without a script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browsing import CHROMIUM, FLAGS
from commands import evertune
from result_files import joint, row, seeds, with_options, write

from evertune.experiments.leaderboard import board_of, read_files, write_page
from evertune.experiments.leaderboard.text import as_markdown

DOCS = Path(__file__).parents[4] / "docs"
ATTACK = "<img src=x onerror=\"document.title='xss'\"> </style><script>document.title='xss'</script> |"
ROWS = [
    *(with_options(one, routing="oracle") for one in seeds("eproj", (90, 90, 90), stored=9000)),
    *seeds("replay", (80, 80, 80), stored=0, samples=26),
    *seeds("ewc", (70, 70, 70), stored=4000),
    *seeds("sequential", (60, 60, 60), stored=0),
    *joint((95, 95, 95)),
]


@pytest.fixture
def made(tmp_path):
    found = board_of(*read_files([write(tmp_path / "one.json", ROWS)]))
    return found, write_page(found, tmp_path / "board" / "index.html")


def test_the_page_is_one_file_without_a_script(made):
    page = made[1].read_text(encoding="utf-8")
    assert "<script" not in page and "script-src" not in page and "default-src &#39;none&#39;" in page
    assert not re.search(r'(?:src|href)="(?!#)', page) and "https://" not in page
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_every_column_has_the_places_of_its_lines(made):
    """Best first: the highest score, the lowest forgetting and cost; equal values share a place; bounds stand last."""
    page = made[1].read_text(encoding="utf-8")
    body = page.partition('<tbody role="rowgroup">')[2].partition("</tbody>")[0]
    found = {}
    for style, method in re.findall(r'style="([^"]*)">.*?scope="row">([\w+]+)', body, re.DOTALL):
        found[method] = dict(re.findall(r"--(\w+): (\d+)", style))
    order = {
        name: sorted((int(places[name]), method) for method, places in found.items())
        for name in ("final_average", "stored_per_task", "forgetting", "method")
    }
    assert [method for _, method in order["final_average"]][:4] == ["eproj", "replay", "ewc", "sequential"]
    assert order["stored_per_task"][:4] == [(0, "replay"), (0, "sequential"), (2, "ewc"), (3, "eproj")]
    assert [method for _, method in order["forgetting"]][:4] == ["eproj", "replay", "ewc", "sequential"]
    assert [method for _, method in order["method"]] == ["eproj", "ewc", "replay", "sequential", "joint", "zero"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_a_browser_sorts_and_filters(made):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(java_script_enabled=False, viewport={"width": 1100, "height": 900})
        page.goto(made[1].as_uri())

        def lines():
            rows = [row for row in page.locator(".board tbody tr").all() if row.is_visible()]
            rows.sort(key=lambda row: row.bounding_box()["y"])
            return [row.locator("th").inner_text().split()[0] for row in rows]

        bounds = ["joint", "zero-shot"]
        assert lines() == ["eproj", "replay", "ewc", "sequential", *bounds]
        page.get_by_role("radio", name="stored per task").check()
        assert lines() == ["replay", "sequential", "ewc", "eproj", *bounds]
        plots = page.locator(".view:visible")
        assert plots.count() == 1 and "eproj" in plots.inner_text() and "replay" in plots.inner_text()
        page.get_by_role("checkbox", name="without stored samples").check()
        assert lines() == ["sequential", "ewc", "eproj", *bounds]
        assert plots.count() == 1 and "replay" not in plots.inner_text()
        page.get_by_role("checkbox", name="without task ids at test time").check()
        assert lines() == ["sequential", "ewc", *bounds]
        assert plots.count() == 1 and "eproj" not in plots.inner_text()
        page.get_by_role("checkbox", name="without stored samples").uncheck()
        assert lines() == ["replay", "sequential", "ewc", *bounds] and plots.count() == 1
        page.get_by_role("radio", name="final average").check()
        assert lines() == ["replay", "ewc", "sequential", *bounds]
        page.set_viewport_size({"width": 390, "height": 900})
        assert lines() == ["replay", "ewc", "sequential", *bounds]
        assert page.locator("html").evaluate("e => e.scrollWidth") <= 390
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_names_of_a_result_file_are_text(tmp_path):
    from playwright.sync_api import sync_playwright

    odd = {"model": ATTACK, "stream": ATTACK, "tasks": [ATTACK, "b"], "stages": [ATTACK, "b"], "warnings": [ATTACK]}
    made_with = {"torch": ATTACK, ATTACK: ATTACK}
    rows = [one | odd | {"method": ATTACK, "made_with": made_with} for one in seeds("ewc")] + [row("mas") | odd]
    found = board_of(*read_files([write(tmp_path / "one.json", rows, evertune=ATTACK)]))
    path = write_page(found, tmp_path / "index.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_timeout(150)
        assert page.title() == "Leaderboard · evertune"
        assert page.locator("img, script, style + style").count() == 0
        assert page.locator("body").inner_text().count("<script>") >= 4, "it is shown"
        browser.close()
    table = as_markdown(found)
    assert "<" not in table.replace("&lt;", "") and "</script> \\|" in table.replace("&lt;", "<")


def test_markdown_json_and_files(tmp_path, capsys):
    write(tmp_path / "one.json", ROWS)
    code, out, _ = evertune("leaderboard", tmp_path / "one.json", "--out", tmp_path / "board", capsys=capsys)
    assert code == 0 and f"page  {(tmp_path / 'board' / 'index.html').resolve()}" in out
    assert "stores samples: replay" in out and "task id given: eproj" in out
    code, text, _ = evertune("leaderboard", tmp_path / "one.json", "--markdown", capsys=capsys)
    assert (tmp_path / "board" / "leaderboard.md").read_text() == f"# Leaderboard\n\n{text}"
    assert (
        "| 2 | replay | 3 | 80.0 [80.0, 80.0] | 0.0 | 80.0 | 1,000 | 0 + samples | 6 | 1 min 0 s | stores samples |"
        in text
    )
    code, out, _ = evertune("leaderboard", tmp_path / "one.json", "--json", capsys=capsys)
    found = json.loads(out)
    assert found == json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    lines = {one["method"]: one for one in found["benchmarks"][0]["lines"]}
    assert lines["replay"]["scores"]["final_average"] == {"mean": 80.0, "interval": [80.0, 80.0]}
    assert lines["replay"]["stores_samples"] and lines["eproj"]["needs_task_id"] and lines["joint"]["reference"]


def test_the_terminal_has_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    write(tmp_path / "one.json", ROWS)
    _, out, _ = evertune("leaderboard", tmp_path / "one.json", capsys=capsys)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 80 and any("90.0 [90.0, 90.0]" in line for line in lines)


@pytest.mark.slow
def test_the_tables_of_the_docs_are_what_the_command_prints():
    """`evertune leaderboard docs/results/paper --markdown`, headings one level deeper."""
    found = board_of(*read_files([DOCS / "results" / "paper"]))
    assert as_markdown(found, level=3).strip() in (DOCS / "leaderboard.md").read_text(encoding="utf-8")
