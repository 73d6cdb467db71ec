"""Samples that a model can't read: found before anything is trained, from texts and sizes of images alone.

An image that the model can't prepare, a control token in a text, more tokens than a part of the model reads. Of an
index, only the rows that may be such are read: most are cleared by arithmetic on arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evertune.data.image_index import DECODED, per_row
from evertune.data.images import short, size_of
from evertune.data.issues import Issues
from evertune.data.placeholders import IMAGE_MARK
from evertune.data.samples import Samples
from evertune.data.stream import Stream
from evertune.data.task import Sample, Subset, Task
from evertune.models.protocol import TYPICAL, Described, Size, Turn
from evertune.utils.errors import DataError
from evertune.utils.safe_names import is_text

TOO_LONG, CONTROL = "longer than the model can read", "control token in a text"
"""Kinds of problems."""
LOOKED, UNKNOWN = 256, 0.01
"""Rows whose tokens are counted, and the share of unknown ones above which a run warns."""
MOST = 0.5
"""The same share for a single question."""
AT_ONCE = 1024
ENDS = 8
"""Tokens that mark the ends of a text, at most."""


def unreadable(samples: Sequence[Sample], lmm: Described) -> Iterator[tuple[int, DataError]]:
    """(place, error) of each sample that `lmm` can't read; the error names file and line."""
    places = _suspects(samples, lmm) if isinstance(samples, Samples) else range(len(samples))
    for at in places:
        sample = samples[at]
        try:
            refuse_unreadable(sample, lmm, _sizes(samples, at))
        except DataError as problem:
            yield at, DataError(f"{sample.origin}: {problem}", kind=problem.kind)


def refuse_unreadable(sample: Sample, lmm: Described, sizes: Sequence[Size], context: Sequence[Turn] = ()) -> None:
    """Stop a sample or a question (it has no answers) that `lmm` can't read.

    Args:
        sample: its images are not opened.
        lmm: the model.
        sizes: (height, width) of its images.
        context: the earlier turns; the first images belong to them.

    Raises:
        DataError: what can't be read and why; no file or line is named. UserError: the model can't read `context`.
    """
    name = short(Path(lmm.name).name)
    earlier = (("turn", turn.text) for turn in context)
    for what, text in (*earlier, ("question", sample.instruction), ("answer", "".join(sample.answers[:1]))):
        if not is_text(text):
            raise DataError(f"the {what} holds half a character, which no tokenizer reads: write it again")
        if found := _pattern(_control_tokens(lmm, answer=what == "answer")).search(text):
            message = f"the {what} holds {short(found[0])}, which {name} reads as a control token and not as text"
            raise DataError(f"{message}: take it out", kind=CONTROL)
    parts = lmm.lengths(sample.instruction, "".join(sample.answers[:1]), sizes, context)
    beyond = [f"{n:,} tokens for the {part} of {name}, which reads {limit:,}" for part, n, limit in parts if n > limit]
    if beyond:
        raise DataError(f"{', '.join(beyond)}: shorten it, or take a model that reads more", kind=TOO_LONG)


def without_unreadable(task: Task, lmm: Described, problems: Issues) -> Task:
    """The task without the samples that `lmm` can't read, each of which becomes a problem.

    Raises:
        DataError: nothing is left to train or to test on.
    """

    def kept(samples: Sequence[Sample]) -> Sequence[Sample]:
        if isinstance(samples, Samples):
            samples.look(depth=DECODED)  # sizes decide; what is known is not decoded again
        found = list(unreadable(samples, lmm))
        problems.add((problem for _, problem in found), task=task.name)
        if found and len(found) == len(samples):
            problems.refuse(stream=task.name)
        places = np.delete(np.arange(len(samples)), [at for at, _ in found])
        if not found:
            return samples
        if isinstance(samples, Samples):
            return samples.choose(samples.chosen[places])
        return Subset(samples, places.tolist())

    return replace(task, train=kept(task.train), test=kept(task.test))


def readable(
    stream: Stream, lmm: Described, *, skip_invalid: bool, warn: Callable[[str], None] | None = None
) -> Stream:
    """The stream without the samples that `lmm` can't read, which are noted in `skipped`; `warn` gets what is unusual.

    Raises:
        DataError: there are some and `skip_invalid` is not set, or nothing is left of a task.
    """
    problems = Issues()
    made = stream.each(lambda task: without_unreadable(task, lmm, problems))
    if warn:
        for task in made.all_tasks:
            for found in unknown_tokens(task.train or task.test, lmm):
                warn(str(found))
    if not len(problems):
        return stream
    if not skip_invalid:
        problems.refuse(stream=stream.name)
    stream.skipped.merge(problems)
    return made


def unknown_tokens(samples: Sequence[Sample], lmm: Described, *, above: float = UNKNOWN) -> Iterator[DataError]:
    """A warning for questions and one for answers of which a good part is no text for the tokenizer (`<unk>`).

    Such words all look alike to the model, and it can't write them. `LOOKED` rows at equal distances are tokenised.
    A good part is more than `above`; blanks and punctuation are not counted. A question may have no answers.
    """
    tokenizer = lmm.tokenizers()["language model"]
    if tokenizer.unk_token_id is None:
        return
    name = short(Path(lmm.name).name)
    some = [samples[at] for at in range(0, len(samples), -(-len(samples) // LOOKED) or 1)]
    for what in ("questions", "answers"):
        unknown, total, first = 0, 0, ""
        for sample in some:
            text = sample.instruction if what == "questions" else "".join(sample.answers[:1])
            ids = tokenizer(text, add_special_tokens=False).input_ids
            here = ids.count(tokenizer.unk_token_id)
            first = first or (f"{sample.origin}: {short(text)}" if here else "")
            unknown += here
            total += here + sum(
                any(map(str.isalnum, tokenizer.decode([n]))) for n in ids if n != tokenizer.unk_token_id
            )
        if unknown > above * total:
            of = f" ({len(some):,} of {len(samples):,} rows checked)" if len(samples) > 1 else ""
            message = (
                f"{first}: {100 * unknown / total:.0f} % of the tokens of {what} are unknown to the tokenizer of "
                f"{name}{of}: it can't tell them apart; take a model of this language"
            )
            yield DataError(message, kind=f"unknown tokens in {what}")


def _suspects(samples: Samples, lmm: Described) -> list[int]:
    """Places of samples that may be unreadable. No text has more tokens than its row has bytes."""
    rows = samples.rows
    suspect = rows.holding(_control_tokens(lmm, answer=False))
    base = lmm.lengths("", "", ())
    added, bad = _image_tokens(samples, lmm, [part.tokens for part in base])
    suspect |= per_row(rows, bad.astype(np.int64)) > 0
    for number, part in enumerate(base):
        suspect |= rows.lengths + per_row(rows, added[:, number]) + part.tokens + ENDS > part.limit
    places: list[int] = np.flatnonzero(suspect[samples.chosen]).tolist()
    return places


def _image_tokens(samples: Samples, lmm: Described, base: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(u, parts) tokens that each image adds to what a part reads, and (u,) True where it can't be prepared."""
    shapes = np.asarray(samples.seen.shapes)
    sizes, inverse = np.unique(shapes, axis=0, return_inverse=True)
    added, bad = np.zeros((len(sizes), len(base)), np.int64), np.zeros(len(sizes), bool)
    different = [(height, width) if height else TYPICAL for height, width in sizes.tolist()]
    for start in range(0, len(different), AT_ONCE):
        with suppress(DataError):  # many at once cost a chat LMM little more than one; which are bad is seen below
            lmm.lengths("", "", different[start : start + AT_ONCE])
    for number, size in enumerate(different):
        try:
            parts = lmm.lengths("", "", [size])
        except DataError:
            bad[number] = True
            continue
        added[number] = [part.tokens - alone for part, alone in zip(parts, base, strict=True)]
    return added[inverse.reshape(-1)], bad[inverse.reshape(-1)]


def _sizes(samples: Sequence[Sample], at: int) -> list[Size]:
    """Sizes of a sample's images; of an index those that were decoded before, the others are taken for typical ones."""
    if not isinstance(samples, Samples):
        sample = samples[at]
        return [size_of(path, origin=sample.origin) for path in sample.images]
    shapes = samples.seen.shapes[samples.rows.images_of(int(samples.chosen[at]))].tolist()
    return [(height, width) if height else TYPICAL for height, width in shapes]


def _control_tokens(lmm: Described, *, answer: bool) -> frozenset[str]:
    """What can't be written in a question, or in an answer, because it is no text for a tokenizer that reads it."""
    tokenizers = list(lmm.tokenizers().values())
    found = [_special_tokens(tokenizer) for tokenizer in (tokenizers[:1] if answer else tokenizers)]
    return frozenset({lmm.image_token}.union(*found) if answer else {lmm.image_token, IMAGE_MARK}.union(*found))


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any) -> frozenset[str]:
    added = tokenizer.added_tokens_decoder.values()
    return frozenset({*map(str, tokenizer.all_special_tokens), *(token.content for token in added if token.special)})


@lru_cache(maxsize=8)
def _pattern(tokens: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens)))
