"""TRL's SFTTrainer, where trl is installed: its own loss, its own columns, the same callback."""

from __future__ import annotations

import pytest
import tiny_trainer as tiny
import torch

from evertune.integrations.transformers import ContinualCallback

pytest.importorskip("trl", reason="trl is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["ewc", "replay+tir+ewc+lwf"])
def test_sft_trainer_learns_two_tasks(spec, tmp_path, tiny_chat):
    from datasets import Dataset
    from tiny_chat import tokenizer
    from trl import SFTConfig, SFTTrainer

    text = tokenizer()
    continual = ContinualCallback(spec, options=tiny.options_for(spec), seed=3)
    weights = {}
    for kind in ("plain", "continual"):
        model, recorder = tiny.tiny_lm(vocab_size=len(text)), tiny.Recorder()
        for number in (0, 1):
            rows = [{"prompt": f"{'ab'[number]}{n}?", "completion": f" {n * 7}"} for n in range(12)]
            config = SFTConfig(
                output_dir=str(tmp_path / kind / str(number)), per_device_train_batch_size=3, num_train_epochs=1,
                gradient_accumulation_steps=2, learning_rate=1e-3, report_to="none", use_cpu=True, bf16=False,
                disable_tqdm=True, eos_token="</s>", pad_token="<pad>", max_grad_norm=0.1,
            )  # fmt: skip
            trainer = SFTTrainer(
                model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=text,
                callbacks=[recorder],
            )  # fmt: skip
            if kind == "continual":
                continual.attach(trainer, task=str(number))
            trainer.train()
        weights[kind] = recorder.weights
    assert tiny.furthest(weights["plain"][:2], weights["continual"][:2]) == 0, "nothing is known before the first task"
    last = [weights[kind][-1] for kind in weights]
    assert max(float((last[0][n] - last[1][n]).abs().max()) for n in last[0]) > 1e-6
    assert all(torch.isfinite(value).all() for value in last[1].values())
    assert continual.tasks == ["0", "1"]
    last = max((tmp_path / "continual" / "1").glob("checkpoint-*"))
    again = ContinualCallback.from_checkpoint(last)
    assert again.tasks == ["0", "1"]
