"""Stages on disk: an unchanged tensor is written once, and a stage that lost what it needs says so."""

from __future__ import annotations

import pytest
import torch

from evertune.training import stages, states
from evertune.training.stages import Stage, load_stage, number_of, save_stage, saved_stages, stage_folder, stage_folders
from evertune.training.states import LazyTensors, read_tensors, split_state
from evertune.utils.errors import RunFolderError

BIG = 1000


def stage(number):
    return Stage(number, f"task-{number}", 1, 1, 0.0, False, 0, 0, "")


def state_after(number):
    """An expert per task that never changes, and one tensor that always does."""
    experts = {f"task-{n}": {"w": torch.full((BIG,), float(n))} for n in range(1, number + 1)}
    return {"eproj": {"experts": experts, "moving": torch.full((BIG,), -float(number)), "seen": number}}


@pytest.fixture
def saved(tmp_path):
    for number in (1, 2, 3):
        save_stage(
            tmp_path, stage(number), trainable={"p": torch.zeros(1)}, start={}, state=state_after(number), log=[]
        )
    return tmp_path


def held(run, number):
    return set(read_tensors(stage_folder(run, number, f"task-{number}") / "method.safetensors")[0])


def test_stages_come_by_number_and_not_by_name(tmp_path):
    for number in (100, 99, 1, 101, 10, 2):
        stage_folder(tmp_path, number, f"task-{number}").mkdir(parents=True)
    assert [number_of(folder) for folder in stage_folders(tmp_path)] == [1, 2, 10, 99, 100, 101]


def test_an_unchanged_tensor_is_written_once(saved):
    for number in (1, 2, 3):
        assert held(saved, number) == {f"eproj/experts/task-{number}/w", "eproj/moving"}
    sizes = [(path.parent / "method.safetensors").stat().st_size for path in sorted(saved.glob("stages/*/done.json"))]
    assert max(sizes) < 1.2 * min(sizes)


def test_equal_stages_are_equal_files(saved, tmp_path):
    path = stage_folder(saved, 3, "task-3") / "method.safetensors"
    before = path.read_bytes()
    for _ in range(8):
        save_stage(tmp_path, stage(3), trainable={"p": torch.zeros(1)}, start={}, state=state_after(3), log=[])
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
    save_stage(saved, stage(4), trainable={}, start={}, state=state, log=[])
    assert "eproj/experts/task-1/w" in held(saved, 4) and "eproj/experts/task-2/w" not in held(saved, 4)
    loaded = load_stage(saved, stage(4))[1]["eproj"]["experts"]
    assert torch.equal(loaded["task-1"]["w"], state["eproj"]["experts"]["task-1"]["w"]) and loaded["task-1"]["w"][3] > 1


@pytest.mark.parametrize("what", ["missing", "changed", "other"])
def test_what_an_earlier_stage_held_is_checked(saved, what):
    path = stage_folder(saved, 1, "task-1") / "method.safetensors"
    if what == "missing":
        path.unlink()
    elif what == "changed":
        content = bytearray(path.read_bytes())
        content[-4 * BIG - 1] ^= 1  # in the expert: what moves lies behind it
        path.write_bytes(content)
    else:  # learned anew, with another result
        save_stage(
            saved,
            stage(1),
            trainable={},
            start={},
            state={"eproj": {"experts": {"task-1": {"w": torch.ones(2)}}}},
            log=[],
        )
    message = {"missing": "01-task-1.* is missing", "changed": "no longer there", "other": "no longer there"}[what]
    with pytest.raises(RunFolderError, match=message):
        dict(load_stage(saved, stage(3))[1]["eproj"]["experts"]["task-1"])


def opened(monkeypatch):
    """The files that are read from here on."""
    seen = []
    real = states.safe_open
    monkeypatch.setattr(
        states, "safe_open", lambda path, **options: seen.append(path.parent.name) or real(path, **options)
    )
    return seen


def test_loading_a_stage_reads_that_stage_and_then_what_is_looked_at(saved, monkeypatch):
    seen = opened(monkeypatch)
    experts = load_stage(saved, stage(3))[1]["eproj"]["experts"]
    assert set(seen) == {"03-task-3"}
    assert float(experts["task-2"]["w"][0]) == 2 and seen[-1] == "02-task-2" and "01-task-1" not in seen


@pytest.mark.parametrize("look", [(), ("task-1",), ("task-1", "task-2")])
def test_the_next_stage_is_the_same_whether_it_was_looked_at_or_not(saved, tmp_path, look):
    save_stage(saved, stage(4), trainable={}, start={}, state=state_after(4), log=[])
    path = stage_folder(saved, 4, "task-4") / "method.safetensors"
    wanted = path.read_bytes()
    state = load_stage(saved, stage(3))[1]
    for name in look:
        dict(state["eproj"]["experts"][name])
    state["eproj"] |= {"moving": torch.full((BIG,), -4.0), "seen": 4}
    state["eproj"]["experts"]["task-4"] = {"w": torch.full((BIG,), 4.0)}
    prints = {split_state(state).fingerprint, split_state(state_after(4)).fingerprint}
    assert len(prints) == 1 and split_state(state).nbytes == split_state(state_after(4)).nbytes == 5 * 4 * BIG
    save_stage(saved, stage(4), trainable={}, start={}, state=state, log=[])
    assert path.read_bytes() == wanted
    assert sum(isinstance(expert, LazyTensors) for expert in state["eproj"]["experts"].values()) == 2


def test_what_was_looked_at_and_changed_is_written(saved):
    state = load_stage(saved, stage(3))[1]
    state["eproj"]["experts"]["task-1"]["w"][3] += 1
    save_stage(saved, stage(4), trainable={}, start={}, state=state, log=[])
    assert "eproj/experts/task-1/w" in held(saved, 4)
    assert float(load_stage(saved, stage(4))[1]["eproj"]["experts"]["task-1"]["w"][3]) == 2
    assert float(load_stage(saved, stage(3))[1]["eproj"]["experts"]["task-1"]["w"][3]) == 1, "the file is as it was"


def test_a_weight_is_written_once(tmp_path):
    """What is still the start point's, or what is an expert's too, is named instead."""
    start = {name: torch.zeros(BIG) for name in ("base", "expert", "own", "like")}
    expert = {"expert": torch.ones(BIG, dtype=torch.bfloat16)}
    now = {**start, "expert": torch.ones(BIG), "own": torch.full((BIG,), 2.0), "like": torch.ones(BIG)}
    save_stage(tmp_path, stage(1), trainable=now, start=start, state={"eproj": {"experts": {"a": expert}}}, log=[])
    path = stage_folder(tmp_path, 1, "task-1") / "trainable.safetensors"
    assert set(read_tensors(path)[0]) == {"own", "like"}
    loaded, _ = load_stage(tmp_path, stage(1), start=start)
    assert loaded.keys() == now.keys() and all(torch.equal(loaded[name].float(), now[name]) for name in now)
    with pytest.raises(RunFolderError, match="01-task-1 was made with another model: its base was not"):
        load_stage(tmp_path, stage(1), start={**start, "base": torch.ones(BIG)})


def test_an_expert_of_an_earlier_stage_may_be_the_weights_of_a_later(saved):
    state = load_stage(saved, stage(3))[1]
    expert = state["eproj"]["experts"]["task-2"]
    save_stage(saved, stage(4), trainable={"w": expert["w"].clone()}, start={}, state=state, log=[])
    assert not read_tensors(stage_folder(saved, 4, "task-4") / "trainable.safetensors")[0]
    assert torch.equal(load_stage(saved, stage(4))[0]["w"], torch.full((BIG,), 2.0))


def test_saving_a_stage_reads_the_one_before_it_only(saved, monkeypatch):
    """Reading all of them made the 300th stage more expensive than the tenth."""
    read = []
    real = stages.sealed
    monkeypatch.setattr(stages, "sealed", lambda path: read.append(path.parent.name) or real(path))
    save_stage(saved, stage(4), trainable={}, start={}, state=state_after(3), log=[])
    assert len(read) == 1
    assert read[0].startswith("03-")
    with pytest.raises(RunFolderError, match="stage 5 is missing"):
        save_stage(saved, stage(6), trainable={}, start={}, state=state_after(3), log=[])
