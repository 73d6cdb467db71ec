"""The state is in the Trainer's checkpoints: training resumes in the middle of a task, and goes on with the next."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_trainer as tiny
import torch
from PIL import Image
from transformers import Trainer, TrainerCallback

from evertune.integrations.rows import packed, unpacked
from evertune.integrations.state_file import AFTER_TASK, MID_TASK, Recipe, SavedState, read_state, write_state
from evertune.integrations.transformers import ContinualCallback
from evertune.methods import EWC
from evertune.training.states import split_state
from evertune.utils.errors import UserError

SPEC = "replay+tir+ewc+lwf"
SAVING = {"save_strategy": "steps", "save_steps": 2, "train_sampling_strategy": "random", "seed": 7}


class Stop(TrainerCallback):
    """A crash after some step."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def callback():
    return ContinualCallback(SPEC, options=tiny.options_for(SPEC), seed=3)


def trainer_of(model, number, folder, continual, *others, **more):
    trainer = Trainer(
        model=model,
        args=tiny.arguments(folder, **{**SAVING, **more}),
        train_dataset=tiny.token_rows(number),
        data_collator=tiny.collate,
        callbacks=list(others),
    )
    return continual.attach(trainer, task=f"t{number}")


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_task_resumes_and_the_next_begins_from_files(tmp_path):
    whole, model = callback(), tiny.tiny_lm()
    trainer_of(model, 0, tmp_path / "one", whole).train()
    after_first = tiny.copied(model)
    trainer_of(model, 1, tmp_path / "two", whole).train()
    assert whole.tasks == ["t0", "t1"]

    first = tmp_path / "one" / "checkpoint-5"
    assert (first / AFTER_TASK).is_file() and (first / MID_TASK).is_file()
    again = ContinualCallback.from_checkpoint(first)
    assert again.tasks == ["t0"] and [m.name for m in again.methods] == SPEC.split("+")
    resumed = type(model).from_pretrained(first)
    assert equal(tiny.copied(resumed), after_first)
    crashing = trainer_of(resumed, 1, tmp_path / "crashed", again, Stop())
    with pytest.raises(KeyboardInterrupt):
        crashing.train()

    fresh, other = callback(), tiny.tiny_lm(seed=5)
    trainer_of(other, 1, tmp_path / "crashed", fresh).train(resume_from_checkpoint=True)
    assert equal(tiny.copied(other), tiny.copied(model)), "bit-identical to the training that was not interrupted"
    assert fresh.tasks == ["t0", "t1"]
    states = [split_state(c._saved.states).fingerprint for c in (fresh, whole)]
    assert states[0] == states[1]
    assert len(fresh._rows) == 16, "8 rows of each task"


@pytest.mark.slow
def test_what_does_not_fit_a_checkpoint_is_said(tmp_path):
    model = tiny.tiny_lm()
    Trainer(
        model=model, args=tiny.arguments(tmp_path / "bare", **SAVING), train_dataset=tiny.token_rows(0),
        data_collator=tiny.collate,
    ).train()  # fmt: skip
    with pytest.raises(UserError, match="saved without a ContinualCallback"):
        trainer_of(model, 0, tmp_path / "bare", callback()).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match="there is no checkpoint in .*none to resume from"):
        trainer_of(model, 0, tmp_path / "none", callback()).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match="path is None; taken is a path"):
        ContinualCallback.from_checkpoint(None)
    with pytest.raises(UserError, match="folder is an int; taken is a path"):
        callback().save(3)
    with pytest.raises(UserError, match="it is no checkpoint of a Trainer that a ContinualCallback was attached to"):
        ContinualCallback.from_checkpoint(tmp_path / "bare" / "checkpoint-5")
    objects = ContinualCallback(EWC(samples=3))
    trainer_of(model, 0, tmp_path / "ewc", objects).train()
    last = tmp_path / "ewc" / "checkpoint-5"
    assert ContinualCallback.from_checkpoint(last).methods[0].samples == 3
    with pytest.raises(UserError, match="is of the methods ewc, not of lwf"):
        ContinualCallback.from_checkpoint(last, methods="lwf")
    assert ContinualCallback.from_checkpoint(last, methods=EWC(samples=3)).tasks == ["t0"]
    with pytest.raises(UserError, match="while the task 't0' was learned, and the Trainer is attached for 't1'"):
        trainer_of(model, 1, tmp_path / "ewc", objects).train(resume_from_checkpoint=str(last))
    with pytest.warns(UserWarning, match="the weights are not those after the task 't0'"):
        trainer_of(tiny.tiny_lm(seed=9, initializer_range=0.5), 1, tmp_path / "far", objects).train()
    with pytest.raises(UserError, match=r"has the shape \(44, 16\), in the task 't1' it had \(40, 16\)"):
        trainer_of(tiny.tiny_lm(vocab_size=tiny.WORDS + 4), 1, tmp_path / "grown", objects).train()
    frozen = tiny.tiny_lm()
    frozen.lm_head.requires_grad_(False)
    with pytest.raises(UserError, match="trains other parameters than in the task 't1': model.lm_head.weight is not"):
        trainer_of(frozen, 2, tmp_path / "frozen", objects).train()


@pytest.mark.slow
def test_the_best_checkpoint_has_the_state_after_the_task(tmp_path):
    """With `load_best_model_at_end` the next task begins from the best weights, and so do the methods."""
    model, continual = tiny.tiny_lm(), ContinualCallback("ewc", options=tiny.options_for("ewc"))
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = Trainer(
        model=model, args=tiny.arguments(tmp_path, **SAVING, **best, eval_strategy="steps", eval_steps=2),
        train_dataset=tiny.token_rows(0), eval_dataset=tiny.token_rows(0, 4), data_collator=tiny.collate,
    )  # fmt: skip
    continual.attach(trainer, task="t0").train()
    assert [path.parent.name for path in tmp_path.glob(f"*/{AFTER_TASK}")] == ["checkpoint-2"], "the worst, here"
    saved = read_state(tmp_path / "checkpoint-2" / AFTER_TASK)
    assert saved.norms["model.lm_head.weight"] == pytest.approx(float(model.lm_head.weight.norm()), rel=1e-6)


def test_rows_of_all_kinds_are_saved(tmp_path):
    image = Image.new("RGB", (3, 2), "red")
    row = {
        "text": "a", "ids": [1, 2], "nested": [{"type": "image"}, {"n": None}], "bytes": b"\x00\xff",
        "array": np.arange(6, dtype=np.float32).reshape(2, 3), "tensor": torch.ones(2, dtype=torch.bfloat16),
        "images": [image], "weight": 0.5, "flag": True,
    }  # fmt: skip
    state = SavedState(seed=4, recipe=Recipe("ewc", {"ewc": {"strength": 2.0}}), names=["ewc"], rows={"k": row})
    write_state(tmp_path / MID_TASK, state)
    found = read_state(tmp_path / MID_TASK)
    assert (found.seed, found.recipe, found.words, found.task) == (4, state.recipe, None, None)
    back = found.rows["k"]
    assert back["images"][0].tobytes() == image.tobytes() and back["images"][0].size == (3, 2)
    assert np.array_equal(back["array"], row["array"]) and torch.equal(back["tensor"], row["tensor"])
    plain = ("text", "ids", "nested", "bytes", "weight", "flag")
    assert [back[name] for name in plain] == [row[name] for name in plain]
    assert unpacked(packed((1, 2))) == [1, 2]
    with pytest.raises(UserError, match="has a value of type object, which can't be saved"):
        packed({"x": object()})


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\x08" + b"\x00" * 7 + b"{}      "])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / AFTER_TASK).write_bytes(content)
    with pytest.raises(UserError, match=f"{AFTER_TASK}.*(damaged|no JSON)"):
        ContinualCallback.from_checkpoint(tmp_path)


def test_a_newer_file_is_refused(tmp_path, monkeypatch):
    from evertune.integrations import state_file

    monkeypatch.setattr(state_file, "VERSION", 2)
    ContinualCallback("ewc").save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="written by a newer evertune"):
        ContinualCallback.from_checkpoint(tmp_path)
