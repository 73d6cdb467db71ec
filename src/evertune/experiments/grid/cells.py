"""What a grid's YAML may say, and the runs it stands for: pure functions, nothing is started here.

A stream or a model that is missing, an unknown key and a run that would be done twice are errors here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evertune.data.stream import stream_file
from evertune.runs.config import RunConfig, SharedSettings, beside, load_listed_plugins, spelled_out
from evertune.utils.config_io import read_yaml, scalar, setting_text, validated
from evertune.utils.errors import UserError, unknown
from evertune.utils.files import refuse_file
from evertune.utils.safe_names import is_name, refuse_same_files

FIRST_HELD_OUT_SEED = 100
MOST_RUNS = 100_000
VARIED_FOR_ALL = ("train",)


class StreamAndModel(BaseModel):
    """A stream, and the model that learns it; without `model` those of the grid's `models`."""

    model_config = ConfigDict(extra="forbid")

    stream: str
    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"stream": value} if isinstance(value, str) else value


class GridFile(SharedSettings):
    """What a grid's YAML may say; everything but the lists means what it means for a run."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the grid, and of its folder in runs/"
    )
    streams: list[StreamAndModel] = Field(
        min_length=1, description="streams, or {stream: ..., model: ...} for one that only this model learns"
    )
    models: list[str] = Field(default=["smol"], min_length=1, description="models of the streams that name none")
    methods: list[str] = Field(min_length=1, description="methods, e.g. [sequential, replay+ewc]")
    seeds: list[int] = Field(default=[0], min_length=1, description="a run of each combination for each")
    vary: dict[str, list[Any]] = Field(
        default_factory=dict, description="settings and their values, e.g. {ewc.strength: [1e2, 1e3]}; all combinations"
    )


AnyGrid = TypeVar("AnyGrid", bound=GridFile)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a grid. `name` is its place below the grid's folder, e.g. `parcel-smol/ewc,strength=1e6/s100`."""

    name: str
    config: RunConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        assert self.config.out is not None
        return Path(self.config.out)

    def file(self, kind: str) -> Path:
        """A file beside the run folder, e.g. `s0.log`."""
        return self.folder.with_name(f"{self.folder.name}.{kind}")


def read_grid(path: Path) -> GridFile:
    """Read a grid's YAML; streams that are files count from it.

    Raises:
        UserError: the file is missing, or says something that a grid can't be made of.
    """
    content = read_yaml(path)
    if isinstance(content, dict):
        content = load_listed_plugins(content, path)
        methods = [str(method) for method in content.get("methods") or []]
        content = spelled_out(content, methods=[part for method in methods for part in method_parts(method)])
    return settled(validated(GridFile, content, where=str(path)), path)


def settled(grid: AnyGrid, path: Path) -> AnyGrid:
    """The grid as it stands in the file `path`: its options checked, streams that are files found from there.

    Raises:
        UserError: an option or a varied setting belongs to no method of the grid.
    """
    streams = [place.model_copy(update={"stream": beside(path, place.stream)}) for place in grid.streams]
    _refuse_stray_options(grid, path)
    return grid.model_copy(update={"streams": streams, "probes": [beside(path, probe) for probe in grid.probes]})


def _refuse_stray_options(grid: GridFile, path: Path) -> None:
    """Options and varied settings must belong to one of the methods, or to all runs."""
    parts = {part for method in grid.methods for part in method_parts(method)}
    for name in grid.options:
        if name not in parts:
            raise UserError(f"{path}: options: {unknown('method of this grid', name, parts)}")
    for key, values in grid.vary.items():
        head, dot, option = key.partition(".")
        if head not in parts and head not in VARIED_FOR_ALL:
            raise UserError(f"{path}: vary: {unknown('method of this grid', head, [*parts, *VARIED_FOR_ALL])}")
        if not dot or not option or not values:
            raise UserError(f"{path}: vary: write '{key}' as METHOD.OPTION or train.SETTING with a list of values")


def method_parts(method: str) -> list[str]:
    """`replay+ewc` -> its names, unchecked (that needs the methods themselves, and so torch)."""
    return [part.strip() for part in method.split("+")]


def cells_of(grid: GridFile, *, out: Path) -> list[Cell]:
    """All runs of a grid in the order in which they are started.

    Seeds are outermost, so that whole seeds get finished one after another; then streams and models, then methods as
    listed: one whose trainings others can take over (`direct`) belongs first. Varied settings are innermost.
    """
    refuse_file(out)
    cells = []
    names = {place.stream: stream_file(place.stream)[0].name for place in grid.streams}
    places = [(p.stream, model) for p in grid.streams for model in ([p.model] if p.model else grid.models)]
    methods = ["+".join(method_parts(method)) for method in grid.methods]
    most = (
        len(grid.seeds) * len(places) * len(methods) * math.prod(len(values) for values in grid.vary.values() if values)
    )
    if most > MOST_RUNS:
        raise UserError(f"a grid of {most:,} runs; at most {MOST_RUNS:,} are made")
    for seed, (stream, model), method in itertools.product(grid.seeds, places, methods):
        place = f"{names[stream]}-{Path(model).name}"
        for varied in _variations(grid, method):
            name = f"{place}/{_label(method, varied)}/s{seed}"
            content = _content(grid, method, varied) | {"stream": stream, "model": model, "method": method}
            content |= {"seed": seed, "out": str(out / name)}
            cells.append(Cell(name, validated(RunConfig, content, where=name)))
    _refuse_twins(cells)
    return cells


def _variations(grid: GridFile, method: str) -> list[dict[str, Any]]:
    """The product of what is varied for `method`; one empty variation when nothing is."""
    heads = {*method_parts(method), *VARIED_FOR_ALL}
    varied = {key: values for key, values in grid.vary.items() if key.split(".")[0] in heads}
    values = [[scalar(v) if isinstance(v, str) else v for v in values] for values in varied.values()]
    return [dict(zip(varied, choice, strict=True)) for choice in itertools.product(*values)]


def _label(method: str, varied: dict[str, Any]) -> str:
    """`ewc,strength=1e6`: the folder of a method with what is varied."""
    parts = [method, *(setting_text(key, value, method=method) for key, value in varied.items())]
    return re.sub(r"[^A-Za-z0-9.,+=_-]", "_", ",".join(parts))


def _content(grid: GridFile, method: str, varied: dict[str, Any]) -> dict[str, Any]:
    """What the grid says about all runs, with what is varied, and only the options of `method`."""
    content = grid.model_dump(include=set(SharedSettings.model_fields), exclude_unset=True)
    content["options"] = {n: dict(o) for n, o in grid.options.items() if n in method_parts(method)}
    for key, value in varied.items():
        head, _, option = key.partition(".")
        home = content if head in VARIED_FOR_ALL else content["options"]
        home[head] = {**home.get(head, {}), option: value}
    return content


def _refuse_twins(cells: Sequence[Cell]) -> None:
    names = [cell.name for cell in cells]
    for name in names:
        if not all(map(is_name, name.split("/"))):
            raise UserError(f"a run of this grid would be called {name[:200]!r}, which can be no folder's name")
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"the grid has the run {name} twice: every stream, model, method, seed and value once")
    refuse_same_files(names, what="runs", where="the grid")


def held_out_note(grid: GridFile) -> str | None:
    """Hyper-parameters are chosen on seeds that no table uses."""
    seeds = [seed for seed in grid.seeds if seed < FIRST_HELD_OUT_SEED]
    if not grid.vary or not seeds:
        return None
    listed = ", ".join(map(str, seeds))
    return f"seeds below {FIRST_HELD_OUT_SEED} are test seeds: choose by others, not by {listed}"
