"""The preview of `evertune data check`: some samples of each task as the model would get them, on one HTML page.

Like a run's report it runs no script and loads nothing; texts, names and images come from data and are escaped.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from evertune.data.images import open_image, size_of
from evertune.data.issues import SHOWN
from evertune.data.task import Sample, drawn
from evertune.reporting.examples import data_uri
from evertune.reporting.page import environment
from evertune.tools.data.check import CheckResult
from evertune.tools.data.overlap import SplitIndex
from evertune.utils.errors import DataError
from evertune.utils.files import write_atomically

if TYPE_CHECKING:
    from evertune.models.protocol import LMM, Length

SAMPLES = {"train": 4, "test": 2}
SIDE = 220
MOST_IMAGES = 4
LONGEST = 2_000
"""Characters that are shown of a text."""
LONGEST_MASKED = 6_000
"""Characters of a sample whose tokens are shown; a longer one is shown without."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of what the language model reads, and whether it is trained on."""

    text: str
    trained: bool


def write_preview(checked: CheckResult, lmm: LMM | None, out: Path) -> Path:
    """Write the page about what was checked to `out` and return `out`.

    Args:
        checked: the result of `check`.
        lmm: whose prompt and tokens are shown; None: instruction and answers only.
        out: the HTML file.
    """
    page = (
        environment(Path(__file__).parent)
        .get_template("preview.html.j2")
        .render(
            stream=checked.stream,
            model=Path(lmm.name).name if lmm else "",
            tasks=checked.tasks(),
            levels=[(level, list(problems.kinds())) for level, problems in checked.levels() if len(problems)],
            sections=list(_sections(checked.halves, lmm)),
            opened=checked.decode,
            shown=SHOWN,
        )
    )
    write_atomically(out, page.encode(errors="replace"))
    return out


def _sections(halves: Sequence[SplitIndex], lmm: LMM | None) -> Iterator[dict[str, Any]]:
    """One per task: some training and test samples, drawn by the task's name, so that a page is the same twice."""
    for name in dict.fromkeys(half.task for half in halves):
        samples = [(half.split, _shown(sample, lmm)) for half in halves if half.task == name for sample in _drawn(half)]
        yield {"task": name, "samples": samples}


def _drawn(half: SplitIndex) -> list[Sample]:
    count = min(SAMPLES[half.split], len(half.samples))
    return drawn(half.samples, count, random.Random(f"preview {half.task} {half.split}"))


def _shown(sample: Sample, lmm: LMM | None) -> dict[str, Any]:
    tokens, sizes = _tokens(sample, lmm) if lmm else ([], ())
    return {
        "id": sample.id,
        "origin": sample.origin,
        "images": [_image(path) for path in sample.images[:MOST_IMAGES]],
        "more": max(0, len(sample.images) - MOST_IMAGES),
        "prompt": _cut(lmm.prompt(sample.instruction, images=len(sample.images)) if lmm else sample.instruction),
        "answers": [(_cut(answer), count) for answer, count in Counter(sample.answers).items()],
        "tokens": tokens,
        "sizes": sizes,
        "characters": (len(sample.instruction), len(sample.answers[0])),
    }


def _tokens(sample: Sample, lmm: LMM) -> tuple[list[Token], Sequence[Length]]:
    """The tokens of a sample that is not too long to be shown, and how many each part reads; none of what can't be."""
    short = len(sample.instruction) + len(sample.answers[0]) <= LONGEST_MASKED
    try:
        images = [size_of(path, origin=sample.origin) for path in sample.images]
        sizes = lmm.lengths(sample.instruction, sample.answers[0], images)
        return masked(sample, lmm) if short else [], sizes
    except DataError:  # it stands among the findings
        return [], ()


def masked(sample: Sample, lmm: LMM) -> list[Token]:
    """The text of `sample` token by token, from the very batch that training would make of it.

    Of the places that a chat LMM keeps for an image, one is shown: how many there are depends on its size.
    """
    from evertune.models.features import grey_features  # brings torch

    batch = lmm.collate([sample], grey_features(lmm, len(sample.images)))
    texts = lmm.token_texts(batch.input_ids[0].tolist())
    tokens = [Token(text, trained) for text, trained in zip(texts, (batch.labels[0] >= 0).tolist(), strict=True)]
    return [now for before, now in pairwise([None, *tokens]) if now and not (now == before and _is_mark(now.text))]


def _is_mark(text: str) -> bool:
    """Whether a token stands for something that is no text."""
    return text.startswith("<") and text.endswith(">")


def _image(path: Path) -> dict[str, str]:
    """An image as training sees it, made small, or why there is none."""
    try:
        image = open_image(path, origin="")
    except DataError as problem:
        return {"name": path.name, "uri": "", "size": str(problem).removeprefix(": ")}
    size = f"{image.width} x {image.height}"
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return {"name": path.name, "uri": data_uri(image), "size": size}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
