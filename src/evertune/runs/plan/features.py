"""What a planned run does with vision features: where they are kept, the bytes that they take, and their encoding."""

from __future__ import annotations

from dataclasses import dataclass

from evertune.models.feature_policy import FeaturePolicy, Keep, Need, choose, room_in
from evertune.models.feature_shards import kept_bytes
from evertune.utils.files import cache_folder


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """Where features are kept.

    Attributes:
        encoded: images that go through the tower in one run, where none is in the cache yet.
        kept_bytes: on disk or in memory.
        choice: in words, with the reason.
    """

    keep: Keep
    images: int
    bytes_per_image: int
    encoded: int
    kept_bytes: int
    choice: str


def plan_features(policy: FeaturePolicy, need: Need) -> FeaturePlan:
    """The plan for the room that there is on this machine now."""
    root = cache_folder() / "features"
    choice = choose(policy, need, room_in(root, kept=kept_bytes(root)))
    kept = min(need.total, choice.budget)
    share = kept / need.total if need.total else 1.0
    encoded = share * need.images + (1 - share) * need.images * need.uses  # what finds no place, each time it is used
    return FeaturePlan(choice.keep, need.images, need.bytes_per_image, round(encoded), kept, str(choice))
