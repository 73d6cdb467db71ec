"""Where features are kept: what `auto` chooses, what a setting may say, and sizes as users write them."""

from __future__ import annotations

import pytest

from evertune.models.feature_policy import FeaturePolicy, Need, Room, choose, room_in
from evertune.runs.api import configure, resolved
from evertune.runs.config import FeatureSettings
from evertune.utils.errors import UserError
from evertune.utils.sizes import bytes_of

GB = 10**9
ROOM = Room(disk=40 * GB, memory=8 * GB)


@pytest.mark.parametrize(
    ("images", "uses", "policy", "kept"),
    [
        (10_000, 5.0, FeaturePolicy(), "disk"),  # 12 GB
        (500_000, 5.0, FeaturePolicy(), "off"),  # 600 GB
        (500_000, 5.0, FeaturePolicy(budget=700 * GB), "disk"),
        (10_000, 5.0, FeaturePolicy(budget=2 * GB), "off"),
        (10_000, 1.0, FeaturePolicy(), "off"),
        (100, 1.0, FeaturePolicy(), "disk"),
        (500_000, 5.0, FeaturePolicy(keep="memory"), "memory"),
        (10, 9.0, FeaturePolicy(keep="off"), "off"),
    ],
)
def test_what_pays_is_kept(images, uses, policy, kept):
    choice = choose(policy, Need(images, 1_200_000, uses), ROOM)
    assert choice.keep == kept
    assert f"{images:,} images" in str(choice) and "\n" not in str(choice)


def test_memory_is_taken_where_the_disk_is_full():
    choice = choose(FeaturePolicy(), Need(5_000, 1_200_000, 3.0), Room(disk=GB, memory=8 * GB))
    assert (choice.keep, choice.budget) == ("memory", 8 * GB)
    assert "6.0 GB, more than 1.0 GB on disk, of 8.0 GB in memory" in str(choice)


def test_room_is_that_of_a_folder_that_is_not_there_yet(tmp_path):
    room = room_in(tmp_path / "not" / "there", kept=0)
    assert room.disk > 0 and room.memory > 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * GB), ("1.5 tb", 1500 * GB), ("2GiB", 2 << 30), ("500", 500), ("1e9", GB), ("512 MB", 512 * 10**6)],
)
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "2 apples", "-1GB", "1.2.3", "9e99", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is no size"):
        bytes_of(text)


@pytest.mark.parametrize(
    "settings",
    [
        ["features=off", "features.budget=2GB"],
        ["features.budget=2GB", "features=off"],
        ["features.keep=off", "features.budget=2GB"],
        ["features.keep='off'", "features.budget=2000000000"],
    ],
)
def test_the_short_and_the_long_form(settings):
    assert configure("parcel", settings=settings).features.policy() == FeaturePolicy("off", 2 * GB)


def test_a_yaml_may_have_the_short_form(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("stream: parcel\nfeatures: off\n")
    assert configure(str(path)).features.keep == "off"
    assert configure(str(path), settings=["features.workers=2"]).features == FeatureSettings(keep="off", workers=2)
    path.write_text("stream: parcel\nfeatures.budget: 5TB\n")
    assert configure(str(path)).features.policy() == FeaturePolicy("auto", 5000 * GB)


@pytest.mark.parametrize("setting", ["features=tape", "features.budget=much", "features.workers=-1", "features.size=1"])
def test_mistakes_are_named(setting):
    with pytest.raises(UserError, match="features"):
        configure("parcel", settings=[setting])


def test_features_are_no_part_of_a_run(tmp_path):
    del tmp_path
    plain, other = configure("parcel"), configure("parcel", settings=["features=off", "features.budget=1GB"])
    assert resolved(plain, "sequential") == resolved(other, "sequential")
