"""Caption scores that only published Java code computes: the PTB tokeniser, METEOR and SPICE.

They come with `pycocoevalcap` (`pip install 'evertune[captions]'`) and need a Java runtime; everything else here does
without both. SPICE fetches its parser the first time it runs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from evertune.utils.errors import UserError

Captions = Sequence[str]
Scored = tuple[float, list[float]]


def ptb_tokens(texts: Sequence[str]) -> list[list[str]]:
    """The words of every text by the Stanford tokeniser, in lower case and without punctuation, as published.

    Raises:
        UserError: Java or the extra is missing, or the program failed.
    """
    return [list(words) for words in _ptb_tokens(tuple(texts))]


@lru_cache(maxsize=2)  # one cell is often scored by several rules
def _ptb_tokens(texts: tuple[str, ...]) -> list[list[str]]:
    if not texts:
        return []
    tokeniser = _published("tokenizer.ptbtokenizer", "PTBTokenizer")
    # One line each: the program tells texts apart by line ends, and Java knows more of them than "\n".
    lines = {number: [{"caption": _one_line(text)}] for number, text in enumerate(texts)}
    found = _run("the PTB tokeniser", lambda: tokeniser().tokenize(lines))
    if len(found) != len(texts):
        raise UserError(f"the PTB tokeniser gave {len(found)} of {len(texts)} texts back; score without '-ptb'")
    return [found[number][0].split() for number in range(len(texts))]


def _one_line(text: str) -> str:
    """What can be written to the program: no half a letter, and nothing that ends a line."""
    return " ".join(text.replace("\0", " ").encode("utf-8", "replace").decode().split())


def meteor(predictions: Captions, references: Sequence[Captions]) -> Scored:
    """METEOR 1.5 (Denkowski and Lavie 2014) of a cell and of each of its captions, 0 to 1."""
    return _score("METEOR", "meteor.meteor", "Meteor", tuple(predictions), tuple(map(tuple, references)))


def spice(predictions: Captions, references: Sequence[Captions]) -> Scored:
    """SPICE (Anderson et al. 2016, arXiv 1607.08822) of a cell and of each of its captions, 0 to 1."""
    return _score("SPICE", "spice.spice", "Spice", tuple(predictions), tuple(map(tuple, references)))


@lru_cache(maxsize=1)  # a cell asks for the score of each answer and for its own: the program takes half a minute
def _score(
    title: str, module: str, name: str, predictions: tuple[str, ...], references: tuple[tuple[str, ...], ...]
) -> Scored:
    scorer = _published(module, name)
    tokens = ptb_tokens([*predictions, *(text for texts in references for text in texts)])
    sentences = iter(" ".join(words) for words in tokens)
    output = {number: [next(sentences)] for number in range(len(predictions))}
    golds = {number: [next(sentences) for _ in texts] for number, texts in enumerate(references)}
    cell, each = _run(title, lambda: scorer().compute_score(golds, output))
    scores = [float(part["All"]["f"] if isinstance(part, dict) else part) for part in each]
    # An answer without a word is never right, whatever the program makes of it.
    return float(cell), [score if output[number][0] else 0.0 for number, score in enumerate(scores)]


def _published(module: str, name: str) -> Any:
    """A class of `pycocoevalcap`; says what is missing before anything is run."""
    if find_spec("pycocoevalcap") is None:
        raise UserError(f"{name} comes with an extra: pip install 'evertune[captions]'")
    if shutil.which("java") is None:
        raise UserError(
            f"{name} is a Java program and there is no `java` on the path: install a Java runtime (Debian: "
            "apt-get install default-jre-headless), or take a score without Java (cider, bleu-4, rouge-l)"
        )
    return getattr(import_module(f"pycocoevalcap.{module}"), name)


def _run(title: str, work: Any) -> Any:
    """Run a published program; its failures are many and none is ours. What it prints is kept out of `--json`."""
    try:
        with redirect_stdout(sys.stderr):
            return work()
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as problem:
        raise UserError(f"{title} failed: {problem}; it writes beside its own files and may fetch some") from problem
