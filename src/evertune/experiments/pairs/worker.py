"""One first task, learned once, and every other task learned after it: what one process of a study does.

python -m evertune.experiments.pairs.worker runs/pairs digits 0 float32
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from evertune.data import Task
from evertune.experiments.pairs.study import Study, read_study
from evertune.methods import make_methods
from evertune.runs.config import training_of
from evertune.runs.provenance import write_provenance
from evertune.training.evaluator import score_file, write_answers
from evertune.training.learner import Learner
from evertune.training.loop import Step
from evertune.utils.errors import UserError
from evertune.utils.files import read_json, write_json
from evertune.utils.plugins import load_plugin


def learner_of(study: Study, first: str, *, seed: int, dtype: str) -> tuple[Learner, Study]:
    """The learner in the folder of `first`, at its last saved stage, and the study as far as its model can read it.

    Raises:
        DataError: the model can't read a sample, and the study does not leave out such.
        RunFolderError: the folder was begun with another model or dtype.
    """
    from evertune.models import load_lmm
    from evertune.models.readable import readable

    config = study.config
    lmm = load_lmm(config.model, seed=seed, dtype=dtype, options=config.model_options)
    study = replace(study, stream=readable(study.stream, lmm, skip_invalid=config.skip_invalid))
    place = study.place(first, seed=seed)
    write_provenance(place, lmm, study.stream)
    learner = Learner(
        lmm,
        make_methods(config.method, config.options),
        folder=place,
        training=replace(training_of(config), save_every=0),  # a resumed training has no steps to look at
        seed=seed,
        known=study.stream.known,
        evaluation_batch=config.evaluation.batch_size,
        max_new_tokens=config.evaluation.max_new_tokens,
        reuse=config.reuse and not config.deterministic,
        features=config.features.policy(),
    )
    return learner, study


def learn_pairs(study: Study, learner: Learner, first: Task, *, seed: int) -> None:
    """Learn `first` unless that was done, then each missing second task from there; one small file per pair.

    An interruption loses the pair in progress only. The first task's training and answers are shared with other runs
    through the cache. From there on nothing is: no other run needs the weights after a second task, keeping them all
    would fill the disk, and a training that is reused has no steps to look at.
    """
    if not learner.stages:
        learner.learn(first)
    learner.rollback(1)
    alone = _alone(learner, first)
    learner.reuse = False
    tasks = {task.name: task for task in study.tasks}
    for name in study.missing(first.name, seed=seed):
        row = _pair(learner, first, tasks[name], alone=alone, points=study.points)
        write_json(study.pair_file(first.name, name, seed=seed), {"seed": seed, **row})


def scored(learner: Learner, task: Task, place: str) -> dict[str, Any]:
    """Score of `task` by the model as it is; its answers are written to `answers/PLACE.jsonl` first."""
    path = learner.folder / "answers" / f"{place}.jsonl"
    write_answers(path, learner.answers(task))
    return asdict(score_file(path, task))


def _alone(learner: Learner, first: Task) -> dict[str, Any]:
    """Score of the first task right after it was learned, measured once."""
    path = learner.folder / "alone.json"
    if not path.exists():
        write_json(path, scored(learner, first, "alone"))
    known: dict[str, Any] = read_json(path)
    return known


def _pair(learner: Learner, first: Task, second: Task, *, alone: dict[str, Any], points: int) -> dict[str, Any]:
    """Learn `second` from stage 1, score both tasks before and after, and go back to stage 1."""
    name = second.name
    before = {"first": alone, "second": scored(learner, second, f"before-{name}/{name}")}
    dynamics = TrainingDynamics(learner, first, points=points, place=f"during-{name}")
    learner.learn(second, on_step=dynamics)
    after = {
        "first": scored(learner, first, f"after-{name}/{first.name}"),
        "second": scored(learner, second, f"after-{name}/{name}"),
    }
    learner.rollback(1)
    curve = [_point(0.0, alone), *dynamics.curve, _point(1.0, after["first"])] if points else []
    return {"first": first.name, "second": name, "after_first": before, "after_second": after, "dynamics": curve}


class TrainingDynamics:
    """Evaluates a task at `points` - 1 evenly spaced steps while another one is being learned (an `OnStep`).

    The last of the points is the end of the training, which is evaluated anyway. Training continues as if nothing had
    happened: answering restores weights and mode, and the random generators are put back.
    """

    def __init__(self, learner: Learner, task: Task, *, points: int, place: str) -> None:
        self.curve: list[dict[str, float]] = []
        self._learner = learner
        self._task = task
        self._points = points
        self._place = place

    def __call__(self, step: Step) -> None:
        """Look at the task if this is one of the steps."""
        if step.step not in looked_at(step.steps, self._points):
            return
        with torch.random.fork_rng():
            score = scored(self._learner, self._task, f"{self._place}/step-{step.step:06d}")
        self.curve.append(_point(step.step / step.steps, score))


def looked_at(steps: int, points: int) -> set[int]:
    """The steps, of 1..`steps` - 1, that lie nearest to `points` equal parts."""
    return {round(steps * k / points) for k in range(1, points)} - {0, steps}


def _point(share: float, score: dict[str, Any]) -> dict[str, float]:
    """`share` of the second task's steps taken."""
    return {"share": share, "strict": score["strict"], "relaxed": score["relaxed"]}


def main(folder: str, first: str, seed: str, dtype: str, *plugins: str) -> int:
    """What the process does; the exit code is 2 for a mistake that the user can fix."""
    from evertune.utils.device import settle

    try:
        for spec in plugins:
            load_plugin(spec)
        study = read_study(Path(folder), seed=int(seed))
        settle(deterministic=study.config.deterministic)
        learner, study = learner_of(study, first, seed=int(seed), dtype=dtype)
        task = next(task for task in study.tasks if task.name == first)
        learn_pairs(study, learner, task, seed=int(seed))
    except UserError as problem:
        print(f"evertune: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
