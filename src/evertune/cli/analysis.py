"""The commands of the analysis, thin like the others: `similarity` and `pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evertune.cli.options import (
    DataOption,
    JsonOption,
    LimitOption,
    ModelOption,
    SetOption,
    StreamArgument,
    loading,
    make_console,
    print_json,
)
from evertune.utils.errors import UserError

EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--text-encoder", metavar="NAME", help="A sentence encoder: folder or hub id [default: the model's own]."
    ),
]


def similarity(
    stream: StreamArgument,
    model: ModelOption = None,
    limit: LimitOption = None,
    text_encoder: EncoderOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Write similarity.json and a page there.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how similar the tasks of a stream are. Compares images, instructions and answers; known tasks too."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.pairs_view import show_similarity
        from evertune.experiments.pairs.page import write_similarity_page
        from evertune.experiments.pairs.task_similarity import similarity_of_stream
        from evertune.runs.api import configure
        from evertune.runs.run_data import data_of
        from evertune.utils.files import refuse_file, write_json

    if out:
        refuse_file(out)
    config = configure(stream, model=model, limit=limit, data=data)
    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        content = data_of(config, progress=callback.fetching)
        result = similarity_of_stream(content, config.model, text_encoder=text_encoder, progress=callback.fetching)
    if out:
        write_json(out / "similarity.json", result)
        write_similarity_page(result, out / "similarity.html")
    if as_json:
        print_json(result)
    else:
        show_similarity(console, result, page=out / "similarity.html" if out else None)


def pairs(
    stream: StreamArgument,
    model: ModelOption = None,
    method: Annotated[
        str | None, typer.Option("--method", help="How the second task is learned [default: sequential].")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N,N", help="Every pair once per seed [default: 0].")
    ] = None,
    limit: LimitOption = None,
    dynamics: Annotated[
        int, typer.Option("--dynamics", metavar="N", min=0, help="How often the first task is evaluated meanwhile.")
    ] = 0,
    text_encoder: EncoderOption = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", min=1, help="Parallel processes [default: the cores; GPU: 1]."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="DIR", help="The folder of the pairs [default: runs/pairs-STREAM-MODEL]."),
    ] = None,
    data: DataOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train every ordered pair of tasks: which one hurts which. Relates it to their similarity; the same command again
    resumes."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.grid_view import GridView
        from evertune.cli.pairs_view import show_pairs
        from evertune.experiments.pairs.run import run_pairs
        from evertune.experiments.pairs.study import study_of
        from evertune.runs.api import configure

    given: dict[str, Any] = {"model": model, "method": method, "limit": limit, "out": out, "data": data}
    config = configure(stream, settings=settings or [], **given)
    numbers = seed_list(seeds) if seeds is not None else [config.seed]
    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        study = study_of(config, seeds=numbers, points=dynamics, text_encoder=text_encoder, progress=callback.fetching)
    with GridView(console) as view:
        result = run_pairs(study, jobs=jobs, callback=view)
    if as_json:
        print_json(result)
    else:
        show_pairs(console, result, page=study.folder / "index.html")


def seed_list(text: str) -> list[int]:
    """`0,1,2` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as problem:
        raise UserError(f"--seeds {text}: write whole numbers separated by commas, for example 0,1,2") from problem
