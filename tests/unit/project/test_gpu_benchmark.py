"""benchmarks/gpu.py with a few thousand weights on a CPU: every kind of part is measured, once."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def wanted(tmp_path, parts=None):
    about = {"toy": True, "device": "cpu", "until": time.time() + 1e6, "shapes": "llava,qwen,instructblip"}
    return argparse.Namespace(out=tmp_path / "gpu.jsonl", parts=parts, **about)


def test_parts_are_measured_once_and_failed_ones_again(gpu, tmp_path):
    asked = wanted(tmp_path, "train,method")
    whole = gpu.open_parts("llava", "projection", asked)
    assert whole[0] == "train"
    assert whole[1] == "method:sequential"
    rows = [{"part": "llava/projection/train"}, {"part": "llava/projection/method:ewc", "problem": "out of memory"}]
    asked.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert gpu.open_parts("llava", "projection", asked) == whole[1:]
    assert gpu.open_parts("llava", "lora", asked) == ["train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "scope", "parts"),
    [
        ("llava", "projection", "train,method:sequential,method:tir+ewc,method:lora,generate"),
        ("qwen", "lora", "trainer,evaluate,adamw,attention"),
        ("instructblip", "own", "train,trainer,generate"),
    ],
)
def test_every_kind_of_part_gives_numbers(gpu, tmp_path, capsys, shape, scope, parts):
    asked = wanted(tmp_path, parts)
    names = gpu.open_parts(shape, scope, asked)
    gpu.work(shape, scope, asked)
    rows = {row["part"]: row for row in map(json.loads, asked.out.read_text().splitlines())}
    assert list(rows) == [f"{shape}/{scope}/{name}" for name in names]
    assert not [row["problem"] for row in rows.values() if "problem" in row]
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    for part, row in rows.items():
        assert row["toy"]
        kind = part.rpartition("/")[2].partition(":")[0]
        if kind in ("train", "trainer"):
            assert row["tokens_per_second"] > 0
            assert 0 < row["share"] < 1
        if kind == "train":
            assert row["planned_bytes"] > 0
        if kind in ("evaluate", "generate"):
            assert row["questions_per_second"] > 0
        if kind == "method":
            assert row["step"] > 0
    gpu.work(shape, scope, asked)
    assert len(asked.out.read_text().splitlines()) == len(rows)


def test_a_command_with_nothing_left_says_so(gpu, tmp_path, capsys, monkeypatch):
    out = tmp_path / "gpu.jsonl"
    parts = [f"{s}/{c}/{p}" for s, scopes in gpu.SCOPES.items() for c in scopes for p in gpu.parts_of(s, c)]
    out.write_text("".join(json.dumps({"part": part}) + "\n" for part in parts))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out)])
    gpu.main()
    assert "complete" in capsys.readouterr().out
