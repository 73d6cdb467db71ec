"""A process that is alone leads and waits for nobody; what several can't do is refused."""

from __future__ import annotations

import pytest
import torch

from evertune import service
from evertune.experiments.grid import Grid
from evertune.utils import distributed
from evertune.utils.errors import UserError


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


def test_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # some clusters set it for every job
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert (distributed.world_size(), distributed.rank(), distributed.is_main_process()) == (1, 0, True)
    assert not distributed.uses_fsdp()
    weight = torch.nn.Parameter(torch.ones(2))
    distributed.all_reduce_gradients({"w": weight})
    assert weight.grad is None
    assert distributed.shard([1, 2, 3]) == [1, 2, 3] and distributed.all_gather("a") == ["a"]
    distributed.barrier()


def test_the_second_of_two(second_of_two):
    assert (distributed.world_size(), distributed.rank(), distributed.is_main_process()) == (2, 1, False)
    assert distributed.shard(range(5)) == range(1, 5, 2) and not distributed.shard([7])


def test_the_older_way_to_spread_is_refused(second_of_two, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert distributed.uses_fsdp()
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="say --fsdp_version 2"):
        distributed.uses_fsdp()


def test_what_several_can_not_do(second_of_two, tmp_path):
    with pytest.raises(UserError, match="start this command without accelerate launch"):
        service.check(tmp_path)
    with pytest.raises(UserError, match="start a grid without accelerate launch"):
        Grid([])
