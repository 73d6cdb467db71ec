"""A Ray that does not start is one line."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from evertune.experiments.grid.ray_pool import LOCAL, _connected
from evertune.utils.errors import UserError


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (LOCAL, "^Ray did not start .the node timed out.: start evertune grid again"),
        ("auto", "no Ray cluster at 'auto': the"),
    ],
)
def test_a_start_that_takes_too_long(address, message, monkeypatch):
    def init(**_):
        raise Exception("the node timed out\nmore")  # as Ray raises it

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(UserError, match=message):
        _connected(address, 1)
