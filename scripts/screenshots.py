"""Make the picture of the playground in docs/upkeep.md, so that it shows what the page is now.

evertune run pocket-b1 --model tiny-aligned --method sequential --limit 24 --out runs/pocket
python scripts/screenshots.py runs/pocket docs/images/app.png

Needs the extras `app` and `dev`, and a Chromium. `--dark` and `--width 390` show the page as others see it.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from evertune.app.command import playground

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> None:
    """Serve the runs, use the page as a visitor would, and take its picture."""
    asked = _arguments()
    server = playground(asked.run, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        size = {"width": asked.width, "height": 900}
        page = browser.new_page(viewport=size, color_scheme="dark" if asked.dark else "light")
        page.goto(f"http://127.0.0.1:{server.port}")
        _use(page, task=asked.task, place=asked.place, stage=asked.stage)
        height = min(asked.height, page.evaluate("document.documentElement.scrollHeight"))
        area = {"x": 0, "y": 0, "width": asked.width, "height": height}
        page.screenshot(path=asked.out, clip=area, full_page=True)
        browser.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, nargs="+", help="Folders, as for evertune app.")
    parser.add_argument("out", type=Path, help="A PNG file.")
    parser.add_argument("--task", default="flickr30k", help="Whose kept question is asked.")
    parser.add_argument("--place", type=int, default=0, help="Which of them.")
    parser.add_argument("--stage", type=int, default=8, help="Of the slider, and of the cell that is opened.")
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=2260)
    parser.add_argument("--dark", action="store_true")
    return parser.parse_args()


def _use(page: Page, *, task: str, place: int, stage: int) -> None:
    """Choose a kept picture, ask, move to a stage and open the cell of the task after it."""
    page.click("#task input")
    page.get_by_role("option", name=task, exact=True).click()
    page.wait_for_function("name => document.querySelector('#choices button').dataset.task == name", arg=task)
    page.click(f"#choices button >> nth={place}")
    page.wait_for_function("document.querySelector('#question textarea').value.length > 0")
    page.click("#ask")
    page.wait_for_function(
        "() => { const rows = document.querySelectorAll('#stages tbody td').length;"
        " return rows && rows == document.querySelectorAll('#stages .said').length; }"
    )
    page.click(f"#stages tbody tr:nth-child({stage + 1}) button")
    page.get_by_label(f"{task} after", exact=False).nth(stage - 1).click()
    page.wait_for_selector("#answers .rows li")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(500)  # colours fade


if __name__ == "__main__":
    main()
