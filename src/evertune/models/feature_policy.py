"""Where the vision features of images are kept: on disk, in memory, or nowhere. `auto` chooses what pays.

It compares the bytes that all images of a run would take with what may be used, and knows how often each is needed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from evertune.models.meta import free_bytes
from evertune.utils.distributed import world_size
from evertune.utils.sizes import size

Keep = Literal["auto", "disk", "memory", "off"]
MOST_ON_DISK = 100 * 10**9
"""Bytes that features take on disk at most where the user sets no budget, and no more than half of the free space."""
RESERVE = 2 * 10**9
"""Bytes of the disk that stay free, for checkpoints of the run."""
LITTLE = 10**9
"""Bytes that are kept even if this run needs each image once: later runs find them."""


@dataclass(frozen=True, slots=True)
class FeaturePolicy:
    """The settings `features` of a run: `budget` in bytes, None for the default; `workers` None: measured."""

    keep: Keep = "auto"
    budget: int | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that features may take on disk and in the memory of this process where no budget is set."""

    disk: int
    memory: int


@dataclass(frozen=True, slots=True)
class Need:
    """How many different images a run has, the bytes of the features of one, and how often one is used on average."""

    images: int
    bytes_per_image: int
    uses: float

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.images * self.bytes_per_image


@dataclass(frozen=True, slots=True)
class Choice:
    """Where features are kept, within how many bytes, and why."""

    keep: Keep
    budget: int
    reason: str

    def __str__(self) -> str:
        return f"features={self.keep} ({self.reason})"


def room_in(folder: Path, *, kept: int) -> Room:
    """What is free for features in the cache; `kept` is what they take now."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    free = max(0, shutil.disk_usage(there).free - RESERVE)
    return Room(
        disk=min(MOST_ON_DISK, (free + kept) // 2), memory=(free_bytes(torch.device("cpu")) or 0) // 2 // world_size()
    )


def budget_of(policy: FeaturePolicy, keep: Keep, room: Room) -> int:
    """The bytes that may be kept: the user's budget, else the room that there is."""
    if keep == "off":
        return 0
    if policy.budget is not None:
        return policy.budget
    return room.memory if keep == "memory" else room.disk


def choose(policy: FeaturePolicy, need: Need, room: Room) -> Choice:
    """The place that the user sets; for `auto` the disk, else the memory, if all features fit there, else none."""
    needed = f"{need.images:,} images x {size(need.bytes_per_image)} = {size(need.total)}"
    if policy.keep != "auto":
        return Choice(policy.keep, budget_of(policy, policy.keep, room), needed)
    disk, memory = (budget_of(policy, keep, room) for keep in ("disk", "memory"))
    if need.uses <= 1 and need.total > LITTLE:
        return Choice("off", 0, f"{needed}, and each image is used once")
    if need.total <= disk:
        return Choice("disk", disk, f"{needed}, of {size(disk)} on disk")
    if need.total <= memory:
        return Choice("memory", memory, f"{needed}, more than {size(disk)} on disk, of {size(memory)} in memory")
    return Choice("off", 0, f"{needed}, more than {size(disk)} on disk and {size(memory)} in memory")
