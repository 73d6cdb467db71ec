"""The place fits a method that projects gradients, models with images, mixed precision and LoRA."""

from __future__ import annotations

import pytest
import tiny_trainer as tiny
import torch
from PIL import Image
from transformers import Trainer

from evertune.data.task import Sample
from evertune.integrations.state_file import MID_TASK, read_state
from evertune.integrations.transformers import ContinualCallback
from evertune.methods import Method, MethodInfo

DOTS = []


class Projected(Method):
    """A-GEM in short: a gradient that raises the loss on kept samples loses that part."""

    name = "projected"
    about = MethodInfo(title="", kind="regularization", paper="", formula="", cost="", fails="")

    def setup(self, context):
        super().setup(context)
        self.memory = []

    def after_task(self, task):
        self.memory += [self.context.keep(sample).to_row() for sample in task.train[:6]]

    def after_backward(self, parameters):
        if not self.memory:
            return
        samples = [self.context.kept(Sample.from_row(row, origin="memory")) for row in self.memory]
        reference = torch.autograd.grad(self.context.loss(samples), list(parameters.values()))
        pairs = list(zip(parameters.values(), reference, strict=True))
        dot = sum(float((p.grad * r).sum()) for p, r in pairs)
        DOTS.append(dot)
        self.log("dot", dot)
        if dot < 0:
            square = sum(float((r * r).sum()) for r in reference)
            for p, r in pairs:
                p.grad.sub_(dot / square * r)

    def state_dict(self):
        return {"memory": self.memory}

    def load_state_dict(self, state):
        self.memory = list(state["memory"])


@pytest.mark.slow
def test_a_projected_gradient_is_that_of_the_loop(tmp_path, monkeypatch):
    tiny.comparable(monkeypatch.setattr)
    how = {"accumulation": 3, "clip": 0.05}
    continual = ContinualCallback(Projected(), seed=3)
    theirs, _ = tiny.by_trainer("projected", tmp_path, callback=continual, **how)
    DOTS.clear()
    ours = tiny.by_loop("projected", **how)
    assert min(DOTS) < 0, "something was projected"
    assert tiny.furthest(ours, theirs) < 1e-6
    assert tiny.furthest(ours, tiny.by_loop("sequential", **how)) > 3e-5


@pytest.mark.slow
def test_the_trainer_logs_what_methods_log(tmp_path):
    """Loss terms and values, as means since the last line of the log."""
    continual, model = ContinualCallback(["lwf", Projected()]), tiny.tiny_lm()
    for number in (0, 1):
        DOTS.clear()
        trainer = Trainer(
            model=model, args=tiny.arguments(tmp_path, logging_steps=2), train_dataset=tiny.token_rows(number),
            data_collator=tiny.collate,
        )  # fmt: skip
        continual.attach(trainer, task=str(number)).train()
        lines = [line for line in trainer.state.log_history if "loss" in line]
        assert len(lines) == 2
        if number:
            assert lines[1]["projected/dot"] == pytest.approx(sum(DOTS[2:4]) / 2)
            assert lines[1]["lwf/distillation"] > 0
        else:
            assert not any("/" in name for line in lines for name in line)


@pytest.mark.slow
def test_images_inside_rows(tmp_path, tiny_chat):
    """A collator that prepares PIL images; replayed rows have them too, and they are in the checkpoint."""
    from transformers import AutoModelForImageTextToText

    from evertune.models.compat import processor_of

    folder = tiny_chat("llava")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = processor_of(folder, model.config)

    def collate(rows):
        texts = [f"<image> {row['question']} {row['answer']}" for row in rows]
        inputs = processor(images=[[row["image"]] for row in rows], text=texts, return_tensors="pt", padding=True)
        labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
        labels[:, :-4] = -100
        return {**inputs, "labels": labels}

    continual = ContinualCallback("replay+tir+ewc+lwf", options=tiny.options_for("replay+tir+ewc+lwf"))
    weights = tiny.Recorder()
    for number, colour in enumerate(("red", "blue")):
        rows = [
            {"image": Image.new("RGB", (30, 30), colour), "question": f"{n}?", "answer": f"{colour} {n}"}
            for n in range(4)
        ]
        more = {"remove_unused_columns": False, "save_strategy": "epoch", "learning_rate": 1e-3}
        trainer = Trainer(
            model=model, args=tiny.arguments(tmp_path / colour, **more), train_dataset=rows, data_collator=collate,
            callbacks=[weights],
        )  # fmt: skip
        continual.attach(trainer, task=f"t{number}").train()
    assert len(weights.weights) == 1 + 2, "two rows are replayed: a second batch"
    assert all(torch.isfinite(value).all() for value in weights.weights[-1].values())
    kept = read_state(next((tmp_path / "blue").glob("checkpoint-*")) / MID_TASK).rows
    assert {row["image"].getpixel((0, 0)) for row in kept.values()} == {(255, 0, 0)}


@pytest.mark.slow
def test_mixed_precision_and_lora(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.tiny_lm(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    continual, weights = ContinualCallback("ewc+lwf", options=tiny.options_for("ewc+lwf")), tiny.Recorder()
    for number in (0, 1):
        trainer = Trainer(
            model=model, args=tiny.arguments(tmp_path, bf16=True), train_dataset=tiny.token_rows(number),
            data_collator=tiny.collate, callbacks=[weights],
        )  # fmt: skip
        continual.attach(trainer).train()
    assert continual.tasks == ["task-1", "task-2"]
    importance = continual._saved.states["ewc"]["importance"]
    assert importance and all("lora_" in name and value.dtype == torch.float32 for name, value in importance.items())
    assert any(value.any() for value in importance.values())
    assert all(torch.isfinite(value).all() for value in weights.weights[-1].values())
