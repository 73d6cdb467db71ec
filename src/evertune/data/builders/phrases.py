"""Short texts without images: sums of two numbers, and lists to be continued. Probes of what a language model can do.

{name: sums, build: phrases, options: {kind: sums, test: 40, seed: 0}, score: contains}
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from evertune.assets import Progress
from evertune.utils.errors import unknown
from evertune.utils.files import write_jsonl

VERSION = 1
ABOUT = {
    "title": "Sums and lists, in words",
    "source": "written on the spot",
    "licence": "Apache-2.0, as evertune",
    "citation": "none",
}
LISTS = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "January February March April May June July August September October November December",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "first second third fourth fifth sixth seventh eighth ninth tenth",
    "ten twenty thirty forty fifty sixty seventy eighty ninety",
)
SHOWN = 3
"""Words of a list that a question shows."""


def build(folder: Path, *, kind: str, train: int = 0, test: int, seed: int, progress: Progress | None = None) -> None:
    """Write `train` and `test` different questions of one `kind` ('sums' or 'lists')."""
    del progress
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    questions = KINDS[kind]
    order = random.Random(f"phrases {kind} {seed}").sample(questions, train + test)
    for split, part in (("test", order[:test]), ("train", order[test:])):
        rows = (
            {"id": f"{split}-{n:03d}", "images": [], "instruction": q, "answers": a} for n, (q, a) in enumerate(part)
        )
        write_jsonl(folder / f"{split}.jsonl", rows)


def _sums() -> list[tuple[str, Sequence[str]]]:
    """All sums of two digits; the first answer is a sentence, which decides how long an answer may be."""
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    return [(f"What is {a} + {b}? Answer with the number.", (f"The answer is {a + b}.", str(a + b))) for a, b in pairs]


def _lists() -> list[tuple[str, Sequence[str]]]:
    """Every place of every list at which another word follows."""
    found: list[tuple[str, Sequence[str]]] = []
    for words in map(str.split, LISTS):
        for at in range(len(words) - SHOWN):
            following = words[at + SHOWN]
            found.append((f"{', '.join(words[at : at + SHOWN])},", (f"{following}, and so on", following)))
    return found


KINDS = {"sums": _sums(), "lists": _lists()}
