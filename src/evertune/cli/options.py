"""The arguments that several commands share, and how they print. Imports nothing heavy."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.utils.safe_names import CONTROL

if TYPE_CHECKING:
    from rich.console import Console

    from evertune.tools.data.source import Hints

StreamArgument = Annotated[
    str, typer.Argument(metavar="STREAM", help="A stream's name, its YAML or a run's, or a file of rows.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="A preset, a checkpoint folder or a hub id [default: smol].")
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="FOLDER", help="Begin with this PEFT adapter (model.adapter_mode=continue)."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Seed of every random choice [default: 0].")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="At most N training and N test samples per task.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="E.g. train.epochs=2; `evertune show METHOD` lists a method's settings."
    ),
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="FOLDER", help="The folder that holds published data sets.")
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-invalid", help="Leave out rows that can't be used, and list them.")
]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="Bit-identical results on the same kind of CPU; slower.")
]
ProbeOption = Annotated[
    list[str] | None,
    typer.Option("--probe", metavar="STREAM", help="Ask this before and after each stage too; never trained."),
]
TrackOption = Annotated[
    str | None, typer.Option("--track", metavar="A[,B]", help="Send metrics to trackio, wandb or mlflow too.")
]
FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="The format of the file [default: by its extension].")
]
OptionOption = Annotated[
    list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the format, e.g. answer=label.")
]
ImagesOption = Annotated[
    str | None, typer.Option("--images", metavar="FOLDER", help="The folder that image names are relative to.")
]
PromptOption = Annotated[
    str | None, typer.Option("--prompt", help="The instruction, with fields in braces [default: the format's].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def hints_of(format: str | None, images: str | None, prompt: str | None, option: Sequence[str] | None) -> Hints:
    """How a single file is read, from the options above."""
    from evertune.tools.data.source import Hints, options_of

    return Hints(format, images, prompt, options_of(option or []))


def without_reports(places: list[Path]) -> list[Path]:
    """The places that may hold runs: `runs/first/*` of a shell also names the report beside the runs.

    A place that is named alone stays, so that the error is about it.
    """
    kept = [place for place in places if not (place.name == "report" and (place / "index.html").is_file())]
    return kept or places


@contextmanager
def loading(what: str = "loading libraries") -> Iterator[None]:
    """Say on a terminal, at once, why nothing is seen yet, while the libraries are imported; erased afterwards."""
    says = sys.stderr.isatty() and "torch" not in sys.modules
    if says:
        print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if says:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def make_console(*, quiet: bool = False) -> Console:
    """The terminal; when `quiet` its words go where they don't mix with JSON."""
    from evertune.utils.terminal import Terminal

    return Terminal(stderr=quiet)


def print_json(value: Any) -> None:
    """Print a value for machines; a dataclass by its fields. Control characters are escaped: a terminal may read it."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    print(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
