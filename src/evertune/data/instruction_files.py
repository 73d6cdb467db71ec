"""The two files of an instruction-tuning benchmark: training conversations, and test questions with answers.

CoIN, UCIT, MLLM-CL, CVIT and CTBench publish their tasks as LLaVA's training list and as a test list of their own;
they differ in folders and in the extra fields of a test row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.placeholders import IMAGE_MARK, refuse_elsewhere, refuse_miscounted, unmarked
from evertune.data.records import Record, entries, entries_by_line, number_text, rows_from
from evertune.data.turns import Conversation, conversation_of
from evertune.utils.errors import DataError

Answers = Callable[[Record], tuple[str, ...]]
Extras = Callable[[Record], Mapping[str, str]]
LONGEST_CONVERSATION = 64 << 20
"""Most characters of all instructions of one conversation, since each turn repeats those before it."""


def conversations(path: Path, *, folder: str = "", together: bool = False) -> Iterator[Row | DataError]:
    """Rows of a LLaVA training list `[{image, conversations: [{from, value}]}]`, one per answered turn.

    The instruction of a later turn starts with the turns before it, a line each. `id` is not used: published lists
    repeat or omit it, so a row is named by its number (`7`, or `7-2` for the second turn).

    Args:
        path: the list.
        folder: what the names of images count from, below the root of the images.
        together: one `<image>` stands for all images of a row, as in the authors' code.

    Raises:
        DataError: the file can't be used; a row that can't is given as an error in its place.
    """
    made = partial(conversation, folder=folder, together=together)
    return rows_from(entries(path), lambda entry: made(entry, name=entry.key))


def conversation(
    entry: Record, *, name: str, folder: str = "", unique: bool = True, together: bool = False
) -> Iterator[Row]:
    """The rows of one conversation. The first is named `name`; with `unique` there may be no other."""
    turns = conversation_of(entry)
    images = _images_in(turns, entry, folder, together=together)
    marked = sum(text.count(IMAGE_MARK) for text in (turns.system, *turns.questions))
    before = [text] if (text := unmarked(turns.system)) else []
    shown, length = turns.system.count(IMAGE_MARK), 0
    for turn, (question, answer) in enumerate(zip(turns.questions, turns.answers, strict=False), start=1):
        shown += question.count(IMAGE_MARK)
        instruction = unmarked(question)
        if not instruction:
            raise DataError(f"{entry.origin}: turn {turn} must be more than {IMAGE_MARK}")
        whole = "\n".join([*before, instruction])
        length += len(whole) + len(images)
        if length > LONGEST_CONVERSATION:
            complaint = f"{entry.origin}: {len(turns.answers):,} turns, each repeating those before it, take"
            raise DataError(f"{complaint} more than {LONGEST_CONVERSATION:,} characters", kind="huge text")
        yield Row(
            id=f"{name}-{turn}" if turn > 1 else name,
            images=images[:shown] if marked == len(images) else images,  # images of later turns come later
            fields={"instruction": whole},
            answers=(answer,),
            origin=entry.origin,
            unique=unique,
        )
        before += [instruction, answer]


def _images_in(turns: Conversation, entry: Record, folder: str, *, together: bool) -> tuple[str, ...]:
    """The images of a conversation: those of its turns, or those of its row."""
    if turns.images and entry.has("image"):
        raise DataError(f"{entry.origin}: images are named both in the turns and under 'image'; keep one of the two")
    images = _below(folder, turns.images) if turns.images else images_of(entry, folder=folder)
    text = "\n".join((turns.system, *turns.questions))
    if not (together and images and text.count(IMAGE_MARK) == 1):
        refuse_miscounted(text, len(images), origin=entry.origin)
    if any(IMAGE_MARK in answer for answer in turns.answers):
        raise DataError(
            f"{entry.origin}: an answer says {IMAGE_MARK}: images stand in questions", kind="mark in an answer"
        )
    return images


def questions(
    path: Path, *, folder: str = "", answers: Answers | None = None, extras: Extras | None = None
) -> Iterator[Row | DataError]:
    """Rows of a test list `[{question_id, image, text, answer}]`; JSONL when the name ends so.

    Args:
        path: the list.
        folder: what the names of images count from, below the root of the images.
        answers: finds the answers of a row; default: `answer`, a text, a number or a list of texts.
        extras: finds the other fields that a score needs.

    Raises:
        DataError: the file can't be used; a row that can't is given as an error in its place.
    """
    found = entries_by_line(path) if path.suffix.lower() == ".jsonl" else entries(path)
    return rows_from(found, lambda entry: [question(entry, folder=folder, answers=answers, extras=extras)])


def question(entry: Record, *, folder: str = "", answers: Answers | None = None, extras: Extras | None = None) -> Row:
    """The row of one test question; the arguments are those of `questions`."""
    images = images_of(entry, folder=folder)
    return Row(
        id=entry.name("question_id"),
        images=images,
        fields={"instruction": instruction(entry, "text", images=len(images))},
        answers=(answers or stated)(entry),
        origin=entry.origin,
        extras=extras(entry) if extras else {},
    )


def images_of(entry: Record, *, folder: str = "") -> tuple[str, ...]:
    """The images of a row: none, one or a list of them."""
    if not entry.has("image"):
        refuse_elsewhere(entry.value, origin=entry.origin)
        return ()
    return _below(folder, entry.texts("image") if isinstance(entry.value["image"], list) else (entry.text("image"),))


def _below(folder: str, names: Sequence[str]) -> tuple[str, ...]:
    plain = [name.removeprefix("./") for name in names]
    return tuple(f"{folder}/{name}" if folder else name for name in plain)


def instruction(entry: Record, key: str, *, images: int) -> str:
    """A text without its `<image>` marks: the model's family decides where an image goes."""
    refuse_miscounted(entry.text(key), images, origin=entry.origin)
    text = unmarked(entry.text(key))
    if not text:
        raise entry.wrong(key, f"more than {IMAGE_MARK}")
    return text


def stated(entry: Record, key: str = "answer") -> tuple[str, ...]:
    """The answers under `key`: one text or number, or a list of texts; training uses the first."""
    value = entry.value.get(key)
    if isinstance(value, list):
        return entry.texts(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (number_text(value),)
    return (entry.text(key),)


def stated_extras(*keys: str) -> Extras:
    """Copies the texts and numbers under `keys` if a row has them."""

    def extras(entry: Record) -> Mapping[str, str]:
        return {key: entry.name(key) for key in keys if entry.has(key)}

    return extras


def matched(gold: Mapping[str, tuple[str, ...]], *, where: Path) -> Answers:
    """Answers from another file, by the row's `question_id`.

    Raises:
        DataError: the file has no such id: it is of another split or another version.
    """

    def answers(entry: Record) -> tuple[str, ...]:
        name = entry.name("question_id")
        if name not in gold:
            raise DataError(f"{entry.origin}: the question_id '{name}' is not in {where}; is it of another split?")
        return gold[name]

    return answers
