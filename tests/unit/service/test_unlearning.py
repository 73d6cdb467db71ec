"""`forget`: with isolated experts the model is the one that was never taught the task; else refused; crash-safe."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors import safe_open
from typer.testing import CliRunner

from evertune import service
from evertune.cli.main import app
from evertune.methods.base import BASE
from evertune.methods.eproj import EProj
from evertune.methods.hide import Hide
from evertune.methods.replay import Replay
from evertune.runs.forgetting import FILE, STAGES
from evertune.service import unlearning
from evertune.service.integrity import examine
from evertune.service.lifecycle import history
from evertune.service.service import Service
from evertune.training.answer_files import read_answers
from evertune.training.states import split_state
from evertune.utils.errors import RunFolderError, UserError

GONE = "task-1"


def teach(folder, toy_stream, number):
    entry = yaml.safe_load(toy_stream.read_text())["tasks"][number]
    path = toy_stream.parent / f"alone-{entry['name']}.yaml"
    path.write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
    service.learn(folder, str(path), accept_if=service.parsed("gain>=-100"), settings=["train.min_steps=0"])
    return folder


@pytest.fixture(scope="module")
def taught(colours, toy_stream, tmp_path_factory):
    """A model of three tasks, and one that was never taught the second; not to be changed."""
    place = tmp_path_factory.mktemp("taught")
    never = shutil.copytree(colours, place / "never")
    service.rollback(never, 1)
    whole = teach(shutil.copytree(colours, place / "whole"), toy_stream, 2)
    return whole, teach(never, toy_stream, 2)


@pytest.fixture
def folder(taught, tmp_path):
    return shutil.copytree(taught[0], tmp_path / "whole")


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".lock" not in p.name}


def states(folder):
    """The methods' state and the weights of each stage."""
    learner = Service.open(folder).learner
    found = []
    for number in range(len(learner.stages) + 1):
        learner.load(number)
        parts = split_state({m.name: m.state_dict() for m in learner.methods})
        weights = {name: p.detach().clone() for name, p in learner.lmm.trainable().items()}
        found.append((parts.fingerprint, weights))
    return found


def predictions(folder, stage, task):
    return [
        (row["id"], row["answer"], row["expert"]) for row in read_answers(folder / f"answers/{stage:02d}/{task}.jsonl")
    ]


def test_the_model_is_the_one_that_was_never_taught_it(taught, folder):
    """Bitwise: experts, keys, weights of every stage; and the row of the other tasks does not change."""
    before = {task: predictions(folder, 3, task) for task in ("task-0", "task-2")}
    done = service.forget(folder, GONE)
    assert (done.stage, done.later) == (2, ("task-2",))
    for (state, weights), (wanted, wanted_weights) in zip(states(folder), states(taught[1]), strict=True):
        assert state == wanted and all(torch.equal(weights[name], wanted_weights[name]) for name in wanted_weights)
    assert [stage.task for stage in Service.open(folder).learner.stages] == ["task-0", "task-2"]
    assert {task: predictions(folder, 2, task) for task in before} == before
    assert [(change.task, change.difference) for change in done.verdict.others] == [("task-0", 0), ("task-2", 0)]


def test_earlier_stages_are_not_copied(folder):
    """Gigabytes of experts are not on the disk twice."""
    first = folder / "stages" / "01-task-0" / "method.safetensors"
    before = first.stat().st_ino
    service.forget(folder, GONE)
    assert (first.stat().st_ino, first.stat().st_nlink) == (before, 1)


def test_nothing_of_it_is_left_in_the_folder(folder, tmp_path):
    kept = {image for task in ("task-0", "task-2") for image in images_of(folder, task)}
    assert images_of(folder, GONE) - kept, "images of its own"
    service.forget(folder, GONE)
    assert examine(folder) == []
    for path, text in content(folder).items():
        assert GONE not in str(path) and (path.name == "ledger.jsonl" or GONE.encode() not in text), path
    for path in (folder / "stages").rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert GONE not in str(list(file.keys()))
    assert {path.name for path in (folder / "eval_set" / "images").iterdir()} == kept


def images_of(folder, task):
    content = json.loads((folder / "eval_set" / f"{task}.json").read_text())
    return {row["image"] for side in ("train", "test") for row in content[side]}


def test_the_log_says_it_and_the_model_learns_on(folder, toy_stream):
    service.forget(folder, GONE)
    events = [(event["event"], event.get("task")) for event in history(folder)]
    assert events == [("stage", "task-0"), ("stage", GONE), ("stage", "task-2"), ("forget", GONE)]
    assert "forgot task-1" in CliRunner().invoke(app, ["log", str(folder)]).stdout
    teach(folder, toy_stream, 1)
    assert [stage.task for stage in Service.open(folder).learner.stages] == ["task-0", "task-2", GONE]
    assert service.rollback(folder, 1) == ["task-2", GONE] and examine(folder) == []


def test_the_last_task_goes_by_a_rollback_whatever_the_method(folder, monkeypatch):
    monkeypatch.setattr(EProj, "forget", lambda *_, **__: pytest.fail("nothing to take out"))
    wanted = states(folder)[:3]
    service.forget(folder, "task-2")
    assert [state for state, _ in states(folder)] == [state for state, _ in wanted]
    assert examine(folder) == [] and not (folder / "eval_set" / "task-2.json").exists()


def test_what_rests_on_it_is_a_refusal_that_changes_nothing(folder, monkeypatch):
    def refused(*_, **__):
        raise UserError("the expert of task-2 began with its weights")

    monkeypatch.setattr(EProj, "forget", refused)
    before = content(folder)
    with pytest.raises(UserError) as caught:
        service.forget(folder, GONE)
    assert "can't forget 'task-1' alone: the expert of task-2 began with its weights. Possible: " in str(caught.value)
    assert f"evertune rollback {folder} --to 1, then evertune learn with the data of task-2 again" in str(caught.value)
    monkeypatch.setattr(EProj, "expert_of", lambda *_: None)
    with pytest.raises(UserError, match="all tasks share the weights"):
        service.forget(folder, GONE)
    assert content(folder) == before


MOMENTS = ("note_forgetting", "_exchange", "_record", "_drop_traces", "retrack", "append_jsonl", "drop_task")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interruption_at_any_moment(moment, taught, folder, monkeypatch):
    """Before the note nothing has changed; after it no command opens the folder until the same one completes it."""
    before = content(folder)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unlearning, moment, killed)
        service.forget(folder, GONE)
    if not (folder / FILE).exists():
        assert {path: text for path, text in content(folder).items() if STAGES not in str(path)} == before
    else:
        for attempt in (
            lambda: Service.open(folder),
            lambda: service.rollback(folder, 0),
            lambda: service.check(folder),
        ):
            with pytest.raises(RunFolderError, match=rf"complete it with evertune forget .* {GONE}"):
                attempt()
        assert [finding.path.name for finding in examine(folder)] == [FILE]
        with pytest.raises(UserError, match="is forgetting 'task-1'"):
            service.forget(folder, "task-0")
    service.forget(folder, GONE)
    assert [state for state, _ in states(folder)] == [state for state, _ in states(taught[1])]
    assert examine(folder) == [] and not (folder / STAGES).exists()
    assert sum(event["event"] == "forget" for event in history(folder)) == 1


def test_between_the_two_names(folder, monkeypatch):
    """Killed when the old stages have gone and the new ones have not come."""
    real = unlearning.Path.rename

    def renamed(path, target):
        if path.name == STAGES:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unlearning.Path, "rename", renamed)
        service.forget(folder, GONE)
    assert not (folder / "stages").exists()
    service.forget(folder, GONE)
    assert examine(folder) == [] and len(Service.open(folder).learner.stages) == 2


def test_a_copy_keeps_it(folder, tmp_path, capsys):
    said = CliRunner().invoke(app, ["forget", str(folder), GONE, "--keep-copy", str(tmp_path / "with"), "--yes"])
    assert said.exit_code == 0, said.output
    assert "has forgotten task-1, which was stage 2" in said.stdout and "task-2 is stage 2 now" in said.stdout
    assert [stage.task for stage in Service.open(tmp_path / "with").learner.stages] == ["task-0", GONE, "task-2"]


def test_what_there_is_not(folder, tmp_path):
    for name in ("task-7", "../task-1", ""):
        with pytest.raises(UserError, match="unknown task"):
            service.forget(folder, name)
    assert CliRunner().invoke(app, ["forget", str(folder), GONE], input="n\n").exit_code == 1
    assert len(Service.open(folder).learner.stages) == 3


def expanded(**options):
    """An `eproj` that has learned a, b and c, without a model."""
    method = EProj(**options)
    method._serves = {"a": "a", "b": "b", "c": "c"}
    method._experts = {name: {"w": torch.ones(1)} for name in "abc"}
    method._importance, method._embeddings = {}, {}
    method._router = type("R", (), {"forget": lambda *_, **__: None})()
    return method


def test_reasons_of_experts():
    states = {"before": {"router": {}}, "after": {"router": {}}}
    shared = expanded(expand="when-separable")
    shared._serves["c"] = "a"
    with pytest.raises(UserError, match="the expert of 'a' has learned c too"):
        shared.forget("a", **states)
    known = expanded()
    known._serves["a"] = BASE
    with pytest.raises(UserError, match="the base model serves it"):
        known.forget("a", **states)
    heirs = expanded(init="similar")
    side = {
        "image": torch.tensor([1.0, 0.0]),
        "instruction": torch.tensor([1.0, 0.0]),
        "answer": torch.tensor([1.0, 0.0]),
    }
    other = {name: torch.tensor([0.0, 1.0]) for name in side}
    heirs._embeddings = {"a": side, "b": other, "c": side}
    with pytest.raises(UserError, match="the expert of b, c began with the weights of that of 'a'"):
        heirs.forget("a", **states)
    heirs.forget("b", **states)
    assert set(heirs._experts) == set(heirs._serves) == set(heirs._embeddings) == {"a", "c"}


def test_methods_that_carry_a_task_on():
    with pytest.raises(UserError, match="'replay' has carried 'a' into the training of later tasks"):
        Replay().forget("a", before={}, after={})
    with pytest.raises(UserError, match="'hide' answers every question with a mixture"):
        Hide().forget("a", before={}, after={})
