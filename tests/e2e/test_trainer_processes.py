"""A Trainer in two processes takes the steps that one process takes, and that evertune's own loop takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import tiny_trainer as tiny
import torch
import warm

CASES = ("ewc,1,0.0", "tir+mas,2,0.05", "replay+ewc+lwf,3,0.05")
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TINY = Path(tiny.__file__)


@pytest.mark.slow
def test_two_processes_take_the_same_steps(tmp_path, monkeypatch):
    out = tmp_path / "weights.pt"
    done = subprocess.run(
        [warm.python(), *LAUNCH, str(TINY), str(out), *CASES],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TINY.parent), "ACCELERATE_USE_CPU": "true"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(out, weights_only=True)
    tiny.comparable(monkeypatch.setattr)
    for case in CASES:
        spec, accumulation, clip = case.split(",")
        how = {"accumulation": int(accumulation), "clip": float(clip)}
        assert found[case]["states"] == 1, "the same in both processes and in the checkpoint"
        alone = tiny.by_loop(spec, **how)
        assert tiny.furthest(found[case]["trainer"], found[case]["loop"]) < 1e-6, case
        assert tiny.furthest(found[case]["trainer"], alone) < 1e-6, case
