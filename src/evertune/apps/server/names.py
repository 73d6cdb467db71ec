"""The models of one server and their names: the last stage, each stage, the base model, each expert.

    colours               the last stage; it follows the folder
    colours:base          the base model, stage 0
    colours:3             the model after its third task
    colours:expert=gqa    the last stage, always with this expert: nothing is routed

A name is looked up among those that exist, and never taken apart: no part of it becomes a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evertune.utils.errors import UserError

LISTED = 20
"""Names in an error; `GET /v1/models` has all of them."""


class Variant(NamedTuple):
    """What answers: a stage, None for the last; and the expert of the last stage that is not to be routed."""

    stage: int | None = None
    expert: str | None = None


LAST = Variant()


class UnknownModelError(UserError):
    """There is no model of this name."""


@dataclass(frozen=True, slots=True)
class ServedStage:
    """A stage that answers requests.

    Attributes:
        stage: its number; 0 is the base model.
        task: what it learned last; None at stage 0.
        fingerprint: the stage and a prefix of its checksum; stages with different fingerprints may answer differently.
        created: when the stage was written, in seconds since 1970.
    """

    stage: int = 0
    task: str | None = None
    fingerprint: str = "stage-0"
    created: int = 0


@dataclass(frozen=True, slots=True)
class ServedModels:
    """The models of a folder at one moment.

    Attributes:
        last: the last stage.
        stages: those that can be loaded, by number.
        experts: of the last stage.
    """

    last: ServedStage = field(default_factory=ServedStage)
    stages: Mapping[int, ServedStage] = field(default_factory=dict)
    experts: Sequence[str] = ()

    def named(self, name: str) -> dict[str, Variant]:
        """What each name stands for; `name` is the folder's."""
        stages = {f"{name}:{number or 'base'}": Variant(number) for number in self.stages}
        return {name: LAST, **stages, **{f"{name}:expert={each}": Variant(expert=each) for each in self.experts}}

    def find(self, wanted: str | None, name: str) -> tuple[str, Variant]:
        """The model of this name, and its name; without one the last stage.

        Raises:
            UnknownModelError: there is none; the message has those that there are.
        """
        names = self.named(name)
        wanted = name if wanted is None else wanted
        if wanted not in names:
            some = ", ".join(f"'{each}'" for each in list(names)[:LISTED])
            more = f" and {len(names) - LISTED} more, see /v1/models" if len(names) > LISTED else ""
            raise UnknownModelError(f"there is no model '{wanted:.200}' here: this server has {some}{more}")
        return wanted, names[wanted]

    def of(self, variant: Variant) -> ServedStage:
        """The stage of a model.

        Raises:
            UnknownModelError: it was rolled back since its name was looked up.
        """
        number = self.last.stage if variant.stage is None else variant.stage
        found = self.last if number == self.last.stage else self.stages.get(number)
        if found is None or (variant.expert is not None and variant.expert not in self.experts):
            raise UnknownModelError(f"stage {number} of this model was rolled back, or an expert of it: see /v1/models")
        return found
