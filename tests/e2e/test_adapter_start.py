"""A run that begins with a PEFT adapter: its content is part of the run, and its stages are exported."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

import evertune
from evertune.cli.main import app
from evertune.runs.api import open_run
from evertune.tools.export import export
from evertune.utils.errors import RunFolderError, UserError

SETTINGS = ["train.batch_size=4", "dtype=float32"]


@pytest.fixture(scope="module")
def first(tiny_chat, tmp_path_factory):
    """An adapter of random matrices."""
    base = AutoModelForImageTextToText.from_pretrained(tiny_chat("llava"), dtype=torch.float32)
    targets = r"model\.language_model\..*\.(q_proj|o_proj)"
    folder = tmp_path_factory.mktemp("adapter") / "first"
    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def begun(stream, model, adapter, out, mode="continue"):
    settings = [*SETTINGS, f"model.adapter={adapter}", f"model.adapter_mode={mode}"]
    return evertune.run(str(stream), model=str(model), methods="replay", out=out, limit=4, settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["continue", "stack", "merge"])
def test_run_and_export(mode, first, toy_stream, tiny_chat, tmp_path):
    result = begun(toy_stream, tiny_chat("llava"), first, tmp_path / "run", mode)
    assert result.runs["replay"].matrix.finished
    made = export(tmp_path / "run", tmp_path / "whole")
    assert made.apart <= 1e-3 * made.largest
    if mode != "continue":
        with pytest.raises(UserError, match=f"began with an adapter .{mode}.*without --adapters"):
            export(tmp_path / "run", tmp_path / "adapters", adapters=True)
        return
    folders = export(tmp_path / "run", tmp_path / "adapters", adapters=True).adapters
    base = AutoModelForImageTextToText.from_pretrained(tiny_chat("llava"), dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folders[-1]).merge_and_unload().state_dict()
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", dtype=torch.float32).state_dict()
    assert all(torch.allclose(merged[name], value, atol=1e-5) for name, value in whole.items())


@pytest.mark.slow
def test_another_content_is_another_run(first, toy_stream, tiny_chat, tmp_path):
    """Also of a finished run, which is answered without loading the model."""
    adapter = shutil.copytree(first, tmp_path / "first")
    begun(toy_stream, tiny_chat("llava"), adapter, tmp_path / "run")
    assert open_run(tmp_path / "run").lmm.trainable()
    begun(toy_stream, tiny_chat("llava"), adapter, tmp_path / "run")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: 1.1 * value for name, value in weights.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(RunFolderError):
        begun(toy_stream, tiny_chat("llava"), adapter, tmp_path / "run")
    with pytest.raises(RunFolderError, match="was made with another"):
        open_run(tmp_path / "run")


@pytest.mark.slow
def test_the_command(first, toy_stream, tiny_chat, tmp_path):
    options = [
        "--model",
        str(tiny_chat("llava")),
        "--set",
        "dtype=float32",
        "--limit",
        "2",
        "--out",
        str(tmp_path / "r"),
    ]
    done = CliRunner().invoke(app, ["run", str(toy_stream), "--adapter", str(first), *options])
    assert done.exit_code == 0, done.output
    lora = ["--method", "lora", "--out", str(tmp_path / "x")]
    twice = CliRunner().invoke(app, ["run", str(toy_stream), "--adapter", str(first), *options[:-2], *lora])
    assert "LoRA is set twice: by model.adapter=" in str(twice.exception or twice.output)
