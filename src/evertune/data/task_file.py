"""The schema of a task in a stream's YAML, and the source of its data."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from evertune.data.builders import builder
from evertune.data.formats import format_of
from evertune.data.images import short
from evertune.metrics.rules import rule_of
from evertune.utils.config_io import Settings, unit
from evertune.utils.safe_names import is_name


class TaskFile(Settings):
    """The schema of a task in a stream's YAML."""

    HALVES: ClassVar[tuple[str, ...]] = ("train", "test")
    """The files of a task whose two splits are in two."""

    name: str = Field(description="name of the task: letters, digits, '-', '_' and '.'")
    build: str | None = Field(default=None, description="the builder of a built-in task, instead of files")
    format: str | None = Field(
        default=None, description="layout of the files (`evertune ls formats`); by default guessed from the file's name"
    )
    root: str | None = Field(default=None, description="folder of a published data set, below --data")
    prompt: str | None = Field(
        default=None, description="text with the fields of a row in braces; by default the format's"
    )
    allow_external_paths: bool = Field(
        default=False, description="names and links of images may lead out of their folder"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the format or the builder (`evertune show FORMAT`)"
    )
    train: str | None = Field(default=None, description="file of training rows, beside the YAML")
    test: str | None = Field(default=None, description="file of test rows")
    data: str | None = Field(default=None, description="one file of rows, from which a test set is drawn")
    test_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        json_schema_extra=unit("share of rows"),
        description="share of `data` that becomes the test set",
    )
    images: str | None = Field(default=None, description="folder of the images; by default that of the rows")
    score: str = Field(default="exact", description="scoring rule (docs/metrics.md)")
    about: dict[str, str] = Field(
        default_factory=dict, description="licence, citation and the like, printed by `evertune show`"
    )

    @field_validator("score")
    @classmethod
    def _known_score(cls, score: str) -> str:
        return rule_of(score).name

    @model_validator(mode="after")
    def _one_source(self) -> TaskFile:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) or not is_name(self.name):
            raise ValueError(f"task name {short(self.name)}: use letters, digits, '-', '_' and '.', at most 200")
        published = self.root is not None or (self.format is not None and "hub" in self.options)
        files = [self.data is not None, all(getattr(self, half) is not None for half in self.HALVES), published]
        if sum([self.build is not None, *files]) != 1:
            halves = " and ".join(f"'{half}'" for half in self.HALVES)
            raise ValueError(f"task '{self.name}' needs one of: 'build', 'data', {halves}, or 'format' and 'root'")
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
