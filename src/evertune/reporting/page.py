"""One HTML file that tells what a run, or several, learned and forgot; it opens anywhere, without a network.

No script and nothing external: plots are inline SVG, images are data URIs, and a content security policy forbids the
rest. Answers, task names and file names come from a model and from data, so everything is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evertune.reporting.definitions import definitions
from evertune.reporting.examples import SHOWN, Thumbnails
from evertune.reporting.headline import headline
from evertune.reporting.labels import METRIC_TITLES, duration
from evertune.reporting.matrix import Matrix, load_matrix
from evertune.reporting.plots import average_curve, forgetting_by_task, mean_heat_map
from evertune.reporting.run_view import run_view
from evertune.reporting.seeds import mean_matrix
from evertune.reporting.tables import ComparisonRow, compare, in_order, notes_of, shown_columns
from evertune.utils.arguments import path_of
from evertune.utils.errors import UserError, kind_of
from evertune.utils.files import write_atomically


@dataclass(frozen=True, slots=True)
class Method:
    """The runs of a method, in the order of their seeds, and the mean of their matrices.

    Attributes:
        mean: the heat map; empty where fewer than two runs are finished.
        mean_of: its seeds.
        partial: how many cells of it have some of these seeds only.
    """

    name: str
    runs: list[Mapping[str, Any]]
    mean: Markup
    mean_of: tuple[int, ...]
    partial: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared with each other: the runs of one stream and model."""

    stream: str
    model: str
    tasks: tuple[str, ...]
    known: tuple[str, ...]
    headline: str
    rows: list[ComparisonRow]
    columns: list[str]
    notes: list[str]
    curve: Markup
    forgetting: Markup
    methods: list[Method]


def write_report(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page about `runs` (folders) to `out` and return `out`.

    Args:
        runs: folders of finished runs or runs in progress; those of the same stream and model are compared.
        out: the HTML file.

    Raises:
        RunFolderError: a run has no readable `matrix.json`. UserError: no run is given, or `out` can't be written.
    """
    if not isinstance(runs, list | tuple):
        raise UserError(
            f"the runs are {kind_of(runs)}; taken is a list of run folders, write_report(['runs/first'], OUT)"
        )
    if not runs:
        raise UserError("a report needs at least one run folder")
    out = path_of(out, what="out", example="report.html")
    loaded = [(run, load_matrix(run)) for run in (path_of(run, what="the run") for run in runs)]
    images = Thumbnails()
    settings = _settings(loaded, images)
    template = environment().get_template("page.html.j2")
    page = template.render(
        settings=settings,
        titles=METRIC_TITLES,
        images=images.uris,
        single=len(runs) == 1,
        shown=SHOWN,
        duration=duration,
        definitions=definitions([matrix for _, matrix in loaded]),
    )
    write_atomically(out, page.encode(errors="replace"))  # an answer may hold half a surrogate pair
    return out


def environment(*folders: Path) -> Environment:
    """Templates of this folder, its style sheet among them, and of `folders` before it; every value is escaped."""
    made = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["policy"] = policy
    return made


def policy(css: str) -> str:
    """The content security policy of a page with this style sheet: nothing runs, is loaded, sent or led elsewhere.

    The style sheet is known by its hash. Attributes `style`, which plots have, can't be: they colour and move, no more.
    `style-src` is for browsers that don't know its two parts.
    """
    sha = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; style-src-elem 'sha256-{sha}'; "
        "style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )


def _settings(loaded: Sequence[tuple[Path, Matrix]], images: Thumbnails) -> list[Setting]:
    matrices = [matrix for _, matrix in loaded]
    result = []
    for setting in dict.fromkeys(matrix.setting for matrix in matrices):
        members = [(run, matrix) for run, matrix in loaded if matrix.setting == setting]
        of_setting = [matrix for _, matrix in members]
        rows = compare(of_setting)
        stream, model, tasks, known = setting
        result.append(
            Setting(
                stream=stream,
                model=model,
                tasks=tasks[known:],
                known=tasks[:known],
                headline=headline(rows),
                rows=rows,
                columns=shown_columns(rows),
                notes=notes_of(rows),
                curve=Markup(average_curve(of_setting)),
                forgetting=Markup(forgetting_by_task(of_setting)),
                methods=_methods(members, matrices, images),
            )
        )
    return result


def _methods(members: Sequence[tuple[Path, Matrix]], everything: Sequence[Matrix], images: Thumbnails) -> list[Method]:
    """The methods of one setting in the order of its table."""
    folders = {id(matrix): run for run, matrix in members}
    methods = []
    for name, group in in_order([matrix for _, matrix in members]).items():
        runs = sorted(group, key=lambda matrix: matrix.seed)
        mean = mean_matrix(name, runs)
        methods.append(
            Method(
                name=name,
                runs=[run_view(folders[id(matrix)], matrix, everything, images) for matrix in runs],
                mean=Markup(mean_heat_map(mean) if mean else ""),
                mean_of=mean.seeds if mean else (),
                partial=mean.partial if mean else 0,
            )
        )
    return methods
