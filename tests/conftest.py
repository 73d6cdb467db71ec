"""Shared fixtures: an empty cache per test session, the model `random`, and three toy tasks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from evertune.checks import toy_tasks
from evertune.lmm import load_lmm
from evertune.lmm.features import FeatureStore


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    before = os.environ.get("EVERTUNE_CACHE")
    os.environ["EVERTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("EVERTUNE_CACHE")
    if before:
        os.environ["EVERTUNE_CACHE"] = before


@pytest.fixture
def lmm():
    return load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    return toy_tasks(Path(tmp_path_factory.mktemp("toy")))


@pytest.fixture
def features(lmm, tasks):
    store = FeatureStore(lmm)
    for task in tasks:
        store.ensure(task.train + task.test)
    return store
