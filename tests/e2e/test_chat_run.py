"""A chat LMM through a whole run: the folder holds what trains, asks again, and refuses other options."""

from __future__ import annotations

import pytest
import yaml

import evertune
from evertune.data import load_stream
from evertune.methods import make_methods
from evertune.models import load_lmm
from evertune.runs.api import configure
from evertune.runs.plan.api import plan
from evertune.runs.plan.planner import Plan
from evertune.training.answer_files import read_answers
from evertune.training.learner import Learner
from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_json

SETTINGS = ["train.batch_size=4", "dtype=float32", "model.scope=projection"]


@pytest.fixture(scope="module")
def done(toy_stream, tiny_chat, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    model = str(tiny_chat("qwen2_5_vl"))
    return evertune.run(str(toy_stream), model=model, methods="eproj", out=out, settings=SETTINGS), model


def test_a_run_is_whole_and_says_what_trained(done):
    result, _ = done
    matrix = result.runs["eproj"].matrix
    assert matrix.finished
    assert [len(row) for row in matrix.R] == [3] * 4
    written = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert written["model_options"] == {"scope": "projection"}
    prompts = read_json(result.folder / "provenance.json")["prompts"]
    assert prompts["task-0"] == (
        "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>colour?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_folder_gives_the_same_answers_again(done, toy_stream):
    result, model = done
    lmm = load_lmm(model, dtype="float32", options={"scope": "projection"})
    learner = Learner(lmm, make_methods("eproj"), folder=result.folder, reuse=False)
    assert len(learner.stages) == 3
    for task in load_stream(str(toy_stream)).tasks:
        predictions = [row["answer"] for row in read_answers(result.folder / "answers" / "03" / f"{task.name}.jsonl")]
        assert [answer.text for answer in learner.answers(task)] == predictions


def test_a_model_that_is_here_is_measured(toy_stream, tiny_chat):
    (made,) = plan(configure(str(toy_stream), model=str(tiny_chat("smolvlm")), settings=["dtype=float32"]))
    assert isinstance(made, Plan)
    assert made.train_seconds > 0
    assert 0 < made.trained_parameters < made.all_parameters


def test_other_options_are_another_run(done, toy_stream):
    result, model = done
    with pytest.raises(RunFolderError, match="model_options"):
        evertune.run(
            str(toy_stream),
            model=model,
            methods="eproj",
            out=result.folder,
            settings=["train.batch_size=4", "dtype=float32", "model.scope=lora"],
        )
