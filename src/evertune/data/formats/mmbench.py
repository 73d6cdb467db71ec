"""MMBench: questions with options in a table with the images inside, evaluated in every order of the options.

{name: mmbench, format: mmbench, root: MMBench, options: {file: MMBench_DEV_EN.tsv}, score: circular}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from evertune.data.embedded import folder
from evertune.data.formats import Row, table
from evertune.utils.errors import DataError

ABOUT = {
    "title": "MMBench: questions with two to four options about images, evaluated in every order of the options",
    "source": "https://github.com/open-compass/MMBench: MMBench_DEV_EN.tsv, MMBench_TEST_EN.tsv (without answers) ...",
    "files": "a .tsv with index, question, A to D, answer, image (base64), and maybe hint, category, l2-category",
    "licence": "Apache-2.0; the images are those of other data sets",
    "citation": "Liu et al. 2023, MMBench: Is Your Multi-modal Model an All-around Player?, arXiv 2307.06281",
}
PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCDEF"
COPY = 1_000_000
"""VLMEvalKit's tables hold the orders of a question as rows whose indexes differ by a multiple of this."""


def rows(
    place: Path, *, split: str, file: str = "MMBench_DEV_EN.tsv", circular: bool = True
) -> Iterator[Row | DataError]:
    """A row per question and order of its options: ids are INDEX, INDEX-1, ...; the second answer is the question's.

    Args:
        place: the folder, or the table.
        split: test only: it is evaluated, never trained.
        file: the table in the folder.
        circular: ask every order; a table that has the orders as rows of its own is evaluated as it is.
    """
    (path,) = files(place, split=split, file=file)
    copies = circular and _has_copies(path)
    for row in table.rows(path, split=split, instruction="question", id="index"):
        if isinstance(row, DataError):
            yield row
            continue
        try:
            yield from _orders(row, circular=circular and not copies)
        except DataError as problem:
            yield problem


def files(place: Path, *, split: str, file: str = "MMBench_DEV_EN.tsv", **_: object) -> list[Path]:
    """The table.

    Raises:
        DataError: it is not there, or training data are requested.
    """
    if split != "test":
        raise DataError(f"{place}: MMBench has no training data: list it under 'probes' of the stream")
    path = place if place.is_file() else place / file
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected: {ABOUT['files']}", kind="missing file")
    return [path]


def images(place: Path, *, split: str, **_: object) -> Path:
    """Where the images of the table are written."""
    del place, split
    return folder()


def _has_copies(path: Path) -> bool:
    """Whether a row is another order of the options of another one."""
    found = table.rows(path, split="test", image=None, instruction="question", id="index")
    return any(isinstance(row, Row) and row.id.isdecimal() and int(row.id) >= COPY for row in found)


def _orders(row: Row, *, circular: bool) -> Iterator[Row]:
    """The row, and with `circular` every rotation of its options."""
    options = [text for letter in LETTERS if (text := _cell(row.fields, letter))]
    right = row.answers[0].strip().upper()
    if len(options) < 2 or right not in LETTERS[: len(options)] or not right:
        complaint = f"{row.origin}: the answer {row.answers[0]!r:.20} is none of the {len(options)} options"
        raise DataError(complaint, kind="unusable answer")
    question = "\n".join(filter(None, (_cell(row.fields, "hint"), row.fields["question"])))
    at = LETTERS.index(right)
    group = str(int(row.id) % COPY) if row.id.isdecimal() else row.id
    extras = {name: text for name in ("category", "l2-category") if (text := _cell(row.fields, name))}
    for shift in range(len(options) if circular else 1):
        turned = options[shift:] + options[:shift]
        listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, turned, strict=False))
        yield replace(
            row,
            id=f"{row.id}-{shift}" if shift else row.id,
            fields={"question": question, "options": listed},
            answers=(LETTERS[(at - shift) % len(options)], group),
            extras=extras,
        )


def _cell(fields: Mapping[str, str], name: str) -> str:
    """A cell of the table; empty where there is no such column, and where pandas wrote that nothing was there."""
    text = fields.get(name, "")
    return "" if text.lower() == "nan" else text
