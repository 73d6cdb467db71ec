"""A running server follows its model: after a rollback or a new stage that one predicts, and no request is lost."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import yaml
from serving import client, image_url, message, running, status_of

from evertune import service
from evertune.apps.server import generation as answering_module
from evertune.apps.server.command import serve
from evertune.apps.server.generation import BatchGenerator
from evertune.service.service import Service, ask_once
from evertune.training.stages import stage_folders
from evertune.utils.errors import RunFolderError
from evertune.utils.locks import alone


@pytest.fixture
def folder(colours, tmp_path):
    return shutil.copytree(colours, tmp_path / "colours")


@pytest.fixture
def address(folder):
    with running(serve(folder, port=0, tokens=8)) as url:
        yield url


@pytest.fixture
def ask(address, colours):
    sample = Service.open(colours).tasks[1].test[0]
    question = {"model": "colours", "messages": message(sample.instruction, image_url(sample))}
    ask = client(address).chat.completions.create

    def complete(**more):
        return ask(**question, **more)

    complete.sample = sample
    complete.raw = lambda **more: client(address).chat.completions.with_raw_response.create(**question, **more)
    return complete


def health(address):
    return json.loads(urllib.request.urlopen(f"{address}/health").read())


def put_back(colours, folder):
    """The second stage again, as if it were being taught: `done.json` last."""
    whole = stage_folders(colours)[1]
    place = folder / "stages" / whole.name
    shutil.copy(colours / "eval_set" / "task-1.json", folder / "eval_set")
    shutil.copytree(whole, place, ignore=lambda *_: ["done.json"])
    shutil.copy(whole / "done.json", place)


def test_each_reply_says_its_stage(ask, address):
    raw = ask.raw()
    assert raw.headers["x-evertune-stage"] == "2"
    reply = raw.parse()
    assert (reply.evertune["stage"], reply.evertune["task"]) == (2, "task-1")
    assert reply.system_fingerprint.startswith("stage-2-")
    assert {part.system_fingerprint for part in ask(stream=True)} == {reply.system_fingerprint}
    found = health(address)
    assert (found["stage"], found["task"], found["system_fingerprint"]) == (2, "task-1", reply.system_fingerprint)


@pytest.mark.slow
def test_a_rollback_and_a_new_stage_are_followed(ask, address, folder, toy_stream):
    before = ask()
    service.rollback(folder, 1)
    wanted = ask_once(Service.open(folder), ask.sample.images, ask.sample.instruction, max_new_tokens=8)
    reply = ask()
    assert reply.evertune["stage"] == 1 and reply.choices[0].message.content == wanted.answer
    assert (reply.evertune["expert"], before.evertune["expert"]) == ("task-0", "task-1")
    entry = yaml.safe_load(toy_stream.read_text())["tasks"][2]
    path = toy_stream.parent / "only-another.yaml"
    path.write_text(yaml.safe_dump({"name": "another", "tasks": [entry]}))
    service.learn(folder, str(path), accept_if=service.parsed("gain>=-100"), settings=["train.min_steps=0"])
    wanted = ask_once(Service.open(folder), ask.sample.images, ask.sample.instruction, max_new_tokens=8)
    reply = ask()
    assert (reply.evertune["stage"], reply.evertune["task"]) == (2, entry["name"])
    assert reply.system_fingerprint != before.system_fingerprint, "another second stage"
    assert reply.choices[0].message.content == wanted.answer
    service.rollback(folder, 0)
    reply = ask()
    assert reply.evertune == {"expert": None, "stage": 0, "task": None}


def test_health_follows_though_nobody_asks(address, folder):
    service.rollback(folder, 1)
    end = time.monotonic() + 10
    while health(address)["stage"] != 1:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_no_request_is_lost(ask, folder, colours):
    """Stages come and go while many ask: each gets a reply, and says a stage that was there."""
    with ThreadPoolExecutor(6) as pool:
        replies = [pool.submit(ask) for _ in range(40)]
        for _ in range(3):
            service.rollback(folder, 1)
            time.sleep(0.1)
            put_back(colours, folder)
            time.sleep(0.1)
        texts = {(found.evertune["stage"], found.choices[0].message.content) for found in (r.result() for r in replies)}
    assert {stage for stage, _ in texts} <= {1, 2} and len(texts) == len({stage for stage, _ in texts})
    assert ask().evertune["stage"] == 2


def test_a_stage_that_may_be_discarded_is_not_served(ask, folder, colours):
    service.rollback(folder, 1)
    assert ask().evertune["stage"] == 1
    with alone(folder):
        put_back(colours, folder)
        assert ask().evertune["stage"] == 1, "it is not accepted yet"
    assert ask().evertune["stage"] == 2


def test_a_stage_that_is_rolled_back_while_it_is_taught_is_left_at_once(ask, folder):
    with alone(folder):
        shutil.rmtree(stage_folders(folder)[1])
        assert ask().evertune["stage"] == 1


def test_a_damaged_stage_is_not_answered_for(ask, address, folder, colours):
    service.rollback(folder, 1)
    put_back(colours, folder)
    weights = stage_folders(folder)[1] / "method.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(openai.InternalServerError) as caught:
        ask()
    assert caught.value.status_code == 503 and "is truncated or was changed" in caught.value.body["message"]
    with pytest.raises(urllib.error.HTTPError) as unhealthy:
        health(address)
    assert unhealthy.value.code == 503
    weights.write_bytes(whole)
    assert ask().evertune["stage"] == 2 and health(address)["status"] == "ok"


def test_another_model_in_the_folder_is_refused(ask, folder):
    shutil.rmtree(folder)
    assert status_of(ask)[0] == 503
    service.new(folder, model="random", method="replay")
    status, error = status_of(ask)
    assert status == 503 and "is another model now: start the server again" in error


def test_a_stage_that_goes_while_it_is_read(folder, monkeypatch):
    """A single question in the batch is asked again of the stage that is left."""
    answers = BatchGenerator(Service.open(folder).learner, batch_size=1, follows=True)
    sample = Service.open(folder).tasks[0].test[0]
    real = answering_module.answer_samples

    def gone(*given, **named):
        monkeypatch.setattr(answering_module, "answer_samples", real)
        service.rollback(folder, 1)
        raise RunFolderError("method.safetensors is missing")

    monkeypatch.setattr(answering_module, "answer_samples", gone)
    image = answering_module.Question([], sample.instruction, 4)
    (reply,) = answers([image])
    assert reply.served.stage == 1
    monkeypatch.setattr(answering_module, "answer_samples", lambda *_, **__: (_ for _ in ()).throw(RunFolderError("x")))
    with pytest.raises(RunFolderError):
        answers([image])
