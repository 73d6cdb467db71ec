"""Run folders with a matrix and predictions that nobody trained for."""

from __future__ import annotations

import json
import statistics

from evertune.metrics.metrics import metrics_of
from evertune.reporting.matrix import Matrix
from evertune.utils.files import write_jsonl


def write_run(folder, scores, *, method="replay", seed=0, images=None, rule="exact", scored=True, questions="q"):
    """A run over the tasks of `scores`, whose last row has these scores (of 100) by question; all before are 0.

    `images`: by task, the image of each question; every question has its own where it is not said.
    """
    tasks = list(scores)
    cells = []
    R = [[0.0] * len(tasks) for _ in tasks] + [[statistics.fmean(each) for each in scores.values()]]
    for stage, row in enumerate(R):
        for task, score in zip(tasks, row, strict=True):
            each = scores[task] if stage == len(tasks) else [0.0] * len(scores[task])
            names = images[task] if images else [f"{task}-{n}.png" for n in range(len(each))]
            path = folder / "answers" / f"{stage:02d}" / f"{task}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, [_row(n, *pair, scored) for n, pair in enumerate(zip(names, each, strict=True))])
            error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else None
            about = {"stage": stage, "task": task, "questions": f"{task}-{questions}", "score_rule": rule}
            about |= {"score": score, "relaxed": score, "standard_error": error, "n": len(each)}
            cells.append({**about, "answers": str(path.relative_to(folder))})
    more = {"settings": {"limit": None, "train": {}, "options": {}}, "metrics": metrics_of(R), "cells": cells}
    matrix = Matrix("random", "made-up", method, seed, tasks, tasks, R, relaxed=R, **more)
    (folder / "matrix.json").write_text(json.dumps(matrix.to_dict()))
    return folder


def _row(number, image, score, scored):
    """A question whose right answer is `a`; a score that is neither 0 nor 100 can't be seen from the texts."""
    row = {"id": f"q{number}", "image": image, "instruction": "what?", "gold": ["a"], "expert": None}
    row["answer"] = "a" if score == 100 else "b"
    return {**row, "score": score, "relaxed": score} if scored else row
