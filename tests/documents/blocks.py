"""The fenced blocks of README.md and docs/, each with what a test must know of it and a reader need not see.

A block is executed unless a comment before it says otherwise:

    <!-- not run: takes hours -->                   only checked against the command line (`checked.py`)
    <!-- run with: parcel -> photos.yaml; smol -> random -->   executed in a smaller form
    <!-- run before: cp photos.yaml mine.yaml -->   what the page expects a reader to have
    <!-- run beside: evertune serve my-model -->    goes on in the background; PORT: a free port, there and in the block
    <!-- fails with: AssertionError -->             the page says so too; this is among what it prints
    <!-- file: my-photos/grid.yaml -->              the block is the content of this file
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTES = ("not run", "run with", "run before", "run beside", "fails with", "file")
LANGUAGES = ("sh", "console", "python", "yaml", "")
NOTE = re.compile(r"^<!-- ([a-z ]+): (.*?) -->$")
FENCE = re.compile(r"^(`{3,})(\w*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, its language, its text, and the notes before it."""

    page: str
    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def as_run(self) -> str:
        """The text with the substitutions of `run with`, each of which must find something."""
        text = self.text
        for pair in filter(None, self.notes.get("run with", "").split("; ")):
            old, new = pair.split(" -> ")
            assert old in text, f"{self.where}: the note 'run with: {pair}' finds nothing"
            text = text.replace(old, new)
        return text


def blocks_of(page: Path, *, root: Path = ROOT) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return list(_blocks(page.read_text().splitlines(), page.relative_to(root).as_posix()))


def _blocks(lines: list[str], page: str) -> Iterator[Block]:
    notes: dict[str, str] = {}
    at = 0
    while at < len(lines):
        if note := NOTE.match(lines[at]):
            assert note[1] in NOTES, f"{page}:{at + 1}: a note says one of {NOTES}"
            notes[note[1]] = note[2]
        elif fence := FENCE.match(lines[at]):
            end = lines.index(fence[1], at + 1)
            text = "\n".join(lines[at + 1 : end]) + "\n"
            assert fence[2] in LANGUAGES, f"{page}:{at + 1}: a block is one of {LANGUAGES}, not '{fence[2]}'"
            yield Block(page, at + 1, fence[2], text, notes)
            notes, at = {}, end
        elif lines[at].strip():
            assert not notes, f"{page}:{at + 1}: a note that no block follows"
        at += 1


def commands_in_prose(page: Path) -> Iterator[tuple[int, str]]:
    """Commands that stand in a sentence, a table or an indented block: (line, command)."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            spans = [line.strip()] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
            yield from ((number, span) for span in spans if span.startswith(("evertune ", "python ", "make ")))
