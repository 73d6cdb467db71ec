"""The schema of a task in a stream's YAML, and the source of its data."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from evertune.data.builders import builder
from evertune.data.formats import format_of
from evertune.data.images import short
from evertune.metrics.rules import rule_of
from evertune.utils.config_io import Settings
from evertune.utils.safe_names import is_name


class TaskFile(Settings):
    """The schema of a task in a stream's YAML."""

    name: str
    build: str | None = None
    format: str | None = None
    root: str | None = None
    prompt: str | None = None
    allow_external_paths: bool = Field(
        default=False, description="names and links of images may lead out of their folder"
    )
    options: dict[str, Any] = Field(default_factory=dict)
    train: str | None = None
    test: str | None = None
    data: str | None = None
    test_share: float = Field(default=0.2, gt=0, lt=1)
    images: str | None = None
    score: str = "exact"
    about: dict[str, str] = Field(default_factory=dict)

    @field_validator("score")
    @classmethod
    def _known_score(cls, score: str) -> str:
        return rule_of(score).name

    @model_validator(mode="after")
    def _one_source(self) -> TaskFile:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) or not is_name(self.name):
            raise ValueError(f"task name {short(self.name)}: use letters, digits, '-', '_' and '.', at most 200")
        published = self.root is not None or (self.format is not None and "hub" in self.options)
        files = [self.data is not None, self.train is not None and self.test is not None, published]
        if sum([self.build is not None, *files]) != 1:
            raise ValueError(
                f"task '{self.name}' needs one of: 'build', 'data', 'train' and 'test', or 'format' and 'root'"
            )
        if self.root is not None and self.format is None:
            raise ValueError(f"task '{self.name}': 'root' needs the 'format' of the files in it")
        if self.format is not None:
            if self.build is not None:
                raise ValueError(f"task '{self.name}': 'format' has no meaning beside 'build'")
            format_of(self.format)
        return self


def about_task(entry: TaskFile) -> dict[str, str]:
    """Title, source, licence and citation of a task: the builder's or format's, overridden by those of the YAML."""
    if entry.format:
        return {**format_of(entry.format).ABOUT, **entry.about}
    return {**(builder(entry.build).ABOUT if entry.build else {}), **entry.about}
