"""Peak memory of a process after each of 40 tasks: does it grow with what was learned?

python benchmarks/growth_memory.py --tasks 40 --out runs/growth --methods sequential,replay,ewc,eproj

A whole run of toy tasks by `random` in a process of its own per method; every task is asked after every task, so the
matrix, the answers and the report grow as in a long stream. The peak (`ru_maxrss`) can only rise, so what is compared
is the peak at the end of task 10 and at the end of the run, its report included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "brown")
SETTINGS = ["train.epochs=2", "train.batch_size=2", "train.learning_rate=0.01", "dtype=float32"]
OPTIONS = {"ewc": ["ewc.samples=4"], "replay": ["replay.ratio=0.5"]}
EARLY = 10


def peak() -> float:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def now() -> float:
    """Memory of this process that no file stands behind, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def make_stream(folder: Path, *, tasks: int) -> Path:
    """Tasks that are equally large in everything: 8 images to learn from and 4 to be asked about, in two colours."""
    entries = []
    for number in range(tasks):
        name, rows = f"task-{number:02d}", []
        for index in range(12):
            colour = COLOURS[(number + index % 2) % len(COLOURS)]
            image = Image.new("RGB", (48, 48), colour)
            image.putpixel((index, number), (128, 128, 128))
            image.save(folder / f"{number}-{index}.png")
            rows.append({"image": f"{number}-{index}.png", "instruction": f"colour {number:02d}?", "answer": colour})
        for side, part in (("train", rows[:8]), ("test", rows[8:])):
            (folder / f"{name}-{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        sides = {side: f"{name}-{side}.jsonl" for side in ("train", "test")}
        entries.append({"name": name, "images": str(folder), **sides})
    (folder / "toy.yaml").write_text(yaml.safe_dump({"name": "toy", "tasks": entries}))
    return folder / "toy.yaml"


def learn_all(stream: Path, method: str, out: Path) -> None:
    """In the child: the run; one line of JSON per finished row of R, and one at the end."""
    import evertune
    from evertune.runs.callback import Callback

    class Weighing(Callback):
        def on_row_end(self, stage: int, name: str, row: list[float], tasks: list[str]) -> None:
            print(json.dumps({"stage": stage, "peak": peak(), "now": now()}), flush=True)

    settings = [*SETTINGS, *OPTIONS.get(method, [])]
    evertune.run(str(stream), model="random", methods=method, out=out, settings=settings, callbacks=[Weighing()])
    print(json.dumps({"stage": "end", "peak": peak(), "now": now()}), flush=True)


def weighed(stream: Path, method: str, out: Path) -> list[dict[str, Any]]:
    """Memory after each stage of a run by `method`."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--child", str(stream), method, str(out)]
        environment = {**os.environ, "EVERTUNE_CACHE": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--methods", default="sequential,replay,ewc,eproj")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--child", nargs=3, metavar=("STREAM", "METHOD", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        learn_all(Path(asked.child[0]), asked.child[1], Path(asked.child[2]))
        return
    out = asked.out.resolve()
    (out / "stream").mkdir(parents=True, exist_ok=True)
    stream = make_stream(out / "stream", tasks=asked.tasks)
    for method in asked.methods.split(","):
        rows = weighed(stream, method, out / method)
        (out / f"{method}.json").write_text(json.dumps(rows))
        by_stage = {row["stage"]: row for row in rows}
        early, late, end = by_stage[EARLY], by_stage[asked.tasks], by_stage["end"]
        grown = [f"{row['peak']:.0f} MB ({100 * (row['peak'] / early['peak'] - 1):+.1f} %)" for row in (late, end)]
        print(f"{method:<12} task {EARLY}: {early['peak']:.0f} MB, task {asked.tasks}: {grown[0]}, report: {grown[1]}")
        print(f"{'':<12} without files: {early['now']:.0f} MB, then {late['now']:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
