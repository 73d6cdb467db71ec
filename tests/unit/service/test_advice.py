"""Advice before learning: what the router foresees against what then happens, and the rule `auto`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from evertune import service
from evertune.cli.main import app
from evertune.methods.base import TaskPreview
from evertune.runs.api import config_of
from evertune.service.auto_method import RATIO, chosen
from evertune.service.service import Service
from evertune.utils.errors import UserError

SETTINGS = ("train.learning_rate=0.01", "train.batch_size=4", "train.min_steps=0")
ANYHOW = service.parsed("gain>=-100")


@pytest.fixture(scope="module")
def data(toy_stream, tasks, tmp_path_factory):
    """One stream file per toy task."""
    whole = yaml.safe_load(toy_stream.read_text())
    place = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(toy_stream.parent, place)
    for entry in whole["tasks"]:
        (place / f"{entry['name']}.yaml").write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
    return [str(place / f"{task.name}.yaml") for task in tasks]


@pytest.fixture(scope="module")
def taught(data, tmp_path_factory):
    """A model of each kind that knows the first two tasks; tests copy it before they change it."""
    made = {}
    for method in ("auto", "ewc"):
        folder = tmp_path_factory.mktemp(method) / "model"
        service.new(folder, model="random", method=method, seed=3, settings=SETTINGS)
        for path in data[:2]:
            service.learn(folder, path, accept_if=ANYHOW)
        made[method] = folder
    return made


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_nothing_is_changed(taught, data):
    for folder in taught.values():
        before = files(folder)
        service.advice(folder, data[2])
        assert files(folder) == before


def routed(folder):
    opened = Service.open(folder)
    (method,) = opened.learner.methods
    for task in opened.tasks:
        opened.learner.features.ensure(task.test)
    return {task.name: method.route(task.test) for task in opened.tasks}


def test_what_is_foreseen_is_what_happens(taught, data, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(taught["auto"], folder)
    found = service.advice(folder, data[2])
    before = routed(folder)
    service.learn(folder, data[2], accept_if=ANYHOW)
    after = routed(folder)
    own = Service.open(folder).learner.expert_of("task-2")
    assert found.foreseen.expert == own
    for name, experts in before.items():
        went = sum(new == own != old for old, new in zip(experts, after[name], strict=True))
        assert found.foreseen.lost[name] == pytest.approx(went / len(experts)), name


def test_the_loss_of_shared_weights_is_unknown(taught, data):
    found = service.advice(taught["ewc"], data[2])
    assert found.foreseen is None and {near.task for near in found.neighbours} == {"task-0", "task-1"}
    assert all(near.forgetting_bound is None for near in found.neighbours)
    assert (found.choice.method, found.choice.replay) == ("replay", RATIO)


def test_with_experts_the_router_bounds_the_loss(taught, data):
    found = service.advice(taught["auto"], data[2])
    for near in found.neighbours:
        if near.forgetting_bound is not None:
            assert near.forgetting_bound == pytest.approx(found.foreseen.lost[near.task] * near.score)
        else:
            assert Service.open(taught["auto"]).learner.expert_of(near.task) == found.foreseen.expert


def test_a_name_that_is_known_is_refused_as_by_learn(taught, data):
    for step in (service.advice, service.learn):
        with pytest.raises(UserError, match="knows a task 'task-0' already"):
            step(taught["auto"], data[0])


def test_the_size_is_that_of_a_stage(taught, data, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(taught["ewc"], folder)
    expected_size = service.advice(folder, data[2]).stored_bytes
    service.learn(folder, data[2], accept_if=ANYHOW)
    (stage,) = (folder / "stages").glob("03-*")
    assert expected_size == pytest.approx(sum(file.stat().st_size for file in stage.iterdir()), rel=0.05)


def test_a_model_that_knows_nothing(data, tmp_path):
    service.new(tmp_path / "model", model="random", settings=SETTINGS)
    found = service.advice(tmp_path / "model", data[0])
    assert found.neighbours == () and found.foreseen.expert == "task-0" and found.foreseen.lost == {}
    assert found.steps == 2 and found.seconds > 0 and found.stored_bytes > 0


def test_auto_is_settled_when_the_model_is_made(taught, tmp_path):
    config = config_of(taught["auto"])
    assert config.method == "eproj"
    assert {"router": "calibrated", "init": "similar", "expand": "when-separable"}.items() <= config.options[
        "eproj"
    ].items()
    service.new(tmp_path / "model", model="random", settings=[*SETTINGS, "eproj.router=cosine"])
    assert config_of(tmp_path / "model").options["eproj"]["router"] == "cosine", "what the user says counts"


def test_one_method_for_life(taught, data):
    before = files(taught["auto"])
    with pytest.raises(UserError, match="was made with eproj, and what that keeps means nothing to ewc"):
        service.learn(taught["auto"], data[2], method="ewc", accept_if=ANYHOW)
    assert files(taught["auto"]) == before


def test_its_own_method_or_auto_are_taken(taught, data, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(taught["ewc"], folder)
    assert service.learn(folder, data[2], method="ewc", accept_if=ANYHOW).stage == 3


def test_the_rule():
    other = TaskPreview("what", {"what": 0.6, "upright": 0.1}, {})
    assert "train expert what further: 60 %" in chosen("eproj", other, task="july", earlier=2).why
    own = replace(other, expert="july")
    assert (
        chosen("eproj", own, task="july", earlier=2).why
        == "an expert of its own, which the router would choose for 30 % of its questions"
    )
    assert chosen("ewc", None, task="july", earlier=0).replay == 0
    assert chosen("ewc", None, task="july", earlier=1).replay == RATIO
    assert chosen("replay+ewc", None, task="july", earlier=2).method == "replay+ewc"


def test_on_the_command_line(taught, data):
    done = CliRunner().invoke(app, ["try", str(taught["ewc"]), data[2]])
    assert done.exit_code == 0, done.output
    assert "task-0" in done.output and "unknown" in done.output and "points lost" in done.output
    done = CliRunner().invoke(app, ["try", str(taught["auto"]), data[2], "--json"])
    content = json.loads(done.stdout)
    assert content["task"] == "task-2" and content["choice"]["method"] == "eproj"
    assert {near["task"] for near in content["neighbours"]} == {"task-0", "task-1"}
