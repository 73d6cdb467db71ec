"""How long a model in service must train on a small file: `evertune learn` with several floors of optimizer steps.

python benchmarks/small_files.py runs/small-files

Each file has 20 to 200 training rows and 60 or 100 test questions of its own: crops of photographs for `tiny-instruct`
(examples/photographs.py), tasks of the pocket world for `tiny-aligned`. Seeds are those of no other table. Writes
`small_files.jsonl`, a row per learning, and prints a table.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from photographs import photographs

from evertune import service
from evertune.utils.files import append_jsonl

SEED = 100
PHOTOGRAPHS, POCKET = "photographs", {"okvqa": "vqa", "vizwiz": "vqa", "ocrvqa": "normalised", "gqa": "normalised"}
ROWS, FLOORS = (20, 60, 200), (0, 50, 100, 200, 400)
SIDE = 0.75
"""Of a crop, as a share of the photograph's."""


def stream_of_photographs(folder: Path, *, rows: int, test: int = 60) -> Path:
    """A task that asks what is on random crops of six photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    choose, named = random.Random(SEED), list(photographs().items())
    for split, count in (("train", rows), ("test", test)):
        lines = []
        for number in range(count):
            name, image = named[number % len(named)]
            width, height = (round(SIDE * side) for side in image.size)
            x, y = choose.randrange(image.width - width + 1), choose.randrange(image.height - height + 1)
            file = f"{split}-{number}.png"
            image.crop((x, y, x + width, y + height)).resize((192, 192)).save(folder / file)
            lines.append(json.dumps({"image": file, "instruction": "What is this?", "answer": name}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return one_task(folder, {"name": PHOTOGRAPHS, "train": "train.jsonl", "test": "test.jsonl"})


def stream_of(task: str, folder: Path, *, rows: int) -> tuple[str, Path]:
    """The model that is taught, and the stream of the one task."""
    if task == PHOTOGRAPHS:
        return "tiny-instruct", stream_of_photographs(folder, rows=rows)
    options = {"role": task, "train": rows, "test": 100, "seed": SEED}
    folder.mkdir(parents=True, exist_ok=True)
    return "tiny-aligned", one_task(
        folder, {"name": task, "build": "pocket", "options": options, "score": POCKET[task]}
    )


def one_task(folder: Path, entry: dict[str, Any]) -> Path:
    """A stream of one task."""
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
    return path


def measured(task: str, place: Path, *, rows: int, floor: int) -> dict[str, Any]:
    """Teach one file with one floor; the row of the table."""
    model, stream = stream_of(task, place / f"{task}-{rows}", rows=rows)
    folder, settings = place / f"{task}-{rows}-{floor}", [f"train.min_steps={floor}"]
    service.new(folder, model=model, seed=SEED, settings=["dtype=float32", "reuse=false"])
    done = service.learn(folder, str(stream), settings=settings, accept_if=service.parsed("gain>=-100"))
    new = done.verdict.new
    assert new is not None
    return {
        "task": task,
        "model": model,
        "rows": rows,
        "floor": floor,
        "steps": done.steps,
        "before": new.before,
        "after": new.after,
        "learned": done.verdict.learned,
    }


def main(place: Path, tasks: list[str], rows: list[int], floors: list[int]) -> None:
    """All files with all floors that are not in the table yet."""
    table = place / "small_files.jsonl"
    found = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    known = {(row["task"], row["rows"], row["floor"]) for row in found}
    for task in tasks:
        for count in rows:
            for floor in floors:
                if (task, count, floor) not in known:
                    row = measured(task, place, rows=count, floor=floor)
                    append_jsonl(table, row)
                    print(row, flush=True)


if __name__ == "__main__":
    place, *given = sys.argv[1:]
    every: tuple[str, ...] = (PHOTOGRAPHS, *POCKET)
    names, counts, steps = (*given, "", "", "")[:3]
    main(
        Path(place),
        names.split(",") if names else list(every),
        [int(n) for n in counts.split(",")] if counts else list(ROWS),
        [int(n) for n in steps.split(",")] if steps else list(FLOORS),
    )
