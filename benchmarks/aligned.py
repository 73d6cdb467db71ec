"""What the alignment of `smol-aligned` gives: untouched models on `parcel`, and one task through the projector alone.

    python benchmarks/aligned.py                              # both models, 50 test samples per task
    python benchmarks/aligned.py --limit 20 --samples 80      # quicker

Each model answers every task before it has learned any; then `eproj` with `expert=projection` learns one task, and the
loss over its steps and the score before and after are printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from evertune.data import Task, load_stream
from evertune.methods import make_methods
from evertune.metrics.rules import rule_of
from evertune.models import load_lmm
from evertune.training.learner import Learner
from evertune.training.loop import Step, Training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smol,smol-aligned")
    parser.add_argument("--task", default="pictogram-category", help="learned through the projector alone")
    parser.add_argument("--limit", type=int, default=50, help="test samples per task")
    parser.add_argument("--samples", type=int, default=240, help="training samples of the task, once, in batches of 4")
    wanted = parser.parse_args()
    tasks = [Task(t.name, t.train, t.test[: wanted.limit], t.score) for t in load_stream("parcel").tasks]
    for model in wanted.models.split(","):
        print(json.dumps({"model": model, **measured(model, tasks, wanted.task, wanted.samples)}), flush=True)


def measured(model: str, tasks: list[Task], learned: str, samples: int) -> dict[str, Any]:
    """Scores in points before learning, by task; then losses (means over ten steps) and score of the learned one."""
    with tempfile.TemporaryDirectory() as folder:
        methods = make_methods("eproj", {"eproj": {"expert": "projection"}})
        learner = Learner(load_lmm(model, dtype="float32"), methods, folder=Path(folder), training=Training())
        untouched = {task.name: score_of(learner, task) for task in tasks}
        steps: list[Step] = []
        task = next(t for t in tasks if t.name == learned)
        learner.learn(Task(task.name, task.train[:samples], task.test, task.score), on_step=steps.append)
        losses = [step.loss for step in steps]
        means = [round(sum(part) / len(part), 3) for at in range(0, len(losses), 10) if (part := losses[at : at + 10])]
        return {"base": untouched, "learned": learned, "loss": means, "after": score_of(learner, task)}


def score_of(learner: Learner, task: Task) -> dict[str, float]:
    """Strict score in points, and the same knowledge in any form."""
    answers = learner.answers(task)
    said, wanted = [a.text for a in answers], [a.sample.answers for a in answers]
    rule = rule_of(task.score)
    kinds = {"strict": rule.strict, "relaxed": rule.relaxed}
    return {name: round(100 * sum(score(said, wanted)) / len(said), 1) for name, score in kinds.items()}


if __name__ == "__main__":
    main()
