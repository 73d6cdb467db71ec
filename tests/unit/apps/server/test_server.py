"""The chat endpoint: the official client gets what `ask` says; what is wrong gets a clear error and spoils nothing."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from serving import client, image_url, message, running, status_of

from evertune.apps.server.app import make_app
from evertune.apps.server.batches import Batches, FullError
from evertune.apps.server.command import serve
from evertune.apps.server.generation import Reply
from evertune.apps.server.names import ServedModels, ServedStage
from evertune.apps.server.requests import Limits
from evertune.apps.serving import Server, socket_at
from evertune.data.images import read_image
from evertune.models.features import FeatureStore
from evertune.service.service import Service, ask_once
from evertune.utils.errors import UserError
from evertune.utils.files import cache_folder


@pytest.fixture(scope="module")
def model(colours):
    return colours


@pytest.fixture(scope="module")
def address(model):
    """Where it is served."""
    with running(serve(model, port=0, tokens=8)) as url:
        yield url


class Answers:
    """An `BatchGenerator` of a test's own."""

    served, models = ServedStage(), ServedModels()

    def __init__(self, answer):
        self._answer = answer

    def __call__(self, questions):
        return self._answer(questions)

    def refuse(self, question):
        pass

    def refuse_number(self, images):
        pass

    def idle(self):
        pass


def test_the_official_client_gets_what_ask_says(address, model):
    service, files = Service.open(model), sorted((cache_folder() / "features").rglob("*"))
    here = client(address)
    assert here.models.list().data[0].id == "colours"
    texts = set()
    for task in service.tasks:
        for sample in task.test[:3]:
            wanted = ask_once(service, sample.images, sample.instruction, max_new_tokens=8)
            reply = here.chat.completions.create(
                model="colours", messages=message(sample.instruction, image_url(sample))
            )
            assert reply.choices[0].message.content == wanted.answer and reply.evertune["expert"] == wanted.expert
            texts.add(wanted.answer)
            assert 0 < reply.usage.completion_tokens <= 8
    assert len(texts) > 1, "answers that tell something"
    assert sorted((cache_folder() / "features").rglob("*")) == files, "nothing of a request is written down"


def test_streaming_says_the_same(address, model):
    sample = Service.open(model).tasks[0].test[0]
    question = {"model": "colours", "messages": message(sample.instruction, image_url(sample))}
    whole = client(address).chat.completions.create(**question).choices[0].message.content
    parts = list(
        client(address).chat.completions.create(**question, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == whole
    assert parts[-2].choices[0].finish_reason == "stop" and parts[-1].usage.total_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_prediction_that_was_cut_off_says_so(address, model, stream):
    sample = Service.open(model).tasks[0].test[0]
    question = {"model": "colours", "messages": message(sample.instruction, image_url(sample))}

    def finished(**more):
        if not stream:
            reply = client(address).chat.completions.create(**question, **more)
            return reply.choices[0].finish_reason, reply.usage.completion_tokens
        options = {"stream": True, "stream_options": {"include_usage": True}}
        parts = list(client(address).chat.completions.create(**question, **options, **more))
        return parts[-2].choices[0].finish_reason, parts[-1].usage.completion_tokens

    reason, whole = finished()
    assert reason == "stop" and 1 < whole < 8, "the end token counts, because it was generated"
    assert finished(max_tokens=whole) == ("stop", whole)
    assert finished(max_tokens=whole - 1) == finished(max_completion_tokens=whole - 1) == ("length", whole - 1)
    assert finished(max_tokens=1) == ("length", 1)


@pytest.mark.slow
def test_many_at_once(address, model):
    samples = [sample for task in Service.open(model).tasks for sample in task.test][:12]

    def reply(sample):
        return client(address).chat.completions.create(
            model="colours", messages=message(sample.instruction, image_url(sample))
        )

    alone = [reply(sample).choices[0].message.content for sample in samples]
    with ThreadPoolExecutor(12) as pool:
        assert [each.choices[0].message.content for each in pool.map(reply, samples)] == alone
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    assert 'evertune_requests_total{status="200"}' in text and "evertune_waiting 0.0" in text
    assert json.loads(urllib.request.urlopen(f"{address}/health").read())["status"] == "ok"


def test_what_is_wrong_is_said(address, model):
    sample = Service.open(model).tasks[0].test[0]
    good = image_url(sample)
    broken = "data:image/png;base64," + base64.b64encode(b"no image").decode()

    def ask(messages, **more):
        return lambda: client(address).chat.completions.create(model="colours", messages=messages, **more)

    wrong = {
        "must be a data URL": message("what?", "https://example.org/a.png"),
        "is not valid base64": message("what?", "data:image/png;base64,***"),
        "not an image": message("what?", broken),
        "has no words": message("  ", good),
        "the last message must be the user's": [{"role": "assistant", "content": "yes"}],
    }
    for words, messages in wrong.items():
        status, reply = status_of(ask(messages))
        assert status == 400 and words in reply
    status, reply = status_of(ask(message("what?", good), max_tokens=0))
    assert status == 400 and reply.startswith("max_tokens: ")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", b"{", headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400


def test_a_body_that_is_too_long_and_a_token(model):
    seen = []

    def answering(questions):
        seen.extend(questions)
        return [Reply("yes", None, 2, 3) for _ in questions]

    app = make_app(Answers(answering), name="m", limits=Limits(body=1 << 20), token="secret")
    with running(Server(app, socket_at("127.0.0.1", 0))) as address:
        stranger = client(address)
        for call in (
            lambda: stranger.chat.completions.create(model="m", messages=message("?")),
            lambda: stranger.models.list().data,
            lambda: stranger.models.retrieve("m"),
        ):
            assert status_of(call)[0] == 401
        here = client(address, "secret")
        assert here.chat.completions.create(model="m", messages=message("?")).choices[0].message.content == "yes"
        large = "data:image/png;base64," + "A" * (2 << 20)
        assert status_of(lambda: here.chat.completions.create(model="m", messages=message("?", large)))[0] == 413
    assert len(seen) == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["in the question", "before the answer", "in the answer"])
def test_who_hangs_up_stops_nobody_else(when):
    """The server stays up, whoever waits gets an answer, and the place in the queue is free again."""
    prompt_by_both, go_on = threading.Event(), threading.Event()

    def answering(questions):
        prompt_by_both.set()
        go_on.wait(20)
        return [Reply("a long answer " * 50, None, 2, 3) for _ in questions]

    app = make_app(Answers(answering), name="m", limits=Limits(batch=1, waiting=2))
    with running(Server(app, socket_at("127.0.0.1", 0))) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"model": "m", "stream": True, "messages": message("?")}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        line = socket.create_connection((host, int(port)), timeout=20)
        line.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body))
        line.sendall(body[: len(body) // 2] if when == "in the question" else body)
        if when != "in the question":
            assert prompt_by_both.wait(20)
        if when == "in the answer":
            go_on.set()
            line.recv(20)
        # Reset instead of a polite end.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
        go_on.set()
        for _ in range(3):
            reply = client(address).chat.completions.create(model="m", messages=message("?"))
            assert reply.choices[0].message.content.startswith("a long answer")


def test_the_queue_is_bounded():
    gate, entered = threading.Event(), threading.Event()
    batches = Batches(lambda questions: (entered.set(), gate.wait(20), questions)[2], most=1, waiting=2)
    futures = [batches.ask(0)]
    assert entered.wait(20)
    futures += [batches.ask(number) for number in (1, 2)]
    for _ in range(3):
        with pytest.raises(FullError):
            batches.ask(3)
    gate.set()
    assert [future.result(20) for future in futures] == [0, 1, 2]
    batches.close()


@pytest.mark.slow
def test_beyond_the_queue_is_429():
    go, entered = threading.Event(), threading.Event()

    def answering(questions):
        entered.set()
        go.wait(5)
        return [Reply("yes", None, 2, 3) for _ in questions]

    app = make_app(Answers(answering), name="m", limits=Limits(batch=1, waiting=1))
    with running(Server(app, socket_at("127.0.0.1", 0))) as address, ThreadPoolExecutor(2) as pool:

        def ask():
            return client(address).chat.completions.create(model="m", messages=message("?"))

        first = pool.submit(ask)
        assert entered.wait(20)
        second = pool.submit(ask)
        while json.loads(urllib.request.urlopen(f"{address}/health").read())["waiting"] < 1:
            pass
        status, reply = status_of(ask)
        assert status == 429 and "ask again in a second" in reply
        go.set()
        assert {first.result().choices[0].message.content, second.result().choices[0].message.content} == {"yes"}


def test_one_bad_question_spoils_no_other():
    def answer(questions):
        if "bad" in questions:
            raise UserError("bad")
        return [question.upper() for question in questions]

    gate = threading.Event()
    batches = Batches(lambda questions: (gate.wait(20), answer(questions))[1], most=8, waiting=8)
    futures = {word: batches.ask(word) for word in ("a", "bad", "b", "c")}
    gate.set()
    assert [futures[word].result(20) for word in "abc"] == ["A", "B", "C"]
    with pytest.raises(UserError):
        futures["bad"].result(20)
    batches.close()
    with pytest.raises(FullError):
        batches.ask("late")


def test_images_of_a_request_are_dropped(lmm, tasks, tmp_path):
    sample, features = tasks[0].train[0], FeatureStore(lmm, folder=tmp_path)
    image, sha = read_image(sample.images[0], origin="here")
    with features.held({sha: image}):
        held = features.get([sample])
    assert sample not in features
    features.ensure([sample])
    assert torch.equal(features.get([sample]), held)
    with features.held({sha: image}):
        pass
    assert sample in features, "what was there before stays"


def test_the_limits_of_the_command_are_those_of_the_server(model, monkeypatch):
    made = {}
    monkeypatch.setattr("evertune.apps.server.app.make_app", lambda answering, **named: made.update(named))
    serve(model, port=0, token="secret", batch=3, waiting=5, tokens=7)
    assert (made["limits"], made["token"], made["name"]) == (Limits(batch=3, waiting=5, tokens=7), "secret", "colours")


def test_others_need_a_token_and_a_port_is_taken_once(model):
    with pytest.raises(UserError, match="set a token in EVERTUNE_TOKEN"):
        serve(model, host="0.0.0.0", port=0)
    taken = socket_at("127.0.0.1", 0)
    with pytest.raises(UserError, match="choose another --port"):
        serve(model, port=taken.getsockname()[1])
    taken.close()


def test_a_transparent_image_is_read_as_in_training(address, model):
    sample = Service.open(model).tasks[0].test[0]
    buffer = io.BytesIO()
    Image.open(sample.images[0]).convert("RGBA").save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    plain, layered = (
        client(address).chat.completions.create(model="colours", messages=message(sample.instruction, each))
        for each in (image_url(sample), url)
    )
    assert plain.choices[0].message.content == layered.choices[0].message.content
