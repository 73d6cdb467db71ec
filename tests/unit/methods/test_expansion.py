"""Expansion policies: which expert a task trains further, from names and numbers alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from evertune.methods.base import BASE
from evertune.methods.expansion import POLICIES

NEW = SimpleNamespace(name="new")
SIMILAR, TAKEN = {"a": 0.5, "b": 0.4, BASE: 0.9}, {"a": 0.1, "b": 0.2, BASE: 0.7}


def expert(policy, threshold, *, own=None):
    method = SimpleNamespace(
        expert_of={"new": own}.get, similar_experts=lambda task: SIMILAR, taken_for=lambda task: TAKEN
    )
    return POLICIES[policy](threshold).expert_for(NEW, method)


@pytest.mark.parametrize(("policy", "nearest", "at"), [("when-dissimilar", "a", 0.5), ("when-separable", "b", 0.2)])
def test_the_nearest_expert_from_the_threshold_on(policy, nearest, at):
    for own in (None, BASE):  # not learned, or served by the base model, which is never trained further
        assert expert(policy, at, own=own) == nearest
        assert expert(policy, at + 1e-6, own=own) is None
    assert expert(policy, 1.0, own="c") == "c", "learned again: its own, however near others are"


def test_always_is_a_new_one():
    assert expert("always", 0.0) is expert("always", 0.0, own="c") is None
