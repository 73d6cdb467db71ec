"""A sample and a task: what a model is taught and asked.

Plain values: everything that loads or draws pictures lives in the readers and builders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from evertune.errors import DataError
from evertune.files import digest, digest_of_file


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture, one instruction and the answers that count as right; the first answer is the one taught."""

    id: str
    image: Path
    instruction: str
    answers: tuple[str, ...]
    origin: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of the picture's bytes, the instruction and the answers: not of names or places."""
        return digest(self.image_digest, self.instruction, *self.answers)

    @property
    def image_digest(self) -> str:
        """SHA-256 of the picture file.

        Raises:
            DataError: the picture is missing; the message names the row it came from.
        """
        try:
            return digest_of_file(self.image)
        except OSError as problem:
            raise DataError(f"{self.origin}: the picture {self.image} is missing or unreadable") from problem


@dataclass(frozen=True, slots=True)
class Task:
    """A named set of training and test samples that share a kind of instruction and a score.

    Attributes:
        name: unique in its stream; also the name of folders, so letters, digits, `-`, `_` and `.` only.
        score: name of the scoring rule (`evertune.scoring.rules`).
        about: what it is, where it is from, licence and citation, for `show`.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    score: str = "exact"
    about: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of every sample, of the order they stand in and of the score."""
        return digest(self.score, *(s.fingerprint for s in self.train), "|", *(s.fingerprint for s in self.test))

    def limited(self, limit: int | None) -> Task:
        """The same task with at most `limit` training and `limit` test samples (the first ones)."""
        if limit is None:
            return self
        return Task(self.name, self.train[:limit], self.test[:limit], self.score, self.about)
