"""Whether a stage of a run uses the images: its score on a task with the right images and with another question's.

    python benchmarks/uses_images.py RUN_FOLDER... --limit 100 --out FILE.json

For every stage: the score on the task just learned with its own images, and with the images of the test questions
moved on by one, so that each question gets the image of the next. Equal scores mean that the answers come from the
question alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from evertune import Learner, load_stream
from evertune.data import Task
from evertune.runs.api import config_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--limit", type=int, help="questions per task")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    result = []
    for folder in wanted.folders:
        stream, seed = config_of(folder).stream, config_of(folder).seed
        print(f"{stream}, seed {seed}: {folder}")
        print(f"  {'stage':14} {'own images':>10} {'moved on':>9}")
        for name, own, other in scores_of(folder, wanted.limit):
            print(f"  {name:14} {own:10.1f} {other:9.1f}", flush=True)
            result.append({"stream": stream, "seed": seed, "task": name, "own": own, "moved_on": other})
    if wanted.out:
        wanted.out.write_text(json.dumps(result, indent=1) + "\n")


def scores_of(folder: Path, limit: int | None) -> Iterator[tuple[str, float, float]]:
    """For each stage: the task's name, the score with its own images, and with those of the next question."""
    learner = Learner.from_run(folder, progress=False)
    tasks = {task.name: task.limited(limit) for task in load_stream(config_of(folder).stream).tasks}
    for number, stage in enumerate(learner.stages, start=1):
        task = tasks[stage.task]
        learner.load(number)
        yield task.name, learner.evaluate(task).strict, learner.evaluate(moved_on(task)).strict


def moved_on(task: Task) -> Task:
    """The task whose test questions have each the images of the next one."""
    samples = list(task.test)
    pairs = zip(samples, samples[1:] + samples[:1], strict=True)
    moved = [dataclasses.replace(one, images=other.images) for one, other in pairs]
    return dataclasses.replace(task, test=moved)


if __name__ == "__main__":
    main()
