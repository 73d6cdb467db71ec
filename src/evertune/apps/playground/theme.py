"""Colours and fonts of the playground: Gradio's theme and the page's own style sheet.

The colours are read from the style sheet of the HTML report, so that both look alike.
"""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr

from evertune.reporting import page
from evertune.reporting.plots import CELL_COLOUR

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONOSPACE = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """The report's colours by name, on a light and on a dark ground."""
    sheet = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{([^}]*--ground[^}]*)\}", sheet)[:2]
    return _named(light), _named(dark)


def _named(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block))


def style_sheet() -> str:
    """The page's own rules, with the report's colours as variables."""
    light, dark = (
        " ".join(f"--ever-{name}: {value};" for name, value in ({**side, "cell": CELL_COLOUR}).items())
        for side in colours()
    )
    rules = (Path(__file__).parent / "app.css").read_text(encoding="utf-8")
    return f":root {{ {light} }}\n.dark {{ {dark} }}\n{rules}"


def theme() -> gr.themes.Base:
    """Gradio's parts in the same colours; fonts of the reader's system, none is fetched."""
    light, dark = colours()
    base = gr.themes.Base(
        font=FONTS,
        font_mono=MONOSPACE,
        radius_size=gr.themes.sizes.radius_sm,
        text_size=gr.themes.sizes.text_md,
    )
    wanted = {
        "body_background_fill": "ground",
        "background_fill_primary": "ground",
        "background_fill_secondary": "panel",
        "body_text_color": "text",
        "body_text_color_subdued": "soft",
        "block_background_fill": "ground",
        "block_label_background_fill": "panel",
        "block_border_color": "rule",
        "block_label_text_color": "soft",
        "block_title_text_color": "soft",
        "border_color_primary": "rule",
        "border_color_accent": "accent",
        "input_background_fill": "panel",
        "input_border_color": "rule",
        "input_border_color_focus": "accent",
        "input_placeholder_color": "soft",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent",
        "button_primary_text_color": "ground",
        "button_secondary_background_fill": "panel",
        "button_secondary_text_color": "text",
        "slider_color": "accent",
        "color_accent": "accent",
        "checkbox_background_color_selected": "accent",
        "checkbox_border_color_selected": "accent",
        "checkbox_label_background_fill": "ground",
        "checkbox_label_background_fill_selected": "panel",
        "checkbox_label_text_color_selected": "text",
    }
    sides = {key: light[name] for key, name in wanted.items()}
    sides |= {f"{key}_dark": dark[name] for key, name in wanted.items() if key != "color_accent"}
    return base.set(**sides, block_shadow="none", block_label_shadow="none", block_border_width="1px")
