"""The two files of an instruction-tuning benchmark: conversations to train on, questions with an answer to test on.

CoIN, UCIT, MLLM-CL, CVIT and CTBench publish their tasks as LLaVA's training list and as a test list of their own;
they differ in folders and in what a test row has beside its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from evertune.errors import DataError
from evertune.tasks.entries import Entry, entries, entries_by_line, rows_from
from evertune.tasks.formats import Row

IMAGE_MARK = "<image>"
Answers = Callable[[Entry], tuple[str, ...]]
Extras = Callable[[Entry], Mapping[str, str]]


def conversations(path: Path, *, folder: str = "") -> Iterator[Row | DataError]:
    """Rows of a LLaVA training list `[{image, conversations: [{from, value}]}]`, one per answered turn.

    The instruction of a later turn holds the turns before it, a line each. `id` is not used: published lists repeat
    it or leave it out, so a row is called by its number (`7`, or `7-2` for the second turn).

    Args:
        path: the list.
        folder: what the names of pictures count from, below the root of the pictures.

    Raises:
        DataError: the file can't be used; a row that can't is given as an error in its place.
    """
    return rows_from(entries(path), lambda entry: conversation(entry, name=entry.key, folder=folder))


def conversation(entry: Entry, *, name: str, folder: str = "", unique: bool = True) -> Iterator[Row]:
    """The rows of one conversation; the first is called `name`, and with `unique` no other may be."""
    images = images_of(entry, folder=folder)
    before: list[str] = []
    for turn, (asked, answer) in enumerate(_turns(entry), start=1):
        yield Row(
            id=f"{name}-{turn}" if turn > 1 else name,
            images=images,
            fields={"instruction": "\n".join([*before, asked])},
            answers=(answer,),
            origin=entry.origin,
            unique=unique,
        )
        before += [asked, answer]


def questions(
    path: Path, *, folder: str = "", answers: Answers | None = None, extras: Extras | None = None
) -> Iterator[Row | DataError]:
    """Rows of a test list `[{question_id, image, text, answer}]`; JSONL when the name ends so.

    Args:
        path: the list.
        folder: what the names of pictures count from, below the root of the pictures.
        answers: finds the answers of a row; default: `answer`, a text, a number or a list of texts.
        extras: finds what a score needs beside the answers.

    Raises:
        DataError: the file can't be used; a row that can't is given as an error in its place.
    """
    found = entries_by_line(path) if path.suffix == ".jsonl" else entries(path)
    return rows_from(found, lambda entry: [question(entry, folder=folder, answers=answers, extras=extras)])


def question(entry: Entry, *, folder: str = "", answers: Answers | None = None, extras: Extras | None = None) -> Row:
    """The row of one test question; the arguments are those of `questions`."""
    return Row(
        id=entry.name("question_id"),
        images=images_of(entry, folder=folder),
        fields={"instruction": instruction(entry, "text")},
        answers=(answers or stated)(entry),
        origin=entry.origin,
        extras=extras(entry) if extras else {},
    )


def images_of(entry: Entry, *, folder: str = "") -> tuple[str, ...]:
    """The pictures of a row: none, one or a list of them."""
    if not entry.has("image"):
        return ()
    names = entry.texts("image") if isinstance(entry.value["image"], list) else (entry.text("image"),)
    plain = [name.removeprefix("./") for name in names]
    return tuple(f"{folder}/{name}" if folder else name for name in plain)


def instruction(entry: Entry, key: str) -> str:
    """A text without the marks that stand for pictures: where a picture goes is decided by the model's family."""
    text = entry.text(key).replace(IMAGE_MARK, "").strip()
    if not text:
        raise entry.wrong(key, f"more than {IMAGE_MARK}")
    return text


def stated(entry: Entry, key: str = "answer") -> tuple[str, ...]:
    """The answers under `key`: one text or number, or a list of texts whose first is the one taught."""
    value = entry.value.get(key)
    if isinstance(value, list):
        return entry.texts(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (str(value),)
    return (entry.text(key),)


def stated_extras(*keys: str) -> Extras:
    """Takes over the texts and numbers under `keys` where a row has them."""

    def extras(entry: Entry) -> Mapping[str, str]:
        return {key: entry.name(key) for key in keys if entry.has(key)}

    return extras


def matched(gold: Mapping[str, tuple[str, ...]], *, where: Path) -> Answers:
    """Answers from another file, by the row's `question_id`.

    Raises:
        DataError: the file has no such id: it is of another split or another version.
    """

    def answers(entry: Entry) -> tuple[str, ...]:
        name = entry.name("question_id")
        if name not in gold:
            raise DataError(f"{entry.origin}: the question_id '{name}' is not in {where}; is it of another split?")
        return gold[name]

    return answers


def _turns(entry: Entry) -> Sequence[tuple[str, str]]:
    """Questions and answers in turn. What the assistant says first is dropped, as LLaVA does; so is a last question."""
    said = list(entry.entries("conversations"))
    if said[0].text("from") != "human":
        said = said[1:]
    pairs = list(zip(said[::2], said[1::2], strict=False))
    for human, assistant in pairs:
        _refuse_another(human, "human")
        _refuse_another(assistant, "gpt")
    if not pairs:
        raise DataError(f"{entry.origin}: 'conversations' has no answered turn")
    return [(_asked(human), assistant.text("value")) for human, assistant in pairs]


def _asked(turn: Entry) -> str:
    return instruction(turn, "value")


def _refuse_another(turn: Entry, speaker: str) -> None:
    if turn.text("from") != speaker:
        raise turn.wrong("from", f"'{speaker}': the two take turns, 'human' first")
