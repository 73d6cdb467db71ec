"""`evertune.Learner`: the model that remembers, for a program."""

from __future__ import annotations

import io
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image

import evertune
from evertune import Task, Training
from evertune.methods import Replay
from evertune.service.lifecycle import check, complete, history
from evertune.service.service import Service, ask_once
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.locks import alone
from tests.unit.runs.test_objects_in import COLOURS, rows

QUICK = Training(epochs=2, learning_rate=0.01, batch_size=4)


@pytest.fixture(scope="module")
def lmm():
    return evertune.load_lmm("random")


@pytest.fixture
def task():
    return Task.from_dataset("colours", train=rows("Which colour?", {c: c for c in COLOURS}), test_share=0.3)


@pytest.fixture
def warmth():
    return Task.from_dataset("warmth", train=rows("Warm or cold?", COLOURS), test_share=0.3)


def learner(lmm, folder=None, methods="replay", **more):
    return evertune.Learner(lmm, methods, folder=folder, training=QUICK, progress=False, **more)


def test_learn_evaluate_ask_and_again_from_the_folder(lmm, task, warmth, tmp_path):
    one = learner(lmm, str(tmp_path / "model"), [Replay(ratio=0.5), "ewc"])
    one.learn(task)
    assert one.learn(warmth).number == 2
    scored = one.evaluate(task)
    assert (scored.n, scored.rule) == (len(task.test), "exact") and 0 <= scored.strict <= scored.relaxed <= 100
    image = Image.new("RGB", (8, 8), "red")
    content = io.BytesIO()
    image.save(content, "PNG")
    image.save(tmp_path / "red.png")
    given = [image, content.getvalue(), tmp_path / "red.png", str(tmp_path / "red.png"), np.asarray(image), [image]]
    assert len({one.ask(each, "Which colour?").text for each in given}) == 1
    again = evertune.Learner.from_run(str(tmp_path / "model"), progress=False)
    assert [stage.task for stage in again.stages] == ["colours", "warmth"]
    assert [method.name for method in again.methods] == ["replay", "ewc"] and again.methods[0].ratio == 0.5
    assert again.evaluate(task) == scored
    assert again.ask(image, "Which colour?").text == one.ask(image, "Which colour?").text


def test_the_commands_open_its_folder(lmm, task, tmp_path):
    learner(lmm, tmp_path / "model").learn(task)
    service = Service.open(tmp_path / "model")
    assert [known.name for known in service.tasks] == ["colours"]
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    assert ask_once(service, [tmp_path / "red.png"], "Which colour?").answer is not None
    assert history(tmp_path / "model")[-1]["task"] == "colours"
    assert check(tmp_path / "model")


def test_one_process_at_a_time_writes_and_the_matrix_is_not_outdated(lmm, task, warmth, tmp_path):
    one = learner(lmm, tmp_path / "model")
    one.learn(task)
    complete(tmp_path / "model")
    assert (tmp_path / "model" / "matrix.json").exists()
    with alone(tmp_path / "model"), pytest.raises(RunFolderError, match="is in use by"):
        one.learn(warmth)
    with alone(tmp_path / "model"), pytest.raises(RunFolderError, match="is in use by"):
        one.evaluate(task)
    one.learn(warmth)
    assert not (tmp_path / "model" / "matrix.json").exists()


def test_a_second_learner_does_not_overwrite_what_the_first_has_learned(lmm, task, warmth, tmp_path):
    first, second = learner(lmm, tmp_path / "one"), learner(deepcopy(lmm), tmp_path / "one")
    first.learn(task)
    with pytest.raises(RunFolderError, match=r"has other stages than when it was opened.*refresh\(\)"):
        second.learn(warmth)
    second.refresh()
    second.learn(warmth)
    assert [stage.task for stage in evertune.Learner.from_run(tmp_path / "one", progress=False).stages] == [
        task.name,
        warmth.name,
    ]


def test_a_model_that_was_taught_is_no_silent_start(lmm, task, tmp_path, caplog):
    own = deepcopy(lmm)
    vars(own).pop("evertune_last_task", None)
    learner(own, tmp_path / "one").learn(task)
    assert not caplog.records
    learner(own, tmp_path / "two")
    assert "was trained by another Learner (last: colours)" in caplog.text


def test_save_copies_and_a_temporary_folder_goes(lmm, task, tmp_path):
    one = learner(lmm)
    one.learn(task)
    temporary, scored = one.folder, one.evaluate(task)
    assert one.save(str(tmp_path / "kept")) == tmp_path / "kept"
    del one
    assert not temporary.exists()
    assert evertune.Learner.from_run(tmp_path / "kept", progress=False).evaluate(task) == scored
    with pytest.raises(UserError, match="kept exists: choose a new folder"):
        evertune.Learner.from_run(tmp_path / "kept").save(tmp_path / "kept")


def test_it_is_the_learner_of_a_run(lmm, task, warmth, tmp_path):
    """A benchmark is `learn` in a loop: the same row of R."""
    settings = ["train.epochs=2", "train.learning_rate=0.01", "train.batch_size=4"]
    result = evertune.run(
        [task, warmth], model="random", methods="replay", settings=settings, out=tmp_path / "run", progress=False
    )
    one = learner(lmm)
    for each in (task, warmth):
        one.learn(each)
    assert [one.evaluate(each).strict for each in (task, warmth)] == result.runs["replay"].matrix.R[-1]
    other = evertune.Learner.from_run(result.runs["replay"].folder, progress=False)
    assert [other.evaluate(each).strict for each in (task, warmth)] == result.runs["replay"].matrix.R[-1]


def test_bars(lmm, task, capsys):
    one = evertune.Learner(lmm, training=QUICK)
    one.learn(task)
    assert "learn colours: 100%" in capsys.readouterr().err


def test_wrong_things(lmm, task, tmp_path):
    one = learner(lmm, tmp_path / "model")
    with pytest.raises(UserError, match="the task is a str .*: make one of rows"):
        one.learn("parcel")
    with pytest.raises(UserError, match="the image is an int; taken are PIL images"):
        one.ask(3, "Which?")
    with pytest.raises(UserError, match="the instruction is an Image: ask"):
        one.ask("Which?", Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match="the model is a str .*: pass evertune.load_lmm"):
        evertune.Learner("random")
    assert evertune.Learner(lmm, training={"epochs": 3}, progress=False).training.epochs == 3
    with pytest.raises(UserError, match="unknown method 'replai'; did you mean 'replay'"):
        learner(lmm, tmp_path / "other", "replai")
    with pytest.raises(UserError, match="a Learner has one; join several by '\\+'"):
        learner(lmm, tmp_path / "other", "replay,ewc")
    with pytest.raises(RunFolderError, match=r"method=\"replay\"; requested method=\"ewc\""):
        learner(lmm, tmp_path / "model", "ewc")
    with pytest.raises(RunFolderError, match="no run folder"):
        evertune.Learner.from_run(tmp_path / "none")
    assert not (tmp_path / "other").exists()
