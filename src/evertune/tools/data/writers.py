"""Rows into files: own JSONL, LLaVA lists, tables. Each is read back by the format of the same name.

What a format can't hold is counted (`RowFacts.lost`); a row that would be read back as another is a `DataError`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from evertune.data.formats.llava import NO_EXTRAS
from evertune.data.images import short
from evertune.data.issues import Issues
from evertune.data.placeholders import IMAGE_MARK, VIDEO_MARK
from evertune.utils.errors import DataError, UserError

Row = Mapping[str, Any]
"""`{id, images, instruction, answers, origin, extras}`, as an index holds it."""
ENDINGS = {"jsonl": (".jsonl",), "llava": (".json", ".jsonl"), "table": (".csv", ".tsv", ".parquet")}
COLUMNS = ("id", "image", "instruction", "answer")
LONGEST_CELL = 131_072
"""Characters: the limit of Python's reader of CSV."""
AT_ONCE = 1024


@dataclass
class RowFacts:
    """What the rows have, counted before they are written.

    Attributes:
        extras: names of all extras, in the order of their first use.
        own_ids: whether each row has an id of its own; else rows are called by their numbers.
    """

    several_images: int = 0
    several_answers: int = 0
    with_extras: int = 0
    extras: list[str] = field(default_factory=list)
    own_ids: bool = True


@dataclass(frozen=True)
class Writer:
    """One way of writing.

    Attributes:
        write: (file, rows, facts) -> None.
        refuse: (row, facts) -> what of the row would not be read back as it is, or nothing.
        lost: facts -> how many rows lose what.
        options: facts -> the options by which the format reads the file.
    """

    write: Callable[[Path, Iterable[Row], RowFacts], None]
    refuse: Callable[[Row, RowFacts], str]
    lost: Callable[[RowFacts], dict[str, int]] = lambda _: {}
    options: Callable[[RowFacts], dict[str, Any]] = lambda _: {}


def kind_of(target: Path, to: str | None) -> str:
    """The format that `target` is to be written in.

    Raises:
        UserError: there is no such format to write, or its files end otherwise.
    """
    endings = [kind for kind, known in ENDINGS.items() if target.suffix.lower() in known]
    if to is None and endings:
        return endings[0]
    if to not in ENDINGS:
        raise UserError(f"{target}: say with --to how it is to be written: {', '.join(ENDINGS)}")
    if to not in endings:
        raise UserError(f"{target}: a file of '{to}' ends in {' or '.join(ENDINGS[to])}")
    return to


def writer_of(kind: str, target: Path, *, split: str, separator: str, about: Mapping[str, str]) -> Writer:
    """How rows are written.

    Args:
        kind: of `ENDINGS`.
        target: its ending decides what a table is.
        split: LLaVA has conversations to train on and questions to test on.
        separator: between several answers or images in a cell of text.
        about: written into the file where its format has a place for it (Parquet).
    """
    if kind == "jsonl":
        return Writer(_lines(own_row), _refuse_jsonl)
    if kind == "llava":
        make = conversation_row if split == "train" else question_row
        write = _lines(make) if target.suffix.lower() == ".jsonl" else _list(make)
        if split == "train":
            return Writer(write, _refuse_conversation, _lost_in_conversations)
        return Writer(write, _refuse_question)
    if target.suffix.lower() == ".parquet":
        return Writer(_parquet(about), _refuse_table, options=_table_options)
    if not separator.strip():
        raise UserError("--separator must not be empty or white space")
    return Writer(
        _text_table(target, separator),
        lambda row, facts: _refuse_table(row, facts) or _refuse_cells(row, facts, separator),
        options=lambda facts: {**_table_options(facts), **({"separator": separator} if _joins(facts) else {})},
    )


def own_row(row: Row, facts: RowFacts) -> dict[str, Any]:
    """The row as own data has it."""
    return {
        **({"id": row["id"]} if facts.own_ids else {}),
        **_named("image", "images", row["images"]),
        "instruction": row["instruction"],
        **_named("answer", "answers", row["answers"]),
        **({"extras": row["extras"]} if row.get("extras") else {}),
    }


def conversation_row(row: Row, _: RowFacts) -> dict[str, Any]:
    """The row as LLaVA trains on it; of several answers the one that training uses."""
    prompt = "".join(f"{IMAGE_MARK}\n" for _ in row["images"]) + row["instruction"]
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": row["answers"][0]}]
    return {"id": row["id"], **_named("image", "image", row["images"]), "conversations": turns}


def question_row(row: Row, facts: RowFacts) -> dict[str, Any]:
    """The row as LLaVA's relatives test on it."""
    return {
        **({"question_id": row["id"]} if facts.own_ids else {}),
        **_named("image", "image", row["images"]),
        "text": row["instruction"],
        **_named("answer", "answer", row["answers"]),
        **row.get("extras", {}),
    }


def _named(one: str, several: str, values: Sequence[str]) -> dict[str, Any]:
    """`{one: value}`, or `{several: values}`; nothing for nothing."""
    return {one: values[0]} if len(values) == 1 else {several: list(values)} if values else {}


def _lines(make: Callable[[Row, RowFacts], dict[str, Any]]) -> Callable[[Path, Iterable[Row], RowFacts], None]:
    def write(path: Path, rows: Iterable[Row], facts: RowFacts) -> None:
        with path.open("x", encoding="utf-8") as stream:
            stream.writelines(json.dumps(make(row, facts), ensure_ascii=False) + "\n" for row in rows)

    return write


def _list(make: Callable[[Row, RowFacts], dict[str, Any]]) -> Callable[[Path, Iterable[Row], RowFacts], None]:
    def write(path: Path, rows: Iterable[Row], facts: RowFacts) -> None:
        with path.open("x", encoding="utf-8") as stream:
            for number, row in enumerate(rows):
                stream.write((",\n" if number else "[\n") + json.dumps(make(row, facts), ensure_ascii=False))
            stream.write("\n]\n")

    return write


def _text_table(target: Path, separator: str) -> Callable[[Path, Iterable[Row], RowFacts], None]:
    def write(path: Path, rows: Iterable[Row], facts: RowFacts) -> None:
        with path.open("x", encoding="utf-8", newline="") as stream:
            # Lines end as RFC 4180 has it; with "\n" a text with "\r" in it would stand unquoted, and be read as two.
            table = csv.writer(
                stream, delimiter="\t" if target.suffix.lower() == ".tsv" else ",", lineterminator="\r\n"
            )
            table.writerow(_header(facts))
            for row in rows:
                record = _record(row, facts)
                table.writerow([separator.join(v) if isinstance(v, list) else v for v in record.values()])

    return write


def _parquet(about: Mapping[str, str]) -> Callable[[Path, Iterable[Row], RowFacts], None]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError as problem:
        raise UserError("Parquet needs pyarrow: pip install 'evertune[data]'") from problem

    def write(path: Path, rows: Iterable[Row], facts: RowFacts) -> None:
        several = {"image": facts.several_images, "answer": facts.several_answers}
        kinds = {name: pa.list_(pa.string()) if several.get(name) else pa.string() for name in _header(facts)}
        schema = pa.schema(kinds.items(), metadata=dict(about))
        with ParquetWriter(path, schema) as table:
            left = iter(rows)
            while some := list(islice(left, AT_ONCE)):
                records = (_record(row, facts) for row in some)
                fitted = [{k: v if several.get(k) else _only(v) for k, v in record.items()} for record in records]
                table.write_table(pa.Table.from_pylist(fitted, schema=schema))

    return write


def _only(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _header(facts: RowFacts) -> list[str]:
    columns = COLUMNS if facts.own_ids else COLUMNS[1:]
    return [*columns, *_extra_columns(facts)]


def _extra_columns(facts: RowFacts) -> list[str]:
    return [name for name in facts.extras if name not in (*COLUMNS, "")]  # rows with these are refused


def _record(row: Row, facts: RowFacts) -> dict[str, Any]:
    values = {"id": row["id"], "image": row["images"], "instruction": row["instruction"], "answer": row["answers"]}
    extras = row.get("extras", {})
    return {name: values[name] if name in values else extras.get(name, "") for name in _header(facts)}


def _joins(facts: RowFacts) -> bool:
    return bool(facts.several_images or facts.several_answers)


def _table_options(facts: RowFacts) -> dict[str, Any]:
    extras = _extra_columns(facts)
    return {**({"id": "id"} if facts.own_ids else {}), **({"extras": extras} if extras else {})}


def _lost_in_conversations(facts: RowFacts) -> dict[str, int]:
    counts = {"answers but the first": facts.several_answers, "extras": facts.with_extras}
    return {what: count for what, count in counts.items() if count}


def _refuse_jsonl(row: Row, _: RowFacts) -> str:
    return _changed([row["instruction"], *_texts(row), *row["images"]])


def _refuse_conversation(row: Row, _: RowFacts) -> str:
    texts = [row["id"], row["instruction"], row["answers"][0], *row["images"]]
    return _changed(texts) or _marked([row["instruction"], row["answers"][0]])


def _refuse_question(row: Row, facts: RowFacts) -> str:
    names = [row["id"]] if facts.own_ids else []
    if stray := sorted((NO_EXTRAS | {"answer_bbox"}) & row.get("extras", {}).keys()):
        return f"an extra is called {short(stray[0])}, which means something else in this format"
    return _changed([*names, row["instruction"], *row["answers"], *row["images"]]) or _marked([row["instruction"]])


def _refuse_table(row: Row, facts: RowFacts) -> str:
    extras = row.get("extras", {})
    if stray := sorted({*COLUMNS, ""} & extras.keys()):
        return f"an extra is called {short(stray[0])}, which is another column here"
    names = [row["id"]] if facts.own_ids else []
    given = [text for text in extras.values() if text]
    return _changed([*names, row["instruction"], *_texts(row), *row["images"], *given])


def _refuse_cells(row: Row, facts: RowFacts, separator: str) -> str:
    texts = [*row["answers"], *row["images"]]
    if "" in row["answers"]:
        return "an annotator who wrote nothing can't be kept in a cell of text; write JSONL or Parquet"
    if _joins(facts) and any(separator in text for text in texts):
        return f"an answer or an image's name holds the separator {short(separator)}; choose another with --separator"
    cells = [separator.join(row["answers"]), separator.join(row["images"]), *row.get("extras", {}).values()]
    if max(map(len, cells)) > LONGEST_CELL:
        return f"a cell would have more than {LONGEST_CELL:,} characters"
    return ""


def _texts(row: Row) -> list[str]:
    """The answers without those of annotators who wrote nothing, which the format can hold."""
    first, *others = row["answers"]
    return [first, *filter(None, others)]


def _changed(texts: Sequence[str]) -> str:
    """The message about texts that no format reads back unchanged."""
    stray = next((text for text in texts if not text or text != text.strip()), None)
    return "" if stray is None else f"{short(stray)} is empty, or has white space at its ends, which is not kept"


def _marked(texts: Sequence[str]) -> str:
    found = [mark for mark in (IMAGE_MARK, VIDEO_MARK) if any(mark in text for text in texts)]
    return f"a text holds {found[0]}, which stands for an image here" if found else ""


def writable(rows: Iterable[Row], writer: Writer, facts: RowFacts, problems: Issues) -> Iterator[Row]:
    """The rows that can be written; the others become problems."""
    for row in rows:
        if complaint := writer.refuse(row, facts):
            problems.add([DataError(f"{row['origin']}: {complaint}", kind="can't be written")], task="")
        else:
            yield row
