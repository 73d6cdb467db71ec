"""The dtype that 'auto' takes: bfloat16 only where it is clearly faster."""

from __future__ import annotations

import pytest
import torch

from evertune.utils.device import faster_dtype, pick_dtype, seconds_per_product
from evertune.utils.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.4, torch.bfloat16), (0.95, torch.float32), (3.0, torch.float32)])
def test_a_noisy_measurement_decides_nothing(bfloat16, chosen):
    """Beside other jobs, products of equal speed once measured 6.2 and 5.8 ms, and one run of a table was bfloat16."""
    assert faster_dtype({torch.float32: 1.0, torch.bfloat16: bfloat16}) is chosen


def test_the_measurement_and_the_wish(monkeypatch):
    assert set(seconds_per_product("cpu")) == {torch.float32, torch.bfloat16}
    assert pick_dtype("bfloat16", CPU) is torch.bfloat16
    with pytest.raises(UserError, match="auto, float32 or bfloat16"):
        pick_dtype("float8", CPU)


def test_auto_takes_what_the_environment_says(monkeypatch):
    """So that two kinds of machines give the same numbers, and the suite runs with either."""
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        monkeypatch.setenv("EVERTUNE_AUTO_DTYPE", name)
        assert pick_dtype("auto", CPU) is dtype
    assert pick_dtype("bfloat16", CPU) is torch.bfloat16, "what is said is done"
    monkeypatch.setenv("EVERTUNE_AUTO_DTYPE", "half")
    with pytest.raises(UserError, match="'half'"):
        pick_dtype("auto", CPU)
