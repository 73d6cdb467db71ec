"""The commands about data and finished answers, thin like the others: `data check|convert|sample`, `rescore`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.groups import Commands, example_of
from evertune.cli.help import Command
from evertune.cli.options import (
    DataOption,
    FormatOption,
    ImagesOption,
    JsonOption,
    OptionOption,
    PromptOption,
    hints_of,
    loading,
    make_console,
    print_json,
)
from evertune.cli.plugins import with_plugins
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from evertune.models.protocol import LMM
    from evertune.tools.data.convert import ConversionResult

data_app = typer.Typer(
    name="data", cls=Commands, no_args_is_help=True, rich_markup_mode=None, epilog=example_of("data")
)

SourceArgument = Annotated[Path, typer.Argument(metavar="SOURCE", help="A file, or the folder of a data set.")]
TargetArgument = Annotated[Path, typer.Argument(metavar="TARGET", help=".jsonl, .json, .csv, .tsv or .parquet.")]
ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="jsonl|llava|table", help="The format to write [default: by TARGET's extension]."),
]
SplitOption = Annotated[str, typer.Option("--split", help="Which part of a data set: train or test.")]
SeparatorOption = Annotated[
    str, typer.Option("--separator", metavar="TEXT", help="Stands between several answers in a cell of CSV or TSV.")
]
SkipOption = Annotated[bool, typer.Option("--skip-invalid", help="Leave out rows that can't be used or written.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite TARGET.")]


@data_app.callback()
def data() -> None:
    """Check, convert and sample data before a model sees them."""


@data_app.command("check", cls=Command, epilog=example_of("data check"))
@with_plugins
def check_data(
    name: Annotated[str, typer.Argument(metavar="STREAM|FILE", help="A stream's name or YAML, or a file of rows.")],
    data: DataOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Check numbers of images and tokens for this model too.")
    ] = None,
    decode: Annotated[bool, typer.Option(help="Open every image; the cache remembers the result.")] = True,
    preview: Annotated[
        Path | None, typer.Option("--preview", metavar="DIR", help="Write DIR/index.html with some samples.")
    ] = None,
    format: FormatOption = None,
    option: OptionOption = None,
    images: ImagesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong or odd: rows, images, copies, overlap. Exit code 1 when there are errors."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.data_view import show_checked
        from evertune.cli.printing import show_value
        from evertune.tools.data import check
        from evertune.tools.data.preview import write_preview

    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        lmm = _loaded(model)
        hints = hints_of(format, images, None, option)
        checked = check(name, data=data, lmm=lmm, decode=decode, hints=hints, progress=callback.fetching)
    page = write_preview(checked, lmm, preview / "index.html") if preview else None
    if as_json:
        print_json({**checked.as_dict(), **({"preview": str(page)} if page else {})})
    else:
        show_checked(console, checked)
        if page:
            console.print()
            show_value(console, "preview", page.resolve())
    if len(checked.errors):
        raise typer.Exit(1)


@data_app.command("convert", cls=Command, epilog=example_of("data convert"))
@with_plugins
def convert_data(
    source: SourceArgument,
    target: TargetArgument,
    to: ToOption = None,
    format: FormatOption = None,
    option: OptionOption = None,
    images: ImagesOption = None,
    prompt: PromptOption = None,
    split: SplitOption = "train",
    separator: SeparatorOption = "|",
    skip_invalid: SkipOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write rows of any format as JSONL, LLaVA list or table. Writes the whole file or none."""
    from evertune.tools.data import convert

    hints = hints_of(format, images, prompt, option)
    written = convert(
        source, target, to=to, hints=hints, split=split, separator=separator, skip_invalid=skip_invalid, force=force
    )
    _show_written(written, as_json=as_json)


@data_app.command("sample", cls=Command, epilog=example_of("data sample"))
@with_plugins
def sample_data(
    source: SourceArgument,
    target: TargetArgument,
    count: Annotated[
        int, typer.Option("--count", "-n", metavar="N", min=1, help="How many rows to draw, without repetition.")
    ],
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Seed of the draw; TARGET.sample.json records it.")
    ] = 0,
    to: ToOption = None,
    format: FormatOption = None,
    option: OptionOption = None,
    images: ImagesOption = None,
    prompt: PromptOption = None,
    split: SplitOption = "train",
    separator: SeparatorOption = "|",
    skip_invalid: SkipOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw rows at random and write them as `convert` does. The same seed draws the same rows."""
    from evertune.tools.data import sample

    hints = hints_of(format, images, prompt, option)
    how = {"split": split, "separator": separator}
    written = sample(
        source, target, count=count, seed=seed, to=to, hints=hints, skip_invalid=skip_invalid, force=force, **how
    )
    _show_written(written, as_json=as_json)


def _loaded(model: str | None) -> LMM | None:
    if model is None:
        return None
    from evertune.models import load_lmm
    from evertune.utils.device import use_threads

    use_threads()
    return load_lmm(model, dtype="float32")


def _show_written(written: ConversionResult, *, as_json: bool) -> None:
    if as_json:
        print_json(written.as_dict())
        return
    from evertune.cli.data_view import show_written

    show_written(make_console(), written)


class MissingChoice(StrEnum):
    """What to do about questions without an answer."""

    FAIL = "fail"
    WRONG = "wrong"


def rescore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="merge.jsonl, ans_gt.json, or a list of answers.")],
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="Required: whose files these are, e.g. ucit; ? lists all."),
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", metavar="FILE", help="The gold answers; ans_gt.json holds its own.")
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", metavar="A[,B]", help="Our scoring rules [default: the format's].")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="The split of ScienceQA's problems.json.")] = "test",
    missing: Annotated[
        MissingChoice, typer.Option("--missing", metavar="fail|wrong", help="What a question without an answer does.")
    ] = MissingChoice.FAIL,
    prediction: Annotated[
        str | None,
        typer.Option(
            "--prediction", metavar="KEY", help="The key of the prediction in a row [default: by the row's keys]."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score finished predictions by our rules and public evaluators. Says why they differ."""
    from evertune.cli.rescore_view import show_rescored
    from evertune.tools.rescore import rescore as rescore_file
    from evertune.tools.rescore.formats import FORMATS

    if format is None:
        raise UserError(f"whose files are they? Say --format and one of {', '.join(FORMATS)}")
    result = rescore_file(
        file,
        format=format,
        gold=gold,
        scores=score.split(",") if score else (),
        split=split,
        missing="wrong" if missing is MissingChoice.WRONG else "fail",
        prediction=prediction,
    )
    if as_json:
        print_json(result)
    else:
        show_rescored(make_console(), result)
