"""The commands about data and finished answers, thin like the others: `rescore`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evertune.arguments import JsonOption, make_console, print_json


class MissingChoice(StrEnum):
    """What to do about questions without an answer."""

    FAIL = "fail"
    WRONG = "wrong"


def rescore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="merge.jsonl, ans_gt.json, or a list of answers.")],
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="Whose files, e.g. ucit; ? lists all.")],
    gold: Annotated[Path | None, typer.Option("--gold", metavar="FILE", help="Not needed for ans_gt.json.")] = None,
    score: Annotated[str | None, typer.Option("--score", metavar="A[,B]", help="Our scores [the format's].")] = None,
    split: Annotated[str, typer.Option("--split", help="Of ScienceQA's problems.")] = "test",
    missing: Annotated[
        MissingChoice, typer.Option("--missing", help="wrong: questions without an answer count as wrong.")
    ] = MissingChoice.FAIL,
    as_json: JsonOption = False,
) -> None:
    """Score anybody's finished answers: our scores, the public evaluators' beside them, and why they differ."""
    from evertune.rescore import rescore as rescore_file
    from evertune.rescore.view import show_rescored

    result = rescore_file(
        file,
        format=format,
        gold=gold,
        scores=score.split(",") if score else (),
        split=split,
        missing="wrong" if missing is MissingChoice.WRONG else "fail",
    )
    if as_json:
        print_json(result.as_dict())
    else:
        show_rescored(make_console(), result)
