"""The report in a real Chromium: on a phone, in print, and with what is behind a seed opened."""

from __future__ import annotations

import re

import pytest
from browsing import CHROMIUM
from report_runs import make_run

from evertune.reporting.page import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
TASKS = ["okvqa", "aokvqa", "gqa", "textcaps", "vqav2", "ocrvqa", "flickr30k", "vizwiz", "textvqa"]
PAGE = re.compile(rb"/Type\s*/Page\b")
BROKEN = """() => [...document.querySelectorAll('th')].filter(cell => {
  const range = document.createRange(), lines = text => {
    range.setStart(text.node, text.start); range.setEnd(text.node, text.end);
    return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size; };
  return [...cell.childNodes].filter(node => node.nodeType == 3).some(node =>
    [...node.data.matchAll(/[^-\\s]+/g)].some(word =>
      lines({node, start: word.index, end: word.index + word[0].length}) > 1));
}).map(cell => cell.innerText)"""
"""Header cells with a word that takes two lines."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three methods with two seeds each, on nine tasks."""
    place = tmp_path_factory.mktemp("report")
    runs = [
        make_run(place / f"s{seed}" / method, scores(lost), method=method, seed=seed, tasks=TASKS)
        for seed in (0, 1)
        for method, lost in (("replay", 20), ("sequential", 50), ("strengthened", 5))
    ]
    return write_report(runs, place / "report.html")


def scores(lost):
    """R where each task loses some points once the next is learned."""
    return [
        [80.0 - lost * (stage > task + 1) if stage > task else 5.0 for task in range(len(TASKS))]
        for stage in range(len(TASKS) + 1)
    ]


@pytest.fixture
def phone(browser, report):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(report.as_uri())
    yield page
    context.close()


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")


def test_on_a_phone_wide_tables_scroll_and_keep_their_names(phone):
    open_all(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    wide = phone.evaluate("""() => [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)
      .map(e => { e.scrollLeft = e.scrollWidth; const name = e.querySelector('tbody th');
        return [getComputedStyle(e).backgroundImage.split('gradient').length - 1,
                name ? Math.round(name.getBoundingClientRect().left - e.getBoundingClientRect().left) : 0]; })""")
    assert len(wide) > 3, "there is something to scroll"
    assert {tuple(each) for each in wide} == {(4, 0)}, "a shade says that there is more; the name of the row stays"


def test_a_matrix_of_nine_tasks_fits_a_phone(phone):
    widths = phone.evaluate("""() => [...document.querySelectorAll('section > figure > .scroll')]
      .filter(e => e.closest('[id^=method]')).map(e => e.scrollWidth - e.clientWidth)""")
    assert widths == [0, 0, 0]


def test_no_header_is_broken_in_mid_word(phone):
    open_all(phone)
    assert phone.evaluate(BROKEN) == []


def test_it_prints_in_few_pages_and_what_was_opened_is_printed(browser, report):
    context = browser.new_context()
    page = context.new_page()
    page.goto(report.as_uri())
    closed = len(PAGE.findall(page.pdf(format="A4")))
    page.locator("details.seed").first.evaluate("seed => { seed.open = true; }")
    opened = len(PAGE.findall(page.pdf(format="A4")))
    context.close()
    assert closed <= 4 and closed < opened <= closed + 3
