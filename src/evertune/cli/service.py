"""The commands for a model in service, thin like the others: `new`, `try`, `learn`, `check`, `ask`, `log`, ..."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import (
    DeterministicOption,
    FormatOption,
    ImagesOption,
    JsonOption,
    OptionOption,
    PromptOption,
    SetOption,
    SkipBadOption,
    TrackOption,
    hints_of,
    loading,
    make_console,
    print_json,
    without_reports,
)
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from evertune.apps.serving import Server

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The model's folder, or a run's.")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A file in any format of `evertune data check`.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the task [default: the file's].")]
ScoreOption = Annotated[str | None, typer.Option("--score", help="The scoring rule [default: exact].")]
HostOption = Annotated[
    str, typer.Option("--host", help="The address to listen on; other than this machine's need a token.")
]
PortOption = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="The port; 0: any free one.")]
TokenOption = Annotated[
    str | None,
    typer.Option(envvar="EVERTUNE_TOKEN", help="The token that clients must send; better set EVERTUNE_TOKEN."),
]
TokensOption = Annotated[int, typer.Option("--tokens", metavar="N", min=1, help="Most tokens of an answer.")]
TrainOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting of this training, e.g. train.min_steps=400; several times."
    ),
]


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A preset, a checkpoint folder or a hub id.")] = "smol",
    method: Annotated[
        str, typer.Option("--method", help="The continual-learning method; auto chooses one per task.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of every random choice.")] = 0,
    deterministic: DeterministicOption = False,
    settings: SetOption = None,
) -> None:
    """Create the folder of a model. It has learned nothing yet; `evertune learn` trains it task by task."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.printing import show_value
        from evertune.service import new as make

    console = make_console()
    with TerminalCallback(console) as callback:
        make(
            folder,
            model=model,
            method=method,
            seed=seed,
            settings=[*(settings or []), *(["deterministic=true"] if deterministic else [])],
            progress=callback.fetching,
        )
    show_value(console, "created", f"{folder}: model {model}, method {method}")
    show_value(console, "next", shlex.join(["evertune", "learn", str(folder), "DATA"]), style="dim")


def advise(
    folder: FolderArgument,
    data: DataArgument,
    name: NameOption = None,
    score: ScoreOption = None,
    format: FormatOption = None,
    images: ImagesOption = None,
    prompt: PromptOption = None,
    option: OptionOption = None,
    settings: TrainOption = None,
    skip_invalid: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate the cost of one more task, and what others may lose. Changes nothing."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.service_view import show_advice
        from evertune.service import TaskOptions, advice

    how: TaskOptions = {"name": name, "score": score, "skip_invalid": skip_invalid}
    how["hints"] = hints_of(format, images, prompt, option)
    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        how["progress"] = callback.fetching
        found = advice(folder, data, settings=settings or (), callback=callback, **how)
    if as_json:
        print_json(found)
    else:
        show_advice(console, found)


def learn(
    folder: FolderArgument,
    data: DataArgument,
    name: NameOption = None,
    method: Annotated[
        str | None, typer.Option("--method", help="auto, or the method that the model was made with.")
    ] = None,
    score: ScoreOption = None,
    accept_if: Annotated[
        str | None,
        typer.Option(
            "--accept-if", metavar="CONDITION", help="E.g. 'forgetting<2 and gain>5' [default: the task was learned]."
        ),
    ] = None,
    format: FormatOption = None,
    images: ImagesOption = None,
    prompt: PromptOption = None,
    option: OptionOption = None,
    settings: TrainOption = None,
    skip_invalid: SkipBadOption = False,
    deterministic: DeterministicOption = False,
    track: TrackOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model on one more task; report what it gained and lost. Exit code 1 when the stage was rejected."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.service_view import show_learned
        from evertune.service import TaskOptions, parsed
        from evertune.service import learn as teach
        from evertune.service.gate import ANYTHING

    condition = parsed(accept_if) if accept_if else None
    how: TaskOptions = {"name": name, "score": score, "skip_invalid": skip_invalid}
    how["hints"] = hints_of(format, images, prompt, option)
    console = make_console(quiet=as_json)
    confirms = condition is None and not as_json and _is_interactive(console)
    with TerminalCallback(console) as callback:
        how["progress"] = callback.fetching
        done = teach(
            folder,
            data,
            method=method,
            settings=settings or (),
            accept_if=ANYTHING if confirms else condition,
            deterministic=deterministic,
            track=[each.strip() for each in track.split(",")] if track else (),
            callback=callback,
            **how,
        )
    if as_json:
        print_json(done.as_dict())
    else:
        show_learned(console, done, folder=str(folder), data=data, asks=confirms)
    if done.broken or (confirms and not done.verdict.learned and not _kept_all_the_same(folder, done.stage, console)):
        raise typer.Exit(1)


def _kept_all_the_same(folder: Path, stage: int, console: Console) -> bool:
    """Ask about a stage whose task was not learned; without consent it is taken back."""
    from rich.text import Text

    from evertune.cli.printing import show_text
    from evertune.cli.service_view import show_accepted
    from evertune.service import rollback as go_back

    kept = False
    try:
        kept = typer.confirm("keep the stage all the same?")
    finally:  # Ctrl-C and SIGTERM are no consent
        if not kept:
            go_back(folder, stage - 1)
            show_text(console, Text.assemble(("rejected", "red"), "  the model is unchanged"))
    if kept:
        show_accepted(console, folder=str(folder), stage=stage)
    return kept


def _is_interactive(console: Console) -> bool:
    """Whether a question on this terminal will be answered."""
    return sys.stdin.isatty() and console.is_terminal


def check(
    folder: FolderArgument,
    every_stage: Annotated[
        bool, typer.Option("--every-stage", help="Evaluate after every stage too, for `evertune report` and `compare`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on every task it learned, against its best."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.service_view import show_check
        from evertune.service import check as check_model
        from evertune.service import complete

    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        verdict = check_model(folder, callback=callback, progress=callback.fetching)
        if every_stage:
            complete(folder, callback=callback, progress=callback.fetching)
    if as_json:
        print_json(verdict.as_dict())
    else:
        show_check(console, verdict)


def ask(
    folder: FolderArgument,
    words: Annotated[list[str], typer.Argument(metavar="IMAGE... QUESTION", help="The question comes last.")],
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="The task of the question, for a method that needs it.")
    ] = None,
    tokens: TokensOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Ask a model a question about images. Says which expert answered."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.printing import show_note, show_text
        from evertune.service.service import Service, ask_once

    if Path(words[-1]).is_file():
        raise UserError(
            f"the question about {words[-1]} is missing. Put it last: evertune ask {folder} {words[-1]} 'what is this?'"
        )
    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        service = Service.open(folder, progress=callback.fetching)
        reply = ask_once(service, [Path(word) for word in words[:-1]], words[-1], task=task, max_new_tokens=tokens)
    if as_json:
        print_json(reply)
        return
    beside = make_console(quiet=True)  # a pipe gets the answer alone
    for warning in reply.warnings:
        show_note(beside, warning)
    show_text(console, reply.answer)
    if reply.expert is not None:
        show_text(beside, f"expert {reply.expert}{reply.surely}", style="dim")


def log(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """List what a model learned and when, and what was rolled back."""
    with loading():
        from evertune.cli.service_view import show_history
        from evertune.service.lifecycle import history

    events = history(folder)
    if as_json:
        print_json(events)
    else:
        show_history(make_console(), events, folder=folder)


def rollback(
    folder: FolderArgument,
    to: Annotated[int, typer.Option("--to", metavar="STAGE", min=0, help="The stage to restore; 0 is the base model.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Restore an earlier stage. Later stages are deleted for good."""
    with loading():
        from evertune.cli.printing import show_text
        from evertune.service import rollback as go_back
        from evertune.service.lifecycle import would_forget

    console = make_console()
    gone = ", ".join(would_forget(folder, to))
    if not yes:
        typer.confirm(f"delete {gone} for good?", abort=True)
    go_back(folder, to)
    show_text(console, f"{folder} is at stage {to} again, without {gone}")


def serve(
    folder: FolderArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Questions answered in one batch.")] = 16,
    waiting: Annotated[
        int, typer.Option(metavar="N", min=1, help="Waiting questions before others are refused (429).")
    ] = 64,
    tokens: TokensOption = 64,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint. Chat with images, for any client of that protocol."""
    with loading():
        from evertune.apps.server.command import serve as serve_model
        from evertune.cli.console import TerminalCallback

    console = make_console()
    with TerminalCallback(console) as callback:
        server = serve_model(
            folder,
            host=host,
            port=port,
            token=token,
            batch=batch,
            waiting=waiting,
            tokens=tokens,
            progress=callback.fetching,
        )
    run_server(server, console, f"{folder.resolve().name} answers on", host=host, path="/v1")


def playground(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of models or runs of one model.")],
    host: HostOption = "127.0.0.1",
    port: PortOption = 7860,
    token: Annotated[
        str | None,
        typer.Option(envvar="EVERTUNE_TOKEN", help="The token that visitors must enter; better set EVERTUNE_TOKEN."),
    ] = None,
    tokens: TokensOption = 32,
) -> None:
    """Open a page in the browser to ask a model. Shows what it predicted before and after each task."""
    with loading():
        from evertune.apps.playground.command import playground as open_playground
        from evertune.cli.console import TerminalCallback

    console = make_console()
    with TerminalCallback(console) as callback:
        places = without_reports(folders)
        server = open_playground(places, host=host, port=port, token=token, tokens=tokens, progress=callback.fetching)
    run_server(server, console, "the playground is open on", host=host)


def run_server(server: Server, console: Console, what: str, *, host: str, path: str = "") -> None:
    """Say where it answers, and do so until it is stopped."""
    from evertune.apps.serving import address
    from evertune.cli.printing import show_text, show_value

    show_value(console, what, f"http://{address(host, server.port)}{path}")
    if console.is_terminal:
        show_text(console, "Ctrl-C stops it", style="dim")
    server.run()
