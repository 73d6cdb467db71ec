"""`ask` and `plan` on an InstructBLIP: what they say without the library's classes, which take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import evertune
from evertune.files import read_json
from evertune.upkeep.service import Service, asked

HEAVY = ("transformers", "torch._dynamo", "accelerate", "peft", "matplotlib", "scipy", "sympy")
SCRIPT = """
import json, sys
from evertune.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print("imported", json.dumps([name for name in {heavy} if name in sys.modules]))
sys.exit(code)
"""


def said_by(*words):
    """What a command prints, as its JSON, and which of `HEAVY` its process has imported."""
    command = [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *(str(word) for word in words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, _, imported = done.stdout.rpartition("imported ")
    return json.loads(said), json.loads(imported)


@pytest.mark.parametrize("method", ["eproj", "sequential", "lora-router"])
def test_a_question_is_answered_as_by_the_library(stream, mini_blip, tmp_path, method):
    folder = tmp_path / "run"
    settings = ["train.epochs=2", "train.learning_rate=0.01", "dtype=float32"]
    evertune.run(stream, model=str(mini_blip), method=method, out=folder, settings=settings)
    row = json.loads(next((folder / "answers" / "02").glob("*.jsonl")).read_text().splitlines()[0])
    said, imported = said_by("ask", folder, row["image"], row["instruction"])
    expected = asked(Service.open(folder), [row["image"]], row["instruction"]).as_dict()
    assert said["answer"] == expected["answer"] != ""
    assert said["expert"] == expected["expert"]
    assert [name for name, _ in said["ranking"]] == [name for name, _ in expected["ranking"]]
    assert [score for _, score in said["ranking"]] == pytest.approx([score for _, score in expected["ranking"]])
    assert imported == []


def test_a_plan_counts_what_the_library_counts(stream, mini_blip):
    from evertune.lmm import load_lmm

    plans, imported = said_by(
        "plan", stream, "--model", mini_blip, "--method", "sequential,eproj", "--set", "dtype=float32"
    )
    assert imported == []
    library = load_lmm(str(mini_blip), dtype="float32")
    for plan in plans:
        assert plan["all_parameters"] == sum(p.numel() for p in library.module().parameters())
        assert plan["train_seconds"] > 0
    assert plans[0]["trained_parameters"] == sum(p.numel() for p in library.trainable().values())
    assert read_json(mini_blip / "config.json")["model_type"] == "instructblip"
