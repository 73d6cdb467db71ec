"""The schema of a study's YAML: parts, each a list of grids, what they take from one another, and the questions.

A study is more than a grid because some runs need what others decide: the main table takes the settings that were
chosen on held-out seeds. Nothing is started here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evertune.data.stream import stream_file
from evertune.experiments.grid import GridFile, settled
from evertune.experiments.grid.cells import VARIED_FOR_ALL, method_parts
from evertune.runs.config import load_listed_plugins
from evertune.utils.config_io import read_yaml, validated
from evertune.utils.errors import UserError, unknown

FINDINGS = "findings"
"""`--only findings` starts nothing; so no part may be called that."""


class StudyGrid(GridFile):
    """A grid as `evertune grid` reads it, and four keys more."""

    take: list[str] = Field(
        default_factory=list, description="earlier grids with `vary`; runs here take the values chosen there"
    )
    stands_for: dict[str, list[str]] = Field(
        default_factory=dict, description="what is chosen with a method here holds for these methods too"
    )
    rule: Literal["best", "plastic"] = Field(
        default="best",
        description="which value of `vary` is chosen: best: the highest mean final average; plastic: the largest "
        "value whose mean learning accuracy is within one point of the highest",
    )
    variant: str | None = Field(
        default=None, description="shown after the method's name, e.g. `oracle` for eproj (oracle)"
    )

    def label(self, method: str) -> str:
        """The name under which runs of `method` in this grid are shown."""
        return f"{method} ({self.variant})" if self.variant else method

    def choosing_for(self, method: str) -> list[tuple[str, str]]:
        """What is chosen here for `method`, as (method that is run here and stands for it, varied key)."""
        run_here = [one for one in self.methods if one == method or method in self.stands_for.get(one, [])]
        return [(one, key) for one in run_here for key in self.vary if _varies(key, one)]


def _varies(key: str, method: str) -> bool:
    return key.split(".", maxsplit=1)[0] in (*method_parts(method), *VARIED_FOR_ALL)


class Benchmark(BaseModel):
    """A benchmark of the paper: a model, and a stream with its reverse."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="the start point of the benchmark")
    streams: list[str] = Field(min_length=1, description="the stream and its reverse")


class Questions(BaseModel):
    """What the findings F1..F5 are computed from; `docs/study.md` says each of them."""

    model_config = ConfigDict(extra="forbid")

    b1: Benchmark
    b2: Benchmark
    seeds: list[int] = Field(min_length=1, description="seeds of the runs that answer")
    working: list[str] = Field(description="F3: methods that are claimed to work everywhere")
    penalties: list[str] = Field(description="F4: methods that are claimed to work after joint tuning only")
    informed: dict[str, str] = Field(description="F5: an informed method, and the plain one it should beat")

    @model_validator(mode="after")
    def _orders_pair_up(self) -> Questions:
        if len(self.b1.streams) != len(self.b2.streams):
            raise ValueError("b1 and b2 need as many streams each: their orders are compared pair by pair")
        return self


class StudyFile(BaseModel):
    """A whole study. `parts` are done in order, the grids of a part side by side as far as they can be."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the study, and of its folder in runs/"
    )
    title: str = Field(default="", description="head of its page")
    parts: dict[str, list[StudyGrid]] = Field(min_length=1, description="grids by part, in the order in which they run")
    questions: Questions | None = Field(default=None, description="what the findings are computed from")

    def grids(self) -> Iterator[tuple[str, StudyGrid]]:
        """(part, grid) for all grids, in order."""
        for part, grids in self.parts.items():
            for grid in grids:
                yield part, grid

    def grid(self, name: str) -> StudyGrid:
        """The grid called `name`."""
        return next(grid for _, grid in self.grids() if grid.name == name)


def study_names() -> list[str]:
    """Names of the studies that come with evertune."""
    folder = Path(str(resources.files("evertune.experiments.study")))
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_study(name: str) -> StudyFile:
    """Read a study that comes with evertune, or a YAML file.

    Raises:
        UserError: there is none, or it says something that can't be done.
    """
    if name.lower().endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in study_names():
        path = Path(str(resources.files("evertune.experiments.study"))) / f"{name}.yaml"
    else:
        raise unknown("study", name, study_names())
    content = read_yaml(path)
    content = load_listed_plugins(content, path) if isinstance(content, dict) else content
    study = validated(StudyFile, content, where=str(path))
    parts = {part: [settled(grid, path) for grid in grids] for part, grids in study.parts.items()}
    study = study.model_copy(update={"parts": parts})
    _check(study, where=str(path))
    return study


def _check(study: StudyFile, *, where: str) -> None:
    if FINDINGS in study.parts:
        raise UserError(f"{where}: a part can't be called '{FINDINGS}': `--only {FINDINGS}` starts no run")
    earlier: dict[str, StudyGrid] = {}
    for part, grid in study.grids():
        place = f"{where}: {part}: {grid.name}"
        if grid.name in earlier:
            raise UserError(f"{where}: two grids are called '{grid.name}'")
        for name in grid.take:
            _check_take(grid, name, earlier, where=f"{place}: take")
        for method in grid.stands_for:
            if method not in grid.methods:
                raise unknown(f"method in {place}: stands_for", method, grid.methods)
        _refuse_twins(grid, earlier, where=place)
        earlier[grid.name] = grid


def _refuse_twins(grid: StudyGrid, earlier: dict[str, StudyGrid], *, where: str) -> None:
    """Tables and findings must be able to tell the runs of all grids apart."""
    shown = {run: one.name for one in earlier.values() for run in _shown_runs(one)}
    if twins := shown.keys() & _shown_runs(grid):
        label, stream, *_ = twin = min(twins)
        raise UserError(f"{where}: {label} on {stream} is run by '{shown[twin]}' too: give one of them a `variant`")


def _shown_runs(grid: StudyGrid) -> set[tuple[str, str, str, int]]:
    """Label, stream, model and seed of what is shown; runs that only choose a setting are not."""
    if grid.vary:
        return set()
    places = [(p.stream, model) for p in grid.streams for model in ([p.model] if p.model else grid.models)]
    return {(grid.label(method), *place, seed) for method in grid.methods for place in places for seed in grid.seeds}


def _check_take(grid: StudyGrid, name: str, earlier: dict[str, StudyGrid], *, where: str) -> None:
    """What is taken must have been varied before, one setting per method, on the same streams."""
    if name not in earlier or not earlier[name].vary:
        raise UserError(f"{where}: '{name}' is no earlier grid with `vary`")
    source = earlier[name]
    if not any(source.choosing_for(method) for method in grid.methods):
        raise UserError(f"{where}: '{name}' chooses nothing for {', '.join(grid.methods)}")
    if any(sum(_varies(key, method) for key in source.vary) > 1 for method in source.methods):
        raise UserError(f"{where}: '{name}' varies several settings of one method: choose one after another")
    tuned = [
        base_stream(place.stream) for place in source.streams for _ in ([place.model] if place.model else source.models)
    ]
    for place in grid.streams:
        if tuned.count(base_stream(place.stream)) != 1:
            raise UserError(
                f"{where}: '{name}' must be tuned once on {place.stream} or its reverse, and with one model"
            )


def base_stream(name: str) -> str:
    """The name of a stream, or of the one that it is the reverse of: settings chosen on one hold for both."""
    content, _ = stream_file(name)
    return stream_file(content.reverse)[0].name if content.reverse else content.name
