"""The dtype that 'auto' takes: bfloat16 only where a step and an answer are clearly faster, and always the same one."""

from __future__ import annotations

import json

import pytest
import torch

from evertune.models import auto_dtype
from evertune.models.auto_dtype import faster_dtype, measured_on, pick_dtype, seconds_of_run
from evertune.utils.device import seconds_per_product
from evertune.utils.errors import UserError

CPU = torch.device("cpu")
TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def pair(share):
    return {"float32": 1.0, "bfloat16": share}


@pytest.mark.parametrize(
    ("product", "step", "answer", "chosen"),
    [
        (0.95, None, None, "float32"),  # beside other jobs, products of equal speed once measured 6.2 and 5.8 ms
        (3.0, None, None, "float32"),
        (0.4, 0.67, 1.75, "float32"),  # AMX with a decoding loop for float32 only: a run took 25 minutes, not 20
        (0.4, 0.67, 0.9, "bfloat16"),
        (0.4, 0.9, 0.95, "float32"),
    ],
)
def test_the_choice_follows_what_a_run_does(product, step, answer, chosen):
    seconds = {"product": pair(product)} | ({"step": pair(step), "answer": pair(answer)} if step else {})
    assert faster_dtype(seconds) == chosen


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """An empty cache, and measurements that are counted: bfloat16 is the faster one at first, and not later."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    monkeypatch.delenv("EVERTUNE_AUTO_DTYPE")
    calls = []

    def product(_device):
        calls.append("product")
        return {torch.float32: 1.0, torch.bfloat16: 0.4 if len(calls) < 3 else 0.9}

    monkeypatch.setattr(auto_dtype, "seconds_per_product", product)
    monkeypatch.setattr(
        auto_dtype, "seconds_of_run", lambda _: calls.append("run") or {"step": pair(0.5), "answer": pair(0.5)}
    )
    return calls


def test_the_choice_of_a_machine_stays(measured):
    assert [pick_dtype("auto", CPU) for _ in range(3)] == [torch.bfloat16] * 3
    assert measured == ["product", "run"]
    assert measured_on(CPU)["step"] == {"float32": 1.0, "bfloat16": 0.5}


def test_another_machine_measures_again(measured, monkeypatch):
    assert pick_dtype("auto", CPU) is torch.bfloat16
    monkeypatch.setattr(auto_dtype, "processor", lambda: "another one")
    assert pick_dtype("auto", CPU) is torch.float32
    assert measured == ["product", "run", "product"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": {"product": {"float32": 0, "bfloat16": "x"}}}'])
def test_a_damaged_note_is_measured_again(measured, tmp_path, content):
    pick_dtype("auto", CPU)
    (path,) = (tmp_path / "dtype").iterdir()
    path.write_text(content)
    assert pick_dtype("auto", CPU) is torch.float32
    assert json.loads(path.read_text())["dtype"] == "float32"


def test_a_cache_that_cannot_be_written_is_no_error(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "file"))
    assert pick_dtype("auto", CPU) is torch.bfloat16


def test_the_wish_wins(measured):
    assert pick_dtype("float32", CPU) is torch.float32
    assert pick_dtype(torch.bfloat16, CPU) is torch.bfloat16
    assert not measured
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


@pytest.mark.slow
def test_the_real_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    assert set(seconds_per_product("cpu")) == {torch.float32, torch.bfloat16}
    before = torch.random.get_rng_state()
    seconds = seconds_of_run(CPU, shape=TINY)
    assert torch.equal(before, torch.random.get_rng_state())
    both = {"float32", "bfloat16"}
    assert {what: set(times) for what, times in seconds.items()} == {"step": both, "answer": both}
    assert all(taken > 0 for times in seconds.values() for taken in times.values())
    assert measured_on(CPU) == measured_on(CPU)
