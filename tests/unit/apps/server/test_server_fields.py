"""Every field of a chat request: honoured, or refused with the error object that clients know; none is ignored."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import openai
import pytest
from serving import client, image_url, message, running, status_of

from evertune.apps.server.command import serve
from evertune.service.service import Service

TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
REFUSED = [
    {"temperature": 0.7},
    {"temperature": True},
    {"top_p": 0.5},
    {"n": 2},
    {"presence_penalty": 0.5},
    {"frequency_penalty": -1},
    {"logit_bias": {"5": 10}},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 3},
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "required"},
    {"tool_choice": "required"},
    {"functions": [TOOL["function"]]},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
    {"modalities": ["text", "audio"]},
    {"audio": {"voice": "alloy", "format": "mp3"}},
    {"prediction": {"type": "content", "content": "red"}},
    {"reasoning_effort": "high"},
    {"verbosity": "low"},
    {"web_search_options": {}},
    {"store": True},
    {"service_tier": "priority"},
    {"stream_options": {"include_usage": True}},
    {"stop": ["a", "b", "c", "d", "e"]},
    {"stop": ""},
    {"extra_body": {"top_k": 5}},
    {"extra_body": {"guided_json": {}}},
]
TAKEN = [
    {"temperature": 0, "top_p": 1, "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0},
    {"logprobs": False, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}},
    {"seed": 7, "user": "me", "metadata": {"a": "b"}, "parallel_tool_calls": True, "store": False},
    {"extra_body": {"temperature": None, "tools": None, "stop": None, "max_tokens": None, "stream": None}},
]


@pytest.fixture(scope="module")
def address(colours):
    with running(serve(colours, port=0, tokens=8)) as url:
        yield url


@pytest.fixture(scope="module")
def sample(colours):
    return Service.open(colours).tasks[0].test[0]


@pytest.fixture
def ask(address, sample):
    def complete(messages=None, **more):
        question = messages or message(sample.instruction, image_url(sample))
        return client(address).chat.completions.create(**{"model": "colours", "messages": question, **more})

    return complete


@pytest.mark.parametrize("fields", REFUSED, ids=json.dumps)
def test_what_cannot_be_honoured_is_refused(ask, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**fields)
    error = caught.value.body
    names = {*fields, *fields.get("extra_body", {})} - {"extra_body"}
    assert error["param"] in names and error["param"] in error["message"]
    assert error["type"] == "invalid_request_error" and error["code"]


@pytest.mark.parametrize("fields", TAKEN, ids=json.dumps)
def test_what_the_reply_satisfies_anyway_is_taken(ask, fields):
    assert ask(**fields).choices[0].message.content == ask().choices[0].message.content


def test_parts_of_messages_are_not_ignored_either(ask, sample):
    def refused(messages, param):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(messages)
        assert caught.value.body["param"] == param

    (turn,) = message(sample.instruction, image_url(sample))
    refused([{**turn, "name": "Ann"}], "messages.0.name")
    refused([{**turn, "role": "tool"}], "messages.0.role")
    text, image = turn["content"]
    other = {**image, "image_url": {**image["image_url"], "detail": "huge"}}
    refused([{**turn, "content": [text, other]}], "messages.0.content.1.image_url.image_url.detail")
    sound = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    refused([{**turn, "content": [text, sound]}], "messages.0.content.1")
    for detail in ("auto", "low", "high"):  # of OpenAI's resolutions; the reply does not depend on it
        whole = {**image, "image_url": {**image["image_url"], "detail": detail}}
        assert ask([{**turn, "content": [text, whole]}]).choices[0].message.content == ask().choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_stop(ask, stream):
    def reply(**more):
        if not stream:
            made = ask(**more)
            return made.choices[0].message.content, made.choices[0].finish_reason, made.usage.completion_tokens
        parts = list(ask(**more, stream=True, stream_options={"include_usage": True}))
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        return text, parts[-2].choices[0].finish_reason, parts[-1].usage.completion_tokens

    whole, _, tokens = reply()
    assert whole == "red" and tokens > 2
    assert reply(stop=["nowhere in it", "d", "ed"]) == ("r", "stop", 3), "up to the token that completed it"
    assert reply(stop="e") == ("r", "stop", 2)
    assert reply(stop=["nowhere in it"]) == reply()
    assert reply(stop="d", max_tokens=1) == ("r", "length", 1), "it was cut off before"


def test_max_tokens_above_the_limit_of_the_server(colours, ask, sample):
    """The server's own limit holds, and the reply says that it was cut off."""
    with running(serve(colours, port=0, tokens=2)) as url:
        for wished in ({"max_tokens": 100}, {"max_completion_tokens": 100}, {}):
            made = client(url).chat.completions.create(
                model="colours", messages=message(sample.instruction, image_url(sample)), **wished
            )
            assert (made.choices[0].finish_reason, made.usage.completion_tokens) == ("length", 2)
    assert ask(max_tokens=100).usage.completion_tokens > 2


def test_models(address):
    here = client(address)
    found = here.models.retrieve("colours")
    assert found.id == "colours" and found == here.models.list().data[0]
    assert abs(found.created - time.time()) < 3600, "when the stage was written"
    with pytest.raises(openai.NotFoundError) as caught:
        here.models.retrieve("other/model")
    assert caught.value.body["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v1/completions", "POST", 404), ("/v1/chat/completions", "GET", 405), ("/", "GET", 404)],
)
def test_other_addresses(address, path, method, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{address}{path}", method=method))
    assert caught.value.code == status
    assert json.loads(caught.value.read())["error"]["message"].startswith(f"{method} {path}: ")


def test_a_failure_of_ours_is_an_error_object_too(colours, sample, monkeypatch):
    server = serve(colours, port=0)
    monkeypatch.setattr("evertune.apps.server.generation.answer_samples", lambda *_, **__: 1 / 0)
    with running(server) as url:
        with pytest.raises(openai.InternalServerError) as caught:
            client(url).chat.completions.create(
                model="colours", messages=message(sample.instruction, image_url(sample))
            )
        assert caught.value.body["message"] == "the server failed: see its log"
        assert status_of(lambda: client(url).chat.completions.create(model="m", messages=[]))[0] == 400
        text = urllib.request.urlopen(f"{url}/metrics").read().decode()
        assert 'evertune_requests_total{status="500"} 1.0' in text
