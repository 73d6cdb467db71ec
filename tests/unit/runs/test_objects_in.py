"""`evertune.run` with tasks, models and methods as objects."""

from __future__ import annotations

import pytest
from PIL import Image

import evertune
from evertune import Task
from evertune.methods import Method, MethodInfo, Replay
from evertune.models.weights import fingerprint_of
from evertune.runs.inputs import taken
from evertune.runs.progress_bars import ProgressBars
from evertune.service.lifecycle import check
from evertune.service.service import Service, ask_once
from evertune.utils import plugins
from evertune.utils.errors import DataError, RunFolderError, UserError

SETTINGS = ["train.learning_rate=0.01", "train.epochs=2", "train.batch_size=4"]
COLOURS = {"red": "warm", "orange": "warm", "blue": "cold", "navy": "cold", "white": "none", "black": "none"}


class Shift(Method):
    """Changes nothing, and counts."""

    name = "shift"
    about = MethodInfo(title="shift", kind="replay")

    def __init__(self, *, alpha: float = 0.5) -> None:
        self.alpha = alpha


def rows(question, answers):
    return [
        {"image": Image.new("RGB", (8, 8), colour), "instruction": question, "answer": answer}
        for colour, answer in answers.items()
    ]


@pytest.fixture
def tasks():
    tests = [
        {"image": Image.new("RGB", (8, 8), "teal"), "instruction": question, "answer": answer}
        for question, answer in (("Which colour?", "teal"), ("Warm or cold?", "cold"))
    ]
    colours = Task.from_dataset("colours", train=rows("Which colour?", {c: c for c in COLOURS}), test=tests[:1])
    return [colours, Task.from_dataset("warmth", train=rows("Warm or cold?", COLOURS), test=tests[1:])]


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr("evertune.utils.plugins._added", dict(plugins._added))


def run(tasks, out, **more):
    return evertune.run(tasks, out=out, settings=SETTINGS, progress=False, **{"model": "random", **more})


def test_tasks_methods_and_a_model_as_objects(tasks, tmp_path):
    lmm = evertune.load_lmm("random")
    before = {name: value.clone() for name, value in lmm.trainable().items()}
    methods = ["sequential", [Replay(ratio=0.5), Shift(alpha=0.1)]]
    result = run(tasks, tmp_path / "run", model=lmm, methods=methods)
    assert list(result.runs) == ["sequential", "replay+shift"]
    settings = result.runs["replay+shift"].matrix.settings["options"]
    assert (settings["replay"]["ratio"], settings["shift"]) == (0.5, {"alpha": 0.1})
    assert all((value == before[name]).all() for name, value in lmm.trainable().items()), "the model is as before"
    named = run(tasks, tmp_path / "named", methods="sequential")
    assert named.runs["sequential"].matrix.R == result.runs["sequential"].matrix.R
    assert run(tasks, tmp_path / "run", model=lmm, methods=methods).runs.keys() == result.runs.keys(), "at once"


def test_a_run_that_fails_leaves_the_model_as_before(tasks, tmp_path):
    """Else the next run of this program would silently begin from weights that were trained halfway."""
    lmm = evertune.load_lmm("random")
    before = fingerprint_of(lmm.trainable())

    class Fails(evertune.Callback):
        def on_evaluate_begin(self, stage, task):
            if stage == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tasks, tmp_path / "run", model=lmm, callbacks=[Fails()])
    assert (tmp_path / "run" / "stages" / "01-colours").is_dir() and fingerprint_of(lmm.trainable()) == before


def test_the_run_folder_answers_without_the_objects(tasks, tmp_path, monkeypatch):
    folder = run(tasks, tmp_path / "run", methods="replay").folder
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "other"))
    service = Service.open(folder)
    assert [task.name for task in service.tasks] == ["colours", "warmth"]
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8), "red").save(image)
    assert ask_once(service, [image], "Which colour?").answer is not None
    with pytest.raises(UserError, match="the tasks of 'tasks' were passed as Python objects"):
        evertune.run("(tasks)", model="random", out=tmp_path / "again", progress=False)


def test_a_killed_run_resumes_with_the_same_objects_and_refuses_others(tasks, tmp_path):
    whole = run(tasks, tmp_path / "whole", methods="replay").runs["replay"].matrix

    class Stop(evertune.Callback):
        def on_task_begin(self, number, task):
            if number == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tasks, tmp_path / "cut", methods="replay", callbacks=[Stop()])
    assert run(tasks, tmp_path / "cut", methods="replay").runs["replay"].matrix.R == whole.R
    with pytest.raises(RunFolderError, match="holds a run of other data: its task 1 is 'colours'"):
        run(tasks[::-1], tmp_path / "cut", methods="replay")
    with pytest.raises(RunFolderError, match=r"shift.alpha|method|options"):
        run(tasks, tmp_path / "cut", methods=Shift())


def test_args_are_training_settings(tasks, tmp_path):
    result = evertune.run(
        tasks[0], model="random", args={"epochs": 3, "batch_size": 2}, out=tmp_path / "run", progress=False
    )
    assert result.runs["sequential"].matrix.settings["train"]["epochs"] == 3
    training = evertune.Training(epochs=3, batch_size=2)
    again = evertune.run(tasks[0], model="random", args=training, out=tmp_path / "other", progress=False)
    assert again.runs["sequential"].matrix.settings["train"]["batch_size"] == 2


def test_progress_bars_are_shown_unless_it_is_silent(tasks, tmp_path, capsys):
    evertune.run(tasks[0], model="random", settings=SETTINGS, out=tmp_path / "run")
    shown = capsys.readouterr().err
    assert "sequential on colours, seed 0" in shown and "12/12" in shown
    run(tasks[0], tmp_path / "silent")
    assert "it/s" not in capsys.readouterr().err


def test_a_bar_of_encoding_ends_with_the_first_step_or_answer(tasks, capsys):
    bars = ProgressBars()
    bars.on_run_begin("run", training=[4], answers=4)
    bars.on_task_begin(1, tasks[0])
    bars.on_encode(3, 4)
    bars.on_encode(2, 8)  # with what replay adds
    bars.on_encode(8, 8)
    bars.on_evaluate_begin(1, tasks[0])  # the training itself was in the cache
    assert bars._encoding is None
    bars.on_encode(1, 2)
    bars.on_prediction(1, len(tasks[0].test))
    assert bars._encoding is None
    bars.on_evaluate_end(1, tasks[0], 0.0)
    bars.on_run_end(None)
    assert "encode images" in capsys.readouterr().err


def test_warnings_are_logged_once_whatever_the_callbacks(tasks, tmp_path, caplog):
    run(tasks[0], tmp_path / "run", callbacks=[evertune.Callback(), evertune.Callback()])
    assert len([record for record in caplog.records if "optimizer step" in record.message]) == 1


def test_a_stream_takes_a_list(tasks):
    assert evertune.Stream("mine", list(tasks), known=[]).columns == tuple(tasks)
    with pytest.raises(UserError, match="the tasks of a Stream are a list of 1 str; taken is a list of Tasks"):
        evertune.Stream("mine", ["parcel"])


def test_a_rule_of_ones_own_is_needed_only_to_score(tasks, tmp_path, monkeypatch):
    """Another process, which does not have the function, answers questions, and says what it can't do."""
    rows = [{"image": None, "instruction": text, "answer": "yes"} for text in ("one?", "two?", "three?")]
    ruled = Task.from_dataset("ruled", train=rows, score=lambda prediction, answers: prediction == answers[0])
    folder = run(ruled, tmp_path / "run").folder
    monkeypatch.setattr("evertune.utils.plugins._added", {})
    service = Service.open(folder)
    assert ask_once(service, [], "one?").answer is not None
    with pytest.raises(UserError, match=r"unknown score 'lambda'.* One of your own comes with --plugin FILE.py"):
        check(folder)


def test_what_is_left_out_is_noted_in_the_runs_stream_and_not_in_the_callers():
    one, other = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "teal")
    train = [{"image": one, "instruction": f"Which {n}?", "answer": "red"} for n in range(4)]
    train.append({"image": [one, other], "instruction": "Which two?", "answer": "red"})
    test = [{"image": other, "instruction": "Which?", "answer": "teal"}]
    stream = evertune.Stream("mine", [Task.from_dataset("mixed", train=train, test=test)])
    for _ in range(2):
        whole = taken(stream, range(1, 2), model="one-image", skip_invalid=True)
        assert len(whole.skipped) == 1 and len(whole.tasks[0].train) == 4 and len(whole.tasks[0].test) == 1
    with pytest.raises(DataError, match="row 5: the row has 2 images; the model 'one-image' takes exactly 1"):
        taken(stream, range(1, 2), model="one-image", skip_invalid=False)
    assert len(stream.skipped) == 0


def test_a_stream_has_no_task_twice(tasks, tmp_path):
    with pytest.raises(UserError, match="the stream 'tasks'.*colours"):
        run([tasks[0], tasks[0]], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def typed_without_default(self, *, alpha: float):
    self.alpha = alpha


def kept_elsewhere(self, *, alpha: float = 0.5):
    self.a = alpha


def odd(init, **body):
    """A method that can't be run by its name and options."""
    made = {"name": "odd", "about": MethodInfo("odd", "replay"), **body, **({"__init__": init} if init else {})}
    cls = type("Odd", (Method,), {key: value for key, value in made.items() if value is not None})
    return cls(alpha=0.5) if init is typed_without_default else cls()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stream": 3}, r"the stream is an int; taken are .* Example: evertune.run\(\[Task.from_dataset"),
        ({"stream": []}, "the stream is an empty list"),
        ({"stream": Task}, "the stream is the class Task; taken are"),
        ({"stream": ["parcel"]}, "the stream is a list of 1"),
        ({"model": 3}, "the model is an int; taken are a preset's name"),
        ({"methods": 3}, "a method is an int; taken are names"),
        ({"methods": []}, "no methods are passed"),
        ({"methods": ["replai"]}, "unknown method 'replai'; did you mean 'replay'"),
        (
            {"methods": [Replay(ratio=0.1), [Replay(ratio=0.2), "ewc"]]},
            "'replay' is passed twice with other options",
        ),
        ({"args": 3}, "args is an int; taken are evertune.Training"),
        ({"args": {"epoch": 3}}, "train.epoch"),
        ({"callbacks": [print]}, "callbacks is a list of objects that extend evertune.Callback, not"),
        ({"callbacks": evertune.Callback()}, "callbacks is a list of objects that extend evertune.Callback, not"),
        ({"callbacks": [evertune.Callback]}, "callbacks is a list of objects that extend evertune.Callback, not"),
        ({"track": "wand"}, "unknown tracker 'wand'"),
        ({"methods": odd(lambda self, alpha=0.5: None)}, "option 'alpha' is positional; options are keyword-only"),
        ({"methods": odd(lambda self, *, alpha=0.5: None)}, "option 'alpha' has no type; write def __init__"),
        ({"methods": odd(typed_without_default)}, "option 'alpha' has no default"),
        ({"methods": odd(kept_elsewhere)}, "the method Odd keeps no attribute 'alpha'"),
        ({"methods": odd(None, name="report")}, "it can't be called 'report', the folder of a run's report"),
        ({"methods": odd(None, protocol="1")}, "its protocol is '1'; it is the version of the hooks"),
        ({"methods": odd(None, protocol=0)}, "its protocol is 0"),
        ({"methods": "replay+"}, r"method 'replay\+': a name is missing; join names by '\+'"),
        ({"methods": odd(None, name=None)}, "the method Odd has no name: write name = "),
        ({"methods": odd(None, about=MethodInfo("odd", "projection"))}, "kind='projection'; the kinds are baseline"),
    ],
)
def test_wrong_things(tasks, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        evertune.run(**{"stream": tasks, "model": "random", "out": tmp_path / "run", "progress": False, **given})
    assert not (tmp_path / "run").exists()
