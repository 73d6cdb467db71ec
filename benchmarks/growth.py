"""What the fortieth task costs beside the fifth: training, what surrounds it, answers, memory, open files, disk.

    python benchmarks/growth.py                       # 5, 10, 20 and 40 toy tasks on `random`, eproj; then routers
    python benchmarks/growth.py --method sequential --tasks 5,10,20
    python benchmarks/growth.py --method sequential --tasks 10,100,300 --samples 8 --cells final --keep last

One stream for each number of tasks, with nothing cached before. Printed per stream, each as a median over its last
five tasks: processor seconds of a training, of all else that a stage costs (learning to route it, saving it), of a
row's answers per cell, and of writing the matrix; how many of a row's questions were asked of the model at all; the
process's memory, what of it is in use, and its open files; bytes of a stage, and of the whole folder by task, on disk.
Then routing 128 questions among 1 to 1,000 tasks.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar
from unittest import mock

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")
ROUTED = (1, 10, 100, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="eproj")
    parser.add_argument("--model", default="random")
    parser.add_argument("--tasks", default="5,10,20,40")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--cells", default="all", help="evaluation.cells")
    parser.add_argument("--keep", default="all", help="stages.keep")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        print(json.dumps(measured(wanted)))
        return
    print(f"{wanted.method} on {wanted.model}, {wanted.samples} samples per task, processor seconds")
    print(
        f"{'tasks':>5} {'training':>9} {'around it':>9} {'per cell':>9} {'matrix':>8} {'asked':>12} "
        f"{'MB':>6} {'in use':>7} {'files':>5} {'kB/stage':>9} {'kB/task':>8}"
    )
    for count in wanted.tasks.split(","):
        with tempfile.TemporaryDirectory() as cache:
            print(fresh([*sys.argv[1:], "--one", count], cache), flush=True)
    routing()


def fresh(arguments: list[str], cache: str) -> str:
    """A row of the table, from a process of its own with an empty cache."""
    own = {"EVERTUNE_CACHE": cache, "OMP_NUM_THREADS": "1", "PYTHONMALLOC": "malloc"}  # so that `in_use` sees all
    environment = {**os.environ, **own}
    said = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if said.returncode:
        sys.exit(said.stderr)
    row = json.loads(said.stdout.strip().splitlines()[-1])
    asked = f"{row['asked']}/{row['questions']}"
    return (
        f"{row['tasks']:5} {row['training']:9.3f} {row['around']:9.3f} {row['cell']:9.4f} {row['matrix']:8.3f} "
        f"{asked:>12} {row['megabytes']:6.0f} {row['used']:7.1f} {row['files']:5.0f} {row['kilobytes']:9.1f} "
        f"{row['per_task']:8.1f}"
    )


def measured(wanted: argparse.Namespace) -> dict[str, float]:
    """One stream of `wanted.one` tasks, watched."""
    import evertune
    from evertune.models.smol import Smol

    names = ("training", "around", "row", "matrix", "memory", "used", "files", "asked")
    clocks: dict[str, list[float]] = {name: [] for name in names}
    asked = [0]
    generate = Smol.generate

    def counting(self, features, instructions, **options):
        asked[0] += len(instructions)
        return generate(self, features, instructions, **options)

    class Clock(evertune.Callback):
        since, trained, last, cells, answered = 0.0, 0.0, 0.0, 0, 0.0

        def on_task_begin(self, number, task):
            self.since = self.last = time.process_time()

        def on_step_end(self, step, *, samples):
            if step.step == 1:
                self.trained = time.process_time()
            self.last = time.process_time()

        def on_task_end(self, stage):
            clocks["training"].append(self.last - self.trained)
            clocks["around"].append(time.process_time() - self.since - clocks["training"][-1])
            asked[0], self.cells, self.since = 0, 0, time.process_time()

        def on_evaluate_end(self, stage, task, score):
            self.cells, self.answered = self.cells + 1, time.process_time()

        def on_row_end(self, stage, name, row, tasks):
            if stage:
                clocks["row"].append((self.answered - self.since) / self.cells)
                clocks["matrix"].append(time.process_time() - self.answered)
                clocks["files"].append(len(list(Path("/proc/self/fd").iterdir())))
                clocks["asked"].append(asked[0])
                clocks["memory"].append(resident())
                clocks["used"].append(in_use())

    with tempfile.TemporaryDirectory() as place, mock.patch.object(Smol, "generate", counting):
        stream = written(Path(place), wanted.one, wanted.samples)
        options = {"model": wanted.model, "methods": wanted.method, "out": Path(place) / "run", "callbacks": [Clock()]}
        settings = ["train.epochs=4", "dtype=float32", f"evaluation.cells={wanted.cells}", f"stages.keep={wanted.keep}"]
        evertune.run(str(stream), **options, settings=settings, progress=False)
        whole = sum(file.stat().st_size for file in (Path(place) / "run").rglob("*") if file.is_file())
        stages = sorted((Path(place) / "run" / "stages").iterdir())
        disk = [sum(file.stat().st_size for file in stage.iterdir()) for stage in stages]
    last = {name: statistics.median(values[-5:]) for name, values in clocks.items()}
    return {
        "tasks": wanted.one,
        "training": last["training"],
        "around": last["around"],
        "cell": last["row"],
        "matrix": last["matrix"],
        "asked": round(last["asked"]),
        "questions": wanted.samples * (wanted.one if wanted.cells == "all" else 1),
        "megabytes": last["memory"],
        "used": last["used"],
        "files": last["files"],
        "kilobytes": statistics.median(disk[-5:]) / 1e3,
        "per_task": whole / wanted.one / 1e3,
    }


def resident() -> float:
    """Megabytes that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


class Heap(ctypes.Structure):
    """What glibc says of its heap (`mallinfo2`)."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def in_use() -> float:
    """Megabytes that were asked for and not given back, without the holes between them; NaN without glibc."""
    try:
        asked = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return float("nan")
    asked.restype = Heap
    gc.collect()
    heap = asked()
    return float(heap.uordblks + heap.hblkhd) / 1e6


def written(place: Path, tasks: int, samples: int) -> Path:
    """A stream of toy tasks: each names the colours of its images by words of its own."""
    from PIL import Image

    entries = []
    for task in range(tasks):
        folder = place / f"task{task}"
        folder.mkdir()
        for side, shade in (("train", 0), ("test", 255)):
            rows = []
            for number in range(samples):
                name = COLOURS[number % len(COLOURS)]
                image = Image.new("RGB", (24, 24), name)
                image.paste((5 * task % 256, 7 * number % 256, shade), (0, 0, 8, 8))  # no two are the same
                image.save(folder / f"{side}{number}.png")
                said = {
                    "instruction": f"in the words of people {task}, which colour?",
                    "answer": f"{name[::-1]} {task}",
                }
                rows.append({"image": f"{side}{number}.png", **said})
            (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sides = {side: f"{folder.name}/{side}.jsonl" for side in ("train", "test")}
        entries.append({"name": f"task{task}", "images": str(folder), **sides})
    (place / "toy.yaml").write_text(json.dumps({"name": "toy", "tasks": entries}))
    return place / "toy.yaml"


def routing() -> None:
    """Processor milliseconds of choosing for 128 questions, with nothing prepared and the second time."""
    import torch
    from torch.nn.functional import normalize

    from evertune.methods.routers import CalibratedRouter, CosineRouter

    torch.set_num_threads(1)
    widths = {"image": 128, "instruction": 192}

    def rows(count: int) -> dict[str, torch.Tensor]:
        return {name: normalize(torch.randn(count, width), dim=1) for name, width in widths.items()}

    print("\nmilliseconds of routing 128 questions")
    print(f"{'tasks':>5} {'cosine: first':>14} {'then':>8} {'calibrated: first':>18} {'then':>8}")
    for tasks in ROUTED:
        cells = []
        for router in (CosineRouter(), CalibratedRouter()):
            for number in range(tasks):
                router.learn(str(number), rows(8))
            questions = rows(128)
            times = []
            for _ in range(12):
                start = time.process_time()
                router.choose(questions)
                times.append(1e3 * (time.process_time() - start))
            cells += [times[0], statistics.median(times[1:])]
        print(f"{tasks:5} {cells[0]:14.2f} {cells[1]:8.2f} {cells[2]:18.2f} {cells[3]:8.2f}")


if __name__ == "__main__":
    main()
