"""The docs as a site: built without a warning, complete, whole without a network, and the same text as on GitHub."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import markdown
import pytest
from blocks import PAGES, ROOT
from markdown_it import MarkdownIt

import evertune

FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "image": "href"}
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.,])")  # measured: 76.4, not TextCaps_0.1_train or 0.1, 0.3
SHAPES = ("li", "table", "tr", "td", "em", "strong", "h1", "h2", "h3", "pre", "ol", "ul", "a", "img")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    content = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert content.returncode == 0, content.stderr
    assert "WARNING" not in content.stderr
    return folder


class Tags(HTMLParser):
    """The start tags of a page and its identifiers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_every_page_of_docs_is_built_and_in_the_navigation(site):
    content = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / name).exists()
        assert f'href="{name}"' in content, f"{name} is not in the navigation"


def test_nothing_is_fetched_from_elsewhere(site):
    """Pages link to papers, but load nothing from the internet: scripts, styles, fonts, images."""
    for page in site.rglob("*.html"):
        for tag, attributes in Tags(page.read_text()).tags:
            place = attributes.get(FETCHED.get(tag, ""), "") or ""
            assert not place.startswith(("http:", "https:", "//")), f"{page.name}: <{tag}> of {place}"
    for style in [*site.rglob("*.css"), *site.rglob("*.svg"), *site.rglob("*.html")]:
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text()), style


def test_links_lead_to_a_file_and_a_part_of_it(site):
    """Those of pages that are made while building too, and parts of a page."""
    pages = {page.resolve(): Tags(page.read_text()).tags for page in site.rglob("*.html")}
    parts = {page: {named for _, a in tags for named in (a.get("id"), a.get("name"))} for page, tags in pages.items()}
    for page, tags in pages.items():
        links = [a["href"] for tag, a in tags if tag == "a" and a.get("href") and page.name != "404.html"]
        for link in links:
            if re.match(r"[a-z]+:", link):
                continue
            place, _, part = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.relative_to(site)}: {link}"
            assert not part or part in parts[target] or part == "__skip", f"{page.relative_to(site)}: {link}"


def test_the_page_of_python_has_every_public_name(site):
    content = {attributes.get("id") for _, attributes in Tags((site / "api.html").read_text()).tags}
    assert {f"evertune.{name}" for name in evertune.__all__} <= content
    assert len(evertune.__all__) == len(
        re.findall(r"^::: evertune\.\w+$", (ROOT / "docs" / "api.md").read_text(), re.M)
    )


def test_the_page_of_commands_has_every_option(site):
    content = (site / "commands.html").read_text()
    for words in ("--accept-if", "--dry-run", "data convert", "rollback", "--text-encoder"):
        assert words in content


def found_by(site, words):
    """Pages by the search's index, those first whose title has the words."""
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    hits = [one for one in entries if words in (one["title"] + " " + one["text"]).lower()]
    return [
        one["location"].partition("#")[0] for one in sorted(hits, key=lambda one: words not in one["title"].lower())
    ]


def test_the_search_splits_keys_into_their_words(site):
    """`max_grad_norm` finds `train.max_grad_norm`: the query and the text are split by the same rule."""
    separator = json.loads((site / "search" / "search_index.json").read_text())["config"]["separator"]
    assert re.split(separator, "train.max_grad_norm") == ["train", "max", "grad", "norm"]
    assert re.split(separator, "lora.target_modules=q_proj") == ["lora", "target", "modules", "q", "proj"]


def test_histories_take_no_places_in_the_search(site):
    pages = {
        one["location"].partition("#")[0]
        for one in json.loads((site / "search" / "search_index.json").read_text())["docs"]
    }
    assert not pages & {"log.html", "changelog.html"} and "questions.html" in pages


@pytest.mark.parametrize("page", ["configuration", "methods"])
def test_wide_tables_are_marked_for_narrow_screens(site, page):
    content = (site / f"{page}.html").read_text()
    assert "<table data-narrow>" in content and "<table>" not in content


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("install", "install.html"),
        ("deploy", "howto/deploy.html"),
        ("finetune", "howto/finetune.html"),
        ("quantization", "howto/large_models.html"),
        ("resume", "howto/resume.html"),
        ("gpu", "howto/large_models.html"),
        ("licence", "questions.html"),
        ("out of memory", "questions.html"),
        ("unlearn", "questions.html"),
        ("vulnerability", "questions.html"),
        ("windows", "questions.html"),
    ],
)
def test_a_word_of_the_field_finds_its_page(site, words, page):
    assert page in found_by(site, words)[:8]


def test_the_page_of_configuration_is_made_from_the_code(site):
    content = (site / "configuration.html").read_text()
    for key in ("train.max_grad_norm", "replay.ratio", "model.scope", "known", "vary"):
        assert f"<code>{key}</code>" in content


def test_formulas_are_set(site):
    """Indices are lower and powers higher; names of files keep their underscores."""
    assert "Σ<sub>i</sub> R[T,i]" in (site / "metrics.html").read_text()
    assert "I<sub>i</sub><sup>k</sup>" in (site / "methods" / "tir.html").read_text()
    assert "eval_vqav2.py" in (site / "rescore.html").read_text()
    assert "R[a<sub>i</sub>,i]" in (site / "metrics.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_reads_the_same_on_github_and_on_the_site(page):
    """Two readers of Markdown, which differ in lists, emphasis and tables where one writes carelessly."""
    text = page.read_text()
    there = MarkdownIt("commonmark").enable("table").render(text)
    here = markdown.markdown(text, extensions=["tables", "attr_list", "pymdownx.superfences"])
    counts = [Counter(tag for tag, _ in Tags(html).tags if tag in SHAPES) for html in (there, here)]
    assert counts[0] == counts[1]


def test_a_table_of_numbers_says_the_command_that_made_it():
    """Somewhere under its heading of the second level, or before the first."""
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name == "log.md":
            continue  # throw-away scripts, as its first lines say
        for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
            rows = [line for line in section.splitlines() if line.startswith("|") and len(NUMBER.findall(line)) > 1]
            made = re.search(r"(evertune|python|make) [\w/]+", section)
            assert len(rows) < 2 or made, f"{page.name}, '{section.splitlines()[0]}'"


def test_every_image_is_shown_and_made_by_a_command(tmp_path):
    screenshots = runpy.run_path(str(ROOT / "scripts" / "screenshots.py"))
    names = {made.__name__.replace("_", ".") for made in screenshots["SCREENSHOTS"]}
    names |= {f"study-f{number}.svg" for number in range(1, 6)}  # benchmarks/study_figures.py
    assert names == {path.name for path in (ROOT / "docs" / "images").iterdir()}
    shown = "".join(page.read_text() for page in PAGES)
    assert all(f"images/{name})" in shown for name in names)
    screenshots["compare_svg"](tmp_path / "compare.svg")
    content = (tmp_path / "compare.svg").read_text()
    assert "final&#160;average" in content
    assert "font-face" not in content
