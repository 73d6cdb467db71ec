"""Each stage and each expert is a model of its own: same predictions as that stage gives, one base model in memory."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request

import openai
import pytest
import torch
from serving import client, image_url, message, running

from evertune import service
from evertune.apps.server.batches import Batches
from evertune.apps.server.command import serve
from evertune.apps.server.generation import BatchGenerator, Question
from evertune.apps.server.names import LAST, ServedModels, ServedStage, UnknownModelError, Variant
from evertune.data.images import read_image
from evertune.service.service import Service
from evertune.training.learner import Learner
from evertune.training.stages import stage_folders

NAMES = ["colours", "colours:base", "colours:1", "colours:2", "colours:expert=task-0", "colours:expert=task-1"]


@pytest.fixture(scope="module")
def address(colours):
    with running(serve(colours, port=0, tokens=8)) as url:
        yield url


@pytest.fixture(scope="module")
def samples(colours):
    return [sample for task in Service.open(colours).tasks for sample in task.test[:2]]


def ask(address, sample, model, **more):
    create = client(address).chat.completions.create
    return create(model=model, messages=message(sample.instruction, image_url(sample)), **more)


def test_the_list_has_every_stage_and_expert(address):
    found = client(address).models.list().data
    assert [each.id for each in found] == NAMES
    about = [(each.evertune["stage"], each.evertune["task"], each.evertune["expert"]) for each in found]
    last, base, first = (2, "task-1", None), (0, None, None), (1, "task-0", None)
    assert about == [last, base, first, last, (2, "task-1", "task-0"), (2, "task-1", "task-1")]
    assert all(client(address).models.retrieve(name).id == name for name in NAMES)


def test_each_answers_as_its_stage(address, colours, samples):
    learner = Service.open(colours).learner
    texts = set()
    for stage, name in ((0, "colours:base"), (1, "colours:1"), (2, "colours:2"), (2, "colours")):
        learner.load(stage)
        for sample in samples:
            reply = ask(address, sample, name)
            wanted = learner.ask(sample.images, sample.instruction, max_new_tokens=8)
            assert (reply.choices[0].message.content, reply.evertune["expert"]) == (wanted.text, wanted.expert)
            assert (reply.model, reply.evertune["stage"]) == (name, stage)
            assert reply.system_fingerprint.startswith(f"stage-{stage}-")
            texts.add((stage, sample.id, wanted.text))
    assert len({text for stage, _, text in texts if stage == 0} | {text for _, _, text in texts}) > 2


def test_an_expert_answers_whatever_the_router_says(address, colours, samples):
    learner = Service.open(colours).learner
    for expert in ("task-0", "task-1"):
        learner.load(2)
        learner.activate(expert)
        for sample in samples:
            (wanted,) = learner.lmm.generate(
                learner.features.get([sample]), [sample.instruction], max_new_tokens=8, images=[1]
            )
            reply = ask(address, sample, f"colours:expert={expert}")
            assert (reply.choices[0].message.content, reply.evertune["expert"]) == (wanted, expert)
    assert ask(address, samples[0], "colours").evertune["expert"] == "task-0", "the next one is routed again"


@pytest.mark.parametrize(
    "name", ["colours:3", "colours:03", "colours:-1", "colours:../1", "colours:expert=", "base", ""]
)
def test_a_name_that_there_is_not(address, samples, name):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(address, samples[0], name)
    wanted = ", ".join(f"'{each}'" for each in NAMES)
    assert caught.value.body == {
        "message": f"there is no model '{name}' here: this server has {wanted}",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_hundreds_of_stages_are_listed_and_an_error_stays_short():
    stages = {number: ServedStage(number) for number in range(501)}
    there = ServedModels(stages[500], stages, tuple(f"task-{number}" for number in range(500)))
    assert len(there.named("m")) == 1002 and there.find("m:500", "m") == ("m:500", Variant(500))
    with pytest.raises(UnknownModelError) as caught:
        there.find("x" * 5000, "m")
    assert len(str(caught.value)) < 700 and "and 982 more, see /v1/models" in str(caught.value)


def test_a_stage_that_was_rolled_back_is_a_404(colours, samples, tmp_path):
    folder = shutil.copytree(colours, tmp_path / "colours")
    with running(serve(folder, port=0, tokens=8)) as url:
        assert ask(url, samples[0], "colours:2").evertune["stage"] == 2
        service.rollback(folder, 1)
        with pytest.raises(openai.NotFoundError):
            ask(url, samples[0], "colours:2")
        assert ask(url, samples[0], "colours:1").evertune["stage"] == 1
        assert [each.id for each in client(url).models.list()] == [*NAMES[:3], "colours:expert=task-0"]


def test_a_damaged_stage_stops_no_other(colours, samples, tmp_path):
    folder = shutil.copytree(colours, tmp_path / "colours")
    with running(serve(folder, port=0, tokens=8)) as url:
        wanted = ask(url, samples[0], "colours").choices[0].message.content
        weights = stage_folders(folder)[0] / "trainable.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                ask(url, samples[0], "colours:1")
            assert caught.value.status_code == 503 and "is truncated or was changed" in caught.value.body["message"]
            assert ask(url, samples[0], "colours").choices[0].message.content == wanted
            assert json.loads(urllib.request.urlopen(f"{url}/health").read())["stage"] == 2


def test_questions_of_one_model_share_a_batch_and_the_oldest_comes_first():
    gate, entered, seen = threading.Event(), threading.Event(), []

    def answer(questions):
        entered.set()
        gate.wait(20)
        seen.append(questions)
        return questions

    batches = Batches(answer, most=3, waiting=20, key=lambda question: question[0])
    futures = [batches.ask("z0")]
    assert entered.wait(20)
    futures += [batches.ask(question) for question in ("a1", "b1", "a2", "c1", "a3", "b2", "a4")]
    assert len(batches) == 7
    gate.set()
    assert [future.result(20) for future in futures] == ["z0", "a1", "b1", "a2", "c1", "a3", "b2", "a4"]
    batches.close()
    assert seen == [["z0"], ["a1", "a2", "a3"], ["b1", "b2"], ["c1"], ["a4"]]


def test_stages_are_loaded_once_per_batch_and_share_the_base_model(colours, samples, monkeypatch):
    learner = Service.open(colours).learner
    answers, loaded, real = BatchGenerator(learner, batch_size=4, follows=True), [], Learner.load
    monkeypatch.setattr(Learner, "load", lambda self, number: (loaded.append(number), real(self, number)))
    frozen = {name: p.data_ptr() for name, p in learner.lmm.module().named_parameters()}
    image = read_image(samples[0].images[0], origin="here")
    asked = [Question([image], samples[0].instruction, 4, variant=of) for of in (Variant(1), Variant(0), Variant(1))]
    assert [reply.served.stage for reply in answers(asked)] == [1, 0, 1] and loaded == [1, 0]
    (reply,) = answers([Question([image], samples[0].instruction, 4, variant=LAST)])
    assert reply.served.stage == 2 and loaded == [1, 0, 2]
    answers([Question([image], samples[0].instruction, 4, variant=Variant(2))])
    assert loaded == [1, 0, 2], "the same stage"
    assert frozen == {name: p.data_ptr() for name, p in learner.lmm.module().named_parameters()}
    assert all(torch.isfinite(p).all() for p in learner.lmm.trainable().values())
