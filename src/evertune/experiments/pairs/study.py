"""A study of pairs on disk: its settings, where each result lies, what is finished. Nothing is trained here.

OUT/config.yaml                 what decides the numbers; another study is refused
    config.json                 what the workers read
    similarity.json             of the tasks, from frozen embeddings
    s0/digits/                  a model folder: stage 1 is the first task, learned alone
        alone.json              its score then
        then-numbers.json       one finished pair: digits first, then numbers
        answers/                predictions, written before they are scored
    pairs.json, index.html      all of it together
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.assets import Progress
from evertune.data import Stream, Task
from evertune.experiments.pairs.task_similarity import check_tasks
from evertune.runs.api import method_specs, model_description, resolved
from evertune.runs.config import RunConfig
from evertune.runs.inputs import NAMED
from evertune.runs.run_data import data_of
from evertune.runs.run_folder import begin, identity_of, refuse_other_run
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Study:
    """All ordered pairs of the tasks of a stream, for some seeds.

    Attributes:
        config: of every learner; its seed is not used.
        seeds: each gives every pair once.
        points: at how many points of the second task's training the first is evaluated; 0 for none.
        text_encoder: of the similarity; None: the model's own.
        folder: where everything is written.
        stream: its new tasks are paired; known ones are protected by methods, but not paired.
    """

    config: RunConfig
    seeds: tuple[int, ...]
    points: int
    text_encoder: str | None
    folder: Path
    stream: Stream

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is paired."""
        return self.stream.tasks

    def place(self, first: str, *, seed: int) -> Path:
        """The folder of all pairs that begin with `first`."""
        return self.folder / f"s{seed}" / first

    def pair_file(self, first: str, second: str, *, seed: int) -> Path:
        """The result of one pair."""
        return self.place(first, seed=seed) / f"then-{second}.json"

    def pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of different tasks."""
        names = [task.name for task in self.tasks]
        return [(a, b) for a in names for b in names if a != b]

    def seconds_of(self, first: str) -> list[str]:
        """What is learned after `first`, in order."""
        return [b for a, b in self.pairs() if a == first]

    def missing(self, first: str, *, seed: int) -> list[str]:
        """Second tasks whose pair with `first` is not finished."""
        return [b for b in self.seconds_of(first) if not self.pair_file(first, b, seed=seed).exists()]

    def rows(self) -> list[dict[str, Any]]:
        """The finished pairs of all seeds, in order.

        Raises:
            RunFolderError: one is missing or damaged.
        """
        return [read_json(self.pair_file(a, b, seed=seed)) for seed in self.seeds for a, b in self.pairs()]


def study_of(
    config: RunConfig,
    *,
    seeds: Sequence[int],
    points: int = 0,
    text_encoder: str | None = None,
    progress: Progress | None = None,
) -> Study:
    """Check the settings, and load the data.

    Raises:
        UserError: fewer than two tasks, a method that does not learn one task after another, a seed twice.
        DataError: an image is broken.
    """
    from evertune.methods import METHODS, parts_of

    specs = method_specs(config)
    if len(specs) > 1:
        raise UserError(f"method '{config.method}': pairs are learned with one method; join parts with '+'")
    if any(METHODS[part].about.kind == "bound" for part in parts_of(specs[0])):
        raise UserError(f"method '{specs[0]}' is a bound: it does not learn one task after another, so nothing is lost")
    if config.evaluation.cells != "all" or config.stages.keep != "all":
        raise UserError("evaluation.cells and stages.keep are for evertune run: a pair evaluates what it needs")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {', '.join(map(str, seeds)) or '(none)'}: give different numbers from 0 on")
    stream = data_of(config, decode=True, progress=progress)
    check_tasks(stream, stream.tasks)
    folder = Path(config.out) if config.out else Path("runs") / f"pairs-{stream.name}-{Path(config.model).name}"
    return Study(config, tuple(seeds), points, text_encoder, folder, stream)


def begin_study(study: Study, *, progress: Progress | None = None) -> None:
    """Create the folder of a study, or see to it that it is this study's; write the settings for the workers.

    Raises:
        RunFolderError: the folder holds something else.
    """

    model = model_description(study.config, NAMED, progress)
    decides = {key: value for key, value in resolved(study.config, study.config.method).items() if key != "seed"}
    identity = {**identity_of(decides, study.stream, model), "dynamics": study.points}
    if (study.folder / "config.yaml").exists():
        refuse_other_run(study.folder, identity)
    elif study.folder.exists() and any(study.folder.iterdir()):
        raise RunFolderError(f"{study.folder} is not empty and not a study of pairs: choose another --out")
    begin(study.folder, identity)
    write_json(study.folder / "config.json", {"config": study.config.model_dump(), "dynamics": study.points})


def read_study(folder: Path, *, seed: int) -> Study:
    """The study of `folder` for one seed, as `begin_study` wrote it down: what a worker reads."""
    content = read_json(folder / "config.json")
    config = RunConfig.model_validate({**content["config"], "seed": seed})
    stream = data_of(config)
    return Study(config, (seed,), content["dynamics"], None, folder, stream)
