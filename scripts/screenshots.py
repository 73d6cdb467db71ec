"""Make every image in docs/images again: `make screenshots`, or `python scripts/screenshots.py report.png pocket.png`.

Inputs are small and fixed: committed results, examples, the model `random`. A new image is a function in `SCREENSHOTS`
whose name is the file's, `report_png` for report.png; it gets the path to write. Chromium draws the pages.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
METHODS = ("sequential", "replay", "eproj")


def report_png(path: Path) -> None:
    """The top of the report on `make real`, from its committed matrices."""
    with tempfile.TemporaryDirectory() as place:
        command("report", *real_runs(Path(place)), "--out", "report.html", cwd=Path(place))
        with page(width=985, height=960) as browser:
            browser.goto((Path(place) / "report.html").as_uri())
            browser.screenshot(path=path)
    frame(path, "report/index.html")


def compare_svg(path: Path) -> None:
    """The same runs compared in a terminal."""
    with tempfile.TemporaryDirectory() as place:
        printed = command("compare", *real_runs(Path(place)), cwd=Path(place))
        terminal(path, "evertune compare runs/real/*", printed, width=104)


def preview_png(path: Path) -> None:
    """What `data check --preview` shows of the photographs, as the model `random` gets them."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        runpy.run_path(str(ROOT / "examples" / "photographs.py"))["main"](place / "my-photos")
        command("data", "check", "my-photos/photos.yaml", "--model", "random", "--preview", "preview", cwd=place)
        with page(width=985, height=800) as browser:
            browser.goto((place / "preview" / "index.html").as_uri())
            browser.screenshot(path=path)
    frame(path, "preview/index.html")


def pocket_png(path: Path) -> None:
    """One sample of each of the nine tasks of `pocket`."""
    runpy.run_path(str(ROOT / "examples" / "pocket_sheet.py"))["main"](str(path))


def app_png(path: Path) -> None:
    """The playground on a short run of `pocket-b1`: a test question sent to every stage, and a cell opened."""
    from evertune.apps.playground.command import playground

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        short = ("--set", "dtype=float32", "--method", "sequential", "--limit", "32", "--out", "pocket")
        command("run", "pocket-b1", "--model", "tiny-aligned", *short, cwd=place)
        server = playground([place / "pocket"], port=0)
        threading.Thread(target=server.run, daemon=True).start()
        with page(width=1000, height=900) as browser:
            browser.set_default_timeout(420_000)  # loading a model and its predictions takes minutes on a busy machine
            browser.goto(f"http://127.0.0.1:{server.port}")
            use_playground(browser, task="flickr30k", stage=8)
            height = min(2260, browser.evaluate("document.documentElement.scrollHeight"))
            browser.screenshot(path=path, clip={"x": 0, "y": 0, "width": 1000, "height": height}, full_page=True)
    frame(path, "127.0.0.1:7860")


def frame(path: Path, address: str) -> None:
    """Draw a window around the screenshot of a page: without one, its heading reads as a heading of the document."""
    from PIL import Image, ImageDraw, ImageFont

    line, bar, high = "#c4cad3", "#eef0f3", 34
    with Image.open(path) as shot:
        window = Image.new("RGB", (shot.width + 2, shot.height + high + 2), line)
        window.paste(bar, (1, 1, shot.width + 1, high))
        window.paste(shot.convert("RGB"), (1, high + 1))
    draw = ImageDraw.Draw(window)
    for place in range(3):
        draw.ellipse((14 + 18 * place, 12, 23 + 18 * place, 21), fill=line)
    draw.text((76, high / 2), address, fill="#5a6472", font=ImageFont.load_default(14), anchor="lm")
    window.save(path, optimize=True)


def use_playground(browser: Any, *, task: str, stage: int) -> None:
    """Choose a test image of `task`, send its question, move to a stage, open the cell after it, as a visitor would."""
    browser.click("#task input")
    browser.get_by_role("option", name=task, exact=True).click()
    browser.wait_for_function("name => document.querySelector('#choices button').dataset.task == name", arg=task)
    browser.click("#choices button >> nth=0")
    browser.wait_for_function("document.querySelector('#question textarea').value.length > 0")
    browser.click("#ask")
    browser.wait_for_function(
        "() => { const rows = document.querySelectorAll('#stages tbody td').length;"
        " return rows && rows == document.querySelectorAll('#stages .prediction').length; }"
    )
    browser.click(f"#stages tbody tr:nth-child({stage + 1}) button")
    browser.get_by_label(f"{task} after", exact=False).nth(stage - 1).click()
    browser.wait_for_selector("#answers .rows li")
    browser.mouse.move(0, 0)
    browser.evaluate("document.activeElement.blur()")
    browser.wait_for_timeout(500)  # colours fade


def real_runs(folder: Path) -> list[str]:
    """Run folders of `make real`, with nothing in them but the matrix; their names."""
    for method in METHODS:
        (folder / method).mkdir()
        shutil.copy(ROOT / "docs" / "results" / f"real-{method}.json", folder / method / "matrix.json")
    return list(METHODS)


def command(*words: str, cwd: Path, width: int = 104) -> str:
    """What `evertune` prints in a terminal of `width` letters, with its colours."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(width), "EVERTUNE_CACHE": str(cwd / "cache")}
    environment.setdefault("PYTHONPATH", str(ROOT / "src"))
    call = [sys.executable, "-m", "evertune", *words]
    return subprocess.run(call, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@contextmanager
def page(*, width: int, height: int) -> Iterator[Any]:
    """A page of a light, headless browser (playwright's `Page`)."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)  # None: playwright's own, if it was installed
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        size = {"width": width, "height": height}
        yield browser.new_page(viewport=size, color_scheme="light", reduced_motion="reduce")
        browser.close()


def terminal(path: Path, typed: str, printed: str, *, width: int) -> None:
    """A terminal as SVG: the command and what it printed. Its letters are the reader's own: nothing is fetched."""
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme
    from rich.text import Text

    colours = [(28, 33, 40), (179, 54, 27), (26, 127, 75), (138, 97, 0), (20, 95, 180), (122, 63, 140), (15, 118, 110)]
    theme = TerminalTheme((246, 247, 249), (28, 33, 40), [*colours, (90, 100, 114)])
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {typed}", style="bold"))
    console.print(Text.from_ansi(printed.rstrip()))
    drawing = console.export_svg(title="", theme=theme, unique_id=path.stem)
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")
    path.write_text("\n".join(line.rstrip() for line in drawing.splitlines()) + "\n")


SCREENSHOTS: tuple[Callable[[Path], None], ...] = (report_png, compare_svg, preview_png, pocket_png, app_png)


def main(names: list[str]) -> None:
    """Make the named images, or all."""
    known = {made.__name__.replace("_", "."): made for made in SCREENSHOTS}
    if wrong := sorted(set(names) - set(known)):
        sys.exit(f"no image is called {wrong[0]}; there are {', '.join(known)}")
    for name in names or known:
        known[name](IMAGES / name)
        print(IMAGES / name)


if __name__ == "__main__":
    main(sys.argv[1:])
