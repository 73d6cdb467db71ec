"""Stages on disk: an unchanged tensor is written once, and a stage that lost what it needs says so."""

from __future__ import annotations

import pytest
import torch

from evertune.errors import RunFolderError
from evertune.stages import Stage, load_stage, read_tensors, save_stage, saved_stages, stage_folder

BIG = 1000


def stage(number):
    return Stage(number, f"task-{number}", 1, 1, 0.0, False, 0, 0)


def state_after(number):
    """An expert per task that never changes, and one tensor that always does."""
    experts = {f"task-{n}": {"w": torch.full((BIG,), float(n))} for n in range(1, number + 1)}
    return {"eproj": {"experts": experts, "moving": torch.full((BIG,), -float(number)), "seen": number}}


@pytest.fixture
def saved(tmp_path):
    for number in (1, 2, 3):
        save_stage(tmp_path, stage(number), trainable={"p": torch.zeros(1)}, state=state_after(number), log=[])
    return tmp_path


def held(run, number):
    return set(read_tensors(stage_folder(run, number, f"task-{number}") / "method.safetensors")[0])


def test_an_unchanged_tensor_is_written_once(saved):
    for number in (1, 2, 3):
        assert held(saved, number) == {f"eproj/experts/task-{number}/w", "eproj/moving"}
    sizes = [(path.parent / "method.safetensors").stat().st_size for path in sorted(saved.glob("stages/*/done.json"))]
    assert max(sizes) < 1.2 * min(sizes)


def test_equal_stages_are_equal_files(saved, tmp_path):
    path = stage_folder(saved, 3, "task-3") / "method.safetensors"
    before = path.read_bytes()
    for _ in range(8):
        save_stage(tmp_path, stage(3), trainable={"p": torch.zeros(1)}, state=state_after(3), log=[])
        assert path.read_bytes() == before


def test_every_stage_returns_whole(saved):
    for found in saved_stages(saved):
        state = load_stage(saved, found)[1]["eproj"]
        wanted = state_after(found.number)["eproj"]
        assert state["experts"].keys() == wanted["experts"].keys() and state["seen"] == found.number
        assert torch.equal(state["moving"], wanted["moving"])
        assert all(torch.equal(expert["w"], wanted["experts"][name]["w"]) for name, expert in state["experts"].items())


def test_a_changed_tensor_is_written_again(saved):
    state = state_after(4)
    state["eproj"]["experts"]["task-1"]["w"][3] += 1e-6
    save_stage(saved, stage(4), trainable={}, state=state, log=[])
    assert "eproj/experts/task-1/w" in held(saved, 4) and "eproj/experts/task-2/w" not in held(saved, 4)
    loaded = load_stage(saved, stage(4))[1]["eproj"]["experts"]
    assert torch.equal(loaded["task-1"]["w"], state["eproj"]["experts"]["task-1"]["w"]) and loaded["task-1"]["w"][3] > 1


@pytest.mark.parametrize("what", ["missing", "changed", "other"])
def test_what_an_earlier_stage_held_is_checked(saved, what):
    path = stage_folder(saved, 1, "task-1") / "method.safetensors"
    if what == "missing":
        path.unlink()
    elif what == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:  # learned anew, with another result
        save_stage(
            saved, stage(1), trainable={}, state={"eproj": {"experts": {"task-1": {"w": torch.ones(2)}}}}, log=[]
        )
    message = {"missing": "01-task-1.* is missing", "changed": "checksum", "other": "no longer there"}[what]
    with pytest.raises(RunFolderError, match=message):
        load_stage(saved, stage(3))
