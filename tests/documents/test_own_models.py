"""The blocks of docs/models.md about loaded models and adapters, with a small checkpoint in place of the hub's."""

from __future__ import annotations

import shlex

import pytest
import torch
from blocks import ROOT, blocks_of
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from evertune.cli.main import app

MARK = "tests/documents/test_own_models.py"
BLOCKS = [block for block in blocks_of(ROOT / "docs" / "models.md") if MARK in block.notes.get("not run", "")]


@pytest.fixture
def small(tiny_chat, tmp_path, monkeypatch):
    """Replaces the names of a page by small things on disk."""
    model = tiny_chat("llava")
    base = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=3, target_modules=r"model\.language_model\..*\.q_proj", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path / "my-lora")
    monkeypatch.chdir(tmp_path)
    names = ("HuggingFaceTB/SmolVLM-256M-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct")

    def made(text, stream):
        for name in names:
            text = text.replace(name, str(model))
        return text.replace("second.yaml", str(stream))

    return made


def test_the_page_has_them():
    assert [block.language for block in BLOCKS] == ["python", "sh", "python"]


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.where)
def test_python(block, small, toy_stream):
    names = {}
    exec(small(block.text, toy_stream), names)
    assert names["lmm"].trainable()


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for b in BLOCKS if b.language == "sh" for line in b.text.splitlines()])
def test_commands(line, small, toy_stream):
    command = [*shlex.split(small(line, toy_stream))[1:], "--limit", "2", "--set", "dtype=float32"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
