"""The nine tasks of the pocket streams on one sheet: an image, the instruction and the answer of each.

python examples/pocket_sheet.py docs/images/pocket.png
"""

from __future__ import annotations

import random
import sys
import textwrap

import matplotlib
import matplotlib.pyplot as plt

from evertune.data.pocket.draw import draw
from evertune.data.pocket.questions import ROLES
from evertune.data.pocket.world import draw_scene


def main(path: str) -> None:
    """Write the sheet to `path`."""
    matplotlib.use("agg")
    choose = random.Random("sheet 3")
    figure, axes = plt.subplots(3, 3, figsize=(10.4, 6.6), gridspec_kw={"hspace": 0.22, "wspace": 1.25})
    for axis, (name, role) in zip(axes.flat, ROLES.items(), strict=True):
        scene = draw_scene(choose, layout=role.layouts[0], split="train", blurred=name == "vizwiz")
        item = role.ask(scene, choose)
        axis.imshow(draw(scene, choose))
        axis.set_axis_off()
        axis.set_title(f"{name}, for {role.stands_for}", fontsize=10, loc="left", fontweight="bold")
        asked = "\n".join(textwrap.wrap(item.instruction, 25))
        said = "\n".join(textwrap.wrap(item.answers[0], 22))
        axis.text(1.06, 0.98, asked, transform=axis.transAxes, va="top", fontsize=8.5)
        axis.text(1.06, 0.02, said, transform=axis.transAxes, va="bottom", fontsize=9.5, color="#1a6fb5")
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main(sys.argv[1])
