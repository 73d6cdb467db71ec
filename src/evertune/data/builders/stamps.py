"""Tux Paint's stamps, described in one sentence, in English or in the Spanish of its translators.

Photographs and drawings. Every word of a test caption also occurs in training captions. Both languages have the same
test images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from evertune.assets import PACKAGES, Progress, unpacked
from evertune.data.captioned import CaptionedDrawing, parted, words, write_captioned
from evertune.data.drawing import shows_something
from evertune.utils.errors import unknown
from evertune.utils.files import digest_of_file

VERSION = 1
PACKAGE = "tuxpaint-stamps-default"
ABOUT = {
    "title": "Tux Paint stamps and their captions",
    "source": f"Debian package {PACKAGES[PACKAGE].release}; first sentences of at most ten words, no alphabets",
    "licence": "GPL-2.0-or-later: fetched and used on your machine, not shipped with evertune",
    "citation": "B. Kendrick and the contributors to Tux Paint Stamps, https://tuxpaint.org/stamps/",
}
INSTRUCTIONS = {
    "en": "Describe the picture in one short sentence.",
    "es": "Describe la imagen en una frase corta, en español.",
}
LEFT_OUT = "symbols/alphabets/"
"""Folders of alphabets: the same letters many times, filled and outlined, in three languages."""
MOST_WORDS = 10
SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)")
VARIANTS = re.compile(
    r"\d+[a-z]?|left|right|mirror|in|out|open|closed|outline|filled|little|baby|stand|[a-z]|"
    r"black|white|grey|red|orange|yellow|green|blue|purple|pink|brown"
)
"""Parts of file names that distinguish variants of one stamp."""


def build(folder: Path, *, language: str, train: int, test: int, seed: int, progress: Progress | None = None) -> None:
    """Write `train` and `test` samples that ask for a description in `language`, 'en' or 'es'."""
    if language not in INSTRUCTIONS:
        raise unknown("language", language, INSTRUCTIONS)
    stamps = unpacked(PACKAGE, progress=progress) / "usr/share/tuxpaint/stamps"
    taught, tested = parted(_described(stamps, language), tests=test, seed=f"stamps {seed}")
    question = INSTRUCTIONS[language]
    write_captioned(folder, "train", taught, count=train, instruction=question, seed=f"stamps train {seed}")
    write_captioned(folder, "test", tested, count=test, instruction=question, seed=f"stamps test {seed}")


def _described(stamps: Path, language: str) -> Iterator[CaptionedDrawing]:
    seen: set[str] = set()  # one stamp is in two folders
    for text in sorted(stamps.rglob("*.txt")):
        image = next((p for ending in (".svg", ".png") if (p := text.with_suffix(ending)).exists()), None)
        name = text.relative_to(stamps).as_posix()
        found = captions(text.read_text(encoding="utf-8"))
        names = {code: found[code] for code in INSTRUCTIONS if 0 < len(words(found.get(code, ""))) <= MOST_WORDS}
        complete = len(names) == len(
            INSTRUCTIONS
        )  # only stamps with captions in all languages, so that both tasks have the same images
        if not image or not complete or name.startswith(LEFT_OUT) or digest_of_file(image) in seen:
            continue
        seen.add(digest_of_file(image))
        if shows_something(image):
            yield CaptionedDrawing(image, family(name), names["en"], names[language])


def captions(text: str) -> dict[str, str]:
    """First sentence by language: the first line is English, the others are `es.utf8=...`."""
    lines = text.splitlines()
    found = {"en": lines[0] if lines else ""}
    found |= {code: text for line in lines[1:] for code, mark, text in [line.partition(".utf8=")] if mark}
    return {code: _first_sentence(sentence) for code, sentence in found.items()}


def _first_sentence(text: str) -> str:
    """Without quotation marks, and with punctuation at its end; empty where the caption begins inside a sentence."""
    plain = " ".join(re.sub(r"[“”«»\"]", "", text).split())
    first = SENTENCE.match(plain)
    sentence = first[1] if first else plain
    if not re.match(r"[¡¿]?\w", sentence):
        return ""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def family(name: str) -> str:
    """Folder and name of a stamp without the parts that distinguish variants."""
    folder, _, last = name.removesuffix(".txt").rpartition("/")
    parts = [part for part in re.split(r"[-_ ]|(?<=[a-z])(?=\d)", last.lower()) if not VARIANTS.fullmatch(part)]
    return f"{folder}/{'-'.join(parts)}"
