"""The field's words in src/ and docs/: a word of our own that has a standard name stays out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORDS = {
    r"pictures?": "image",
    r"whoever|nobody|somebody|anybody": "name the user, the caller, the process ...",
    r"to the bit|same bits": "bit-identical",
    r"untouched model": "base model",
    r"number formats?": "dtype",
    r"letter by letter": "exact match",
    r"(?:go|goes|going|gone) on with": "resume",
    r"upkeep": "service",
    r"midway": "mid-task checkpoint",
    r"watchers?": "callback",
    r"tolerant": "relaxed",
    r"said": "predicted, printed, reported ...",
    r"told": "receives, passed, reported ...",
    r"asked": "requested, evaluated, queried ...",
    r"taught": "trained on, learned",
    r"strangers?": "untrusted",
    r"untouched|undisturbed": "unchanged, uninterrupted",
    r"mend(?:ed|s)?": "fix",
    r"doors?": "access middleware",
    r"(?<!-)bench": "model session",
    r"stamps?": "provenance",
    r"on paper": "estimate, on the meta device",
    r"taken over": "reused",
    r"spoken": "name the thing",
}
TEXTS = (
    "src/evertune/data/pocket/",
    "src/evertune/data/builders/",
    "src/evertune/data/drawing.py",
    "src/evertune/models/checkpoints/",
)
"""Their texts are data that models are taught and asked."""
ALLOWED = {
    ("src/evertune/data/placeholders.py", "picture"),  # keys of images in other people's files
    ("src/evertune/data/placeholders.py", "pictures"),
    ("src/evertune/metrics/vqa.py", "somebody"),  # a list of contractions
    ("docs/log.md", ""),  # history, as it was written
    ("docs/pocket.md", "told"),  # the name of a form of prompts
    ("docs/study.md", "stamps"),  # postage stamps
    ("docs/datasets.md", "taught"),  # an option of ctbench
    ("src/evertune/data/formats/ctbench.py", "taught"),
    ("src/evertune/data/formats/vizwiz.py", "asked"),  # people asked questions about their photographs
    ("src/evertune/tools/rescore/formats.py", "Bench"),  # CV-Bench
    ("src/evertune/reporting/page.css", "on paper"),  # printed
}


def found_in(text: str) -> list[str]:
    return [match.group(0) for word in WORDS for match in re.finditer(rf"(?i)\b(?:{word})\b", text)]


def files() -> list[Path]:
    kinds = (".py", ".md", ".j2", ".css", ".yaml")
    places = [path for name in ("src/evertune", "docs") for path in (ROOT / name).rglob("*")]
    return [*(path for path in places if path.suffix in kinds), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.slow
def test_words_that_have_a_standard_name_are_not_used():
    wrong = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if (name, "") in ALLOWED or name.startswith(TEXTS):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = [word for word in found_in(line) if (name, word) not in ALLOWED]
            wrong += [f"{name}:{number}: {word}" for word in words]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["The Pictures", "equal to the bit", "gone on with", "a number format", "Watcher"])
def test_such_a_word_is_found(text):
    assert len(found_in(text)) == 1
    assert not found_in("depicture imagery watchful")
