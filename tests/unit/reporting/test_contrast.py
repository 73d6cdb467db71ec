"""Numbers in heat maps are legible (WCAG 2: 4.5) on every colour of the scale: report, studies and playground."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evertune.apps.playground.fragments import Fragments
from evertune.apps.playground.view_models import CellView, Matrix
from evertune.reporting import page
from evertune.reporting.matrix import Matrix as RunMatrix
from evertune.reporting.pair_plots import points_scale, similarity_scale, square_map
from evertune.reporting.plots import CELL_COLOUR, heat_map

LEAST = 4.5
SHEET = (Path(page.__file__).parent / "page.css").read_text()
SCORES = [step / 4 for step in range(401)]
GROUNDS = ["light", "dark", "print"]


def rgb(colour):
    digits = colour.strip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    return tuple(int(digits[at : at + 2], 16) for at in (0, 2, 4))


def over(colour, ground, alpha):
    return tuple(alpha * part + (1 - alpha) * below for part, below in zip(colour, ground, strict=True))


def contrast(one, other):
    def light(colour):
        parts = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in colour)]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    darker, lighter = sorted((light(one), light(other)))
    return (lighter + 0.05) / (darker + 0.05)


def variables(ground):
    """The colours of the report's style sheet by name; on paper what is not set is as on a light screen."""
    light, dark, paper = (
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{([^}]*--ground[^}]*)\}", SHEET)
    )
    return {"light": light, "dark": dark, "print": {**dark, **paper}}[ground]


def cells(svg, ground):
    """(number, its contrast) of each cell of a heat map."""
    named = variables(ground)
    assert re.search(r"\.plot \{[^}]*color: var\(--ink\)", SHEET), "what black is in a plot"
    boxes = re.findall(r'style="fill: (#[0-9a-f]{6})(?:; opacity: ([\d.]+))?"/>', svg)
    texts = re.findall(r'<text style="[^"]*?text-anchor: middle(?:; fill: (#\w+))?" [^>]*>(−?[\d.]+)</text>', svg)
    assert len(boxes) == len(texts)
    for (fill, alpha), (colour, number) in zip(boxes, texts, strict=True):
        behind = over(rgb(fill), rgb(named["ground"]), float(alpha or 1))
        yield number, contrast(behind, rgb(colour or named["ink"]))


@pytest.mark.slow
@pytest.mark.parametrize("ground", GROUNDS)
def test_the_matrix_of_a_report(ground):
    R = [SCORES[at : at + 10] for at in range(0, 400, 10)] + [[100.0] * 10]
    names = [f"task {number}" for number in "abcdefghij"]
    stages = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"]
    matrix = RunMatrix("model", "stream", "m", 0, names, stages, R)
    found = list(cells(heat_map(matrix), ground))
    assert len(found) == 410 and [each for each in found if each[1] < LEAST] == []


@pytest.mark.slow
@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("kind", ["harm", "gain", "similarity"])
def test_squares_of_pairs(ground, kind):
    values = [step / 10 for step in range(-100, 101)]
    square = [values[at : at + 15] for at in range(0, 195, 15)] + [[*values[195:], *[10.0] * 9], [10.0] * 15]
    scale = similarity_scale(square) if kind == "similarity" else points_scale(square, harm=kind == "harm")
    svg = square_map([f"t{number}x" for number in range(15)], square, scale=scale, label="squares")
    found = list(cells(svg, ground))
    assert len(found) == 225 and [each for each in found if each[1] < LEAST] == []


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_the_matrix_of_the_playground(ground):
    looks = pytest.importorskip("evertune.apps.playground.theme")
    light, dark = re.findall(r"^(?::root|\.dark) \{ (.*) \}$", looks.style_sheet(), re.MULTILINE)[:2]
    named = dict(re.findall(r"--ever-([a-z]+): (#[0-9a-f]{6});", light if ground == "light" else dark))
    rules = looks.style_sheet()
    text = re.search(r"\.ever \.cell \{[^}]*[ ;]color: var\(--ever-([a-z]+)\)", rules)[1]
    white = re.search(r"\.ever \.cell\.white \{ color: (#\w+)", rules)[1]
    assert "filter" not in re.search(r"\.ever \.cell:hover \{[^}]*\}", rules)[0], "it would change both"
    squares = [CellView(0, place, score, own=False) for place, score in enumerate(SCORES)]
    html = Fragments().matrices([Matrix(0, "m", "m", 0, [f"t{n}" for n in range(len(SCORES))], [("base", squares)])])
    found = re.findall(r'class="cell( white)?" style="--share: (\d+)%".*?>(\d+)</button>', html)
    assert len(found) == len(SCORES)
    for is_white, share, number in found:
        behind = over(rgb(CELL_COLOUR), rgb(named["ground"]), int(share) / 100)
        assert contrast(behind, rgb(white if is_white else named[text])) >= LEAST, number
