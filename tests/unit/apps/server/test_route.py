"""The router as a proxy: chooses as `ask` does, forwards as it came, says where; what fails behind is a clear error."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from serving import client, image_url, message, running, status_of

from evertune import service
from evertune.apps.route.app import _readdressed
from evertune.apps.route.choosing import Chooser, adapter_names
from evertune.apps.route.command import route
from evertune.apps.route.upstream import LARGEST_REPLY, Upstream
from evertune.apps.server.command import serve
from evertune.methods.base import BASE
from evertune.methods.eproj import EProj
from evertune.service.service import Service
from evertune.utils.errors import UserError

LISTED = ["base-model", "01-task-0", "02-task-1"]


class Stub:
    """An upstream of a test's own; `answer(handler, request)` sends the reply to a chat request."""

    def __init__(self):
        self.seen, self.listed, self.answer, self.headers = [], LISTED, reply, []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                stub.headers.append(dict(self.headers))
                data = stub.listed if isinstance(stub.listed, bytes) else models(stub.listed)
                send(self, 200, data)

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.seen.append(request)
                stub.headers.append(dict(self.headers))
                stub.answer(self, request)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def models(names):
    return json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()


def send(handler, status, body, kind="application/json", **headers):
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(model, text="red"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}


def reply(handler, request):
    """As a server does: whole, or in events."""
    if not request.get("stream"):
        return send(handler, 200, json.dumps(completion(request["model"])).encode())
    return send(handler, 200, b"".join(events(request["model"])), "text/event-stream; charset=utf-8")


def events(model, words=("re", "d")):
    for word in words:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
        yield b": a comment\n\ndata: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def behind(colours):
    """The stub, and the proxy before it; each test sets what the stub does."""
    stub = Stub()
    with running(route(colours, stub.url, port=0, timeout=1.5, waiting=4, key="secret-of-upstream").server) as url:
        yield stub, url
    stub.server.shutdown()


@pytest.fixture
def stub(behind):
    stub, _ = behind
    stub.seen.clear()
    stub.headers.clear()
    stub.listed, stub.answer = LISTED, reply
    return stub


@pytest.fixture
def proxy(behind):
    return behind[1]


@pytest.fixture(scope="module")
def samples(colours):
    return [sample for task in Service.open(colours).tasks for sample in task.test[:2]]


def ask(address, sample, **more):
    question = {"model": "colours", "messages": message(sample.instruction, image_url(sample)), **more}
    return client(address).chat.completions.create(**question)


def test_it_chooses_what_ask_chooses_and_says_so(stub, proxy, colours, samples):
    learner, chosen = Service.open(colours).learner, set()
    for sample in samples:
        expert = learner.ask(sample.images, sample.instruction).expert
        raw = client(proxy).chat.completions.with_raw_response.create(
            model="colours", messages=message(sample.instruction, image_url(sample))
        )
        adapter = {"task-0": "01-task-0", "task-1": "02-task-1"}[expert]
        assert stub.seen[-1]["model"] == adapter
        assert (raw.headers["x-evertune-expert"], raw.headers["x-evertune-adapter"]) == (expert, adapter)
        found = raw.parse()
        assert found.evertune_route == {"expert": expert, "adapter": adapter, "stage": 2}
        assert found.choices[0].message.content == "red"
        chosen.add(expert)
    assert chosen == {"task-0", "task-1"}
    assert stub.headers[-1]["Authorization"] == "Bearer secret-of-upstream"


def test_all_else_is_passed_on_as_it_came(stub, proxy, samples):
    more = {"temperature": 0.7, "seed": 3, "extra_body": {"guided_json": {"a": [1.5, None]}, "top_k": 5}}
    ask(proxy, samples[0], max_tokens=7, **more)
    seen = stub.seen[-1]
    assert (seen["temperature"], seen["seed"], seen["max_tokens"], seen["top_k"]) == (0.7, 3, 7, 5)
    assert seen["guided_json"] == {"a": [1.5, None]}
    assert seen["messages"] == message(samples[0].instruction, image_url(samples[0]))
    text = '{"model": "x", "é": "\\ud83d\\ude00 \\u00e9", "n": 1e3}'.encode()
    assert json.loads(_readdressed(text, "y")) == {**json.loads(text), "model": "y"}


def test_a_stream_is_passed_on_as_it_comes(stub, proxy, samples):
    go_on = threading.Event()

    def slowly(handler, request):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        first, *rest = events(request["model"])
        handler.wfile.write(first)
        handler.wfile.flush()
        go_on.wait(1)
        handler.wfile.write(b"".join(rest))
        handler.close_connection = True

    stub.answer = slowly
    parts = iter(ask(proxy, samples[0], stream=True))
    first = next(parts)
    assert not go_on.is_set() and first.choices[0].delta.content == "re"
    assert first.evertune_route == {"expert": "task-0", "adapter": "01-task-0", "stage": 2}
    go_on.set()
    assert [part.choices[0].delta.content for part in parts] == ["d"]


def test_an_adapter_may_be_named(stub, proxy, samples):
    assert ask(proxy, samples[0], model="colours:expert=task-1").evertune_route["adapter"] == "02-task-1"
    assert [each.id for each in client(proxy).models.list()] == [
        "colours",
        "colours:expert=task-0",
        "colours:expert=task-1",
    ]
    for name in ("colours:1", "colours:base", "01-task-0", "gpt-4o"):
        status, text = status_of(lambda name=name: ask(proxy, samples[0], model=name))
        assert status == 404 and "this server has 'colours', 'colours:expert=task-0'" in text
    assert not stub.seen[1:]


def error(status, body, **headers):
    return lambda handler, _: send(handler, status, body, **headers)


ERRORS = {
    "its own error": (error(400, b'{"error": {"message": "too long", "code": "c", "param": "p"}}'), 400, "too long"),
    "vLLM's form": (error(404, b'{"object": "error", "message": "no such adapter"}'), 404, "no such adapter"),
    "a word": (error(503, b"busy", Retry_After="7"), 503, "busy"),
    "a word in JSON": (error(500, b'{"error": "oops"}'), 500, "oops"),
    "a list": (error(422, b'{"detail": [{"msg": "bad"}]}'), 422, "bad"),
    "a page": (error(500, b"<html>" + b"x" * 5000), 500, "<html>xxx"),
    "its key": (error(401, b"{}"), 502, "refuses the key of this proxy (401): set EVERTUNE_UPSTREAM_KEY"),
    "a redirect": (error(302, b"", Location="http://127.0.0.1:9/"), 502, "a redirect (302), which is not followed"),
    "no JSON": (error(200, b"hello"), 502, "sends no JSON"),
    "a list for an answer": (error(200, b"[]"), 502, "JSON that is no object"),
    "deep JSON": (error(200, b"[" * 100_000), 502, "sends no JSON"),
    "another adapter": (
        lambda handler, _: send(handler, 200, json.dumps(completion("base-model")).encode()),
        502,
        "answered as 'base-model' and not as '01-task-0'",
    ),
    "too much": (
        lambda handler, _: send(handler, 200, b" " * (LARGEST_REPLY + 1)),
        502,
        "sends more than 16 MiB",
    ),
    "half of an answer": (lambda handler, _: half(handler), 502, "failed (RemoteProtocolError"),
    "nothing": (lambda handler, _: hang_up(handler), 502, "failed (RemoteProtocolError"),
    "silence": (lambda *_: time.sleep(4), 504, "does not answer"),
}


def half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    hang_up(handler)


def hang_up(handler):
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.mark.parametrize("what", ERRORS)
def test_what_goes_wrong_behind(what, stub, proxy, samples):
    answer, status, words = ERRORS[what]
    stub.answer = answer
    with pytest.raises(openai.APIStatusError) as caught:
        ask(proxy, samples[0])
    assert caught.value.status_code == status and words in caught.value.body["message"]
    assert len(caught.value.body["message"]) < 1100 and caught.value.body["type"] and caught.value.body["code"]
    if what == "a word":
        assert caught.value.response.headers["retry-after"] == "7"
    stub.answer = reply
    assert ask(proxy, samples[0]).choices, "it goes on"


@pytest.mark.parametrize(
    ("rest", "words"),
    [(hang_up, "failed (RemoteProtocolError"), (lambda _: time.sleep(4), "does not answer")],
    ids=["death", "silence"],
)
def test_a_stream_that_ends_in_the_middle_is_an_error_of_the_client(rest, words, stub, proxy, samples):
    def broken(handler, request):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        first = next(events(request["model"]))
        handler.wfile.write(f"{len(first):x}\r\n".encode() + first + b"\r\n")
        handler.wfile.flush()
        rest(handler)

    stub.answer = broken
    parts = ask(proxy, samples[0], stream=True)
    assert next(parts).choices[0].delta.content == "re"
    with pytest.raises(openai.APIError, match=words.replace("(", r"\(")):
        list(parts)


def test_a_stream_of_another_adapter(stub, proxy, samples):
    stub.answer = lambda handler, _: send(handler, 200, b"".join(events("02-task-1")), "text/event-stream")
    status, text = status_of(lambda: ask(proxy, samples[0], stream=True))
    assert status == 502 and "answered as '02-task-1' and not as '01-task-0'" in text


def test_an_alias_is_no_other_adapter(stub, proxy, samples):
    stub.answer = lambda handler, _: send(handler, 200, json.dumps(completion("01-task-0@2026")).encode())
    assert ask(proxy, samples[0]).model == "01-task-0@2026"


def test_requests_behind_are_bounded(stub, colours, samples):
    go_on = threading.Event()
    stub.answer = lambda handler, request: (go_on.wait(60), reply(handler, request))
    made = route(colours, stub.url, port=0, timeout=60, waiting=2)
    with running(made.server) as url, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, url, samples[0]) for _ in range(2)]
        until = time.monotonic() + 50
        while len(stub.seen) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        status, text = status_of(lambda: ask(url, samples[0]))
        go_on.set()
        assert status == 429 and "ask again" in text
        assert all(each.result().choices for each in waiting)
        assert ask(url, samples[0]).choices


def test_bad_requests_never_reach_the_server_behind(stub, proxy, samples):
    wrong = {
        "must be a data URL": message("what?", "https://example.org/a.png"),
        "not valid base64": message("what?", "data:image/png;base64,***"),
        "has no words": message(" ", image_url(samples[0])),
    }
    for words, messages in wrong.items():
        status, text = status_of(
            lambda messages=messages: client(proxy).chat.completions.create(model="colours", messages=messages)
        )
        assert status == 400 and words in text
    page = urllib.request.Request(f"{proxy}/v1/chat/completions", b"{}", {"Content-Type": "text/plain"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(page)
    assert caught.value.code == 415
    foreign = urllib.request.Request(f"{proxy}/health", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(foreign)
    assert caught.value.code == 403 and not stub.seen


def test_health_and_metrics(stub, proxy, samples):
    ask(proxy, samples[0])
    found = json.loads(urllib.request.urlopen(f"{proxy}/health").read())
    assert (found["status"], found["stage"], found["upstream"]) == ("ok", 2, stub.url)
    assert "evertune_requests_total" in urllib.request.urlopen(f"{proxy}/metrics").read().decode()


def test_before_evertune_serve_each_reply_is_that_of_ask(colours, samples):
    learner = Service.open(colours).learner
    with running(serve(colours, port=0, tokens=8)) as behind:
        made = route(colours, f"{behind}/v1", port=0)
        assert made.names == {
            "task-0": "colours:expert=task-0",
            "task-1": "colours:expert=task-1",
            BASE: "colours:base",
        }
        assert not made.unlisted
        with running(made.server) as url:
            for sample in samples:
                wanted = learner.ask(sample.images, sample.instruction, max_new_tokens=8)
                found = ask(url, sample)
                assert (found.choices[0].message.content, found.evertune_route["expert"]) == (
                    wanted.text,
                    wanted.expert,
                )
                parts = ask(url, sample, stream=True)
                assert "".join(part.choices[0].delta.content or "" for part in parts) == wanted.text


def test_a_new_stage_is_followed(colours, samples, tmp_path):
    folder, stub = shutil.copytree(colours, tmp_path / "colours"), Stub()
    with running(route(folder, stub.url, port=0).server) as url:
        service.rollback(folder, 1)
        assert ask(url, samples[-1]).evertune_route == {"expert": "task-0", "adapter": "01-task-0", "stage": 1}
        service.rollback(folder, 0)
        assert ask(url, samples[-1]).evertune_route == {"expert": BASE, "adapter": "base-model", "stage": 0}


def test_names_of_adapters():
    folders = {"gqa": "01-gqa", "ocr": "02-ocr"}

    def names(*listed, **given):
        return adapter_names(("gqa", "ocr", BASE), listed, folders, given)

    assert names("b", "gqa", "07-ocr") == {"gqa": "gqa", "ocr": "07-ocr", BASE: "b"}
    assert names("m", "m:base", "m:1", "m:expert=gqa") == {"gqa": "m:expert=gqa", "ocr": "02-ocr", BASE: "m:base"}
    assert names("b", gqa="b:mine") == {"gqa": "b:mine", "ocr": "02-ocr", BASE: "b"}
    assert names("x-gqa", "1-gqa-2")["gqa"] == "01-gqa", "another name that contains it is another adapter"


@contextmanager
def listing(listed):
    stub = Stub()
    stub.listed = listed
    yield stub.url
    stub.server.shutdown()


@pytest.mark.parametrize("listed", [b"", b"[]", b'{"data": 3}', b'{"data": ["a"]}', b"<html>"])
def test_a_server_that_lists_nonsense(listed, colours):
    with listing(listed) as url, pytest.raises(UserError, match=r"/v1/models: the server behind .*Start that server"):
        route(colours, url, port=0)


def test_what_can_not_be_started(colours, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="Start that server first"):
        route(colours, "http://127.0.0.1:9", port=0)
    for url in ("127.0.0.1:8000", "ftp://x", "http://", "file:///etc/passwd", "http://me:secret@x"):
        with pytest.raises(UserError, match="is no address"):
            Upstream(url)
    with pytest.raises(UserError, match="set a token in EVERTUNE_TOKEN"):
        route(colours, "http://127.0.0.1:9", port=0, host="0.0.0.0")
    with pytest.raises(UserError, match="give EXPERT=NAME"):
        route(colours, "http://127.0.0.1:9", port=0, adapters=["gqa"])
    with (
        listing(LISTED) as url,
        pytest.raises(UserError, match="--adapter gqa=...: there is no such expert; known: task-0"),
    ):
        route(colours, url, port=0, adapters=["gqa=x"])
    learner = Service.open(colours).learner
    monkeypatch.setattr(EProj, "needs_task_id", lambda _: True)
    with pytest.raises(UserError, match="needs the task of each question"):
        Chooser(learner)
    learner.methods = ()
    with pytest.raises(UserError, match="nothing to route: evertune serve answers"):
        Chooser(learner)
