"""What hostile clients of the chat endpoint can't do: fill memory, hold connections, reach it from another site."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from PIL import Image, ImageFile
from serving import client, message, running, status_of

from evertune.apps.auth import ConnectionLimits, refuse_without_token, same_token
from evertune.apps.playground.command import playground
from evertune.apps.server.app import make_app
from evertune.apps.server.command import serve
from evertune.apps.server.generation import Reply
from evertune.apps.server.names import ServedModels, ServedStage
from evertune.apps.server.requests import Limits
from evertune.apps.serving import Server, socket_at
from evertune.data.images import image_of_bytes, pixels_of_bytes, size_of
from evertune.utils.errors import DataError, UserError


class Answers:
    """An `BatchGenerator` that takes any number of images and answers when `go_on` is set."""

    served, models = ServedStage(), ServedModels()

    def __init__(self):
        self.go_on = threading.Event()

    def __call__(self, questions):
        assert self.go_on.wait(30)
        return [Reply("yes", None, 2, 3) for _ in questions]

    def refuse_number(self, images):
        pass

    def refuse(self, question):
        pass

    def idle(self):
        pass


def served(answers=None, *, connections=None, token=None, **limits):
    if answers is None:
        answers = Answers()
        answers.go_on.set()
    app = make_app(answers, name="m", limits=Limits(**limits), token=token)
    given = {"connections": connections} if connections else {}
    return running(Server(app, socket_at("127.0.0.1", 0), **given))


def png(width, height):
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def url_of(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


@pytest.fixture
def decoded(monkeypatch):
    """Sizes of the images whose pixels were decoded."""
    sizes, load = [], ImageFile.ImageFile.load

    def noted(image):
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    return sizes


def ask(address, model="m", *, words="?", images=()):
    return client(address).chat.completions.create(model=model, messages=message(words, *images))


def test_images_are_counted_before_one_is_decoded(colours, decoded):
    bomb = url_of(png(9400, 9400))
    with running(serve(colours, port=0)) as address:
        status, error = status_of(lambda: ask(address, "colours", images=[bomb] * 14))
    assert status == 400 and "1,237,040,000 pixels together" in error and decoded == []


@pytest.mark.slow
def test_a_model_of_one_image_reads_no_header_of_fourteen(decoded):
    answers = Answers()

    def refuse_number(images):
        if images != 1:
            raise DataError(f"{images} images")

    answers.refuse_number = refuse_number
    with served(answers) as address:
        status, error = status_of(lambda: ask(address, images=["data:image/png;base64,no image"] * 14))
    assert status == 400 and error == "14 images" and decoded == []


@pytest.mark.slow
def test_the_size_of_a_bomb_is_not_measured_by_decoding_it(tmp_path, decoded):
    (tmp_path / "bomb.png").write_bytes(png(9500, 9500))
    with pytest.raises(DataError, match="9500 x 9500 pixels"):
        size_of(tmp_path / "bomb.png", origin="here")
    assert decoded == []


@pytest.mark.slow
def test_pixels_of_a_request_are_counted_before_one_is_decoded(decoded):
    with served() as address:
        status, error = status_of(lambda: ask(address, images=[url_of(png(9400, 9400))]))
        assert status == 400 and "88,360,000 pixels" in error and "at most 25,000,000" in error
        status, error = status_of(lambda: ask(address, images=[url_of(png(4000, 4000))] * 2))
        assert status == 400 and "32,000,000 pixels together" in error and decoded == []
        assert ask(address, images=[url_of(png(4000, 4000))]).choices[0].message.content == "yes"


@pytest.mark.slow
def test_pixels_of_all_questions_are_bounded():
    answers, taken = Answers(), []
    answers.refuse = taken.append
    large = url_of(png(4900, 4900))
    with served(answers) as address, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, address, images=[large]) for _ in range(2)]
        until = time.monotonic() + 20
        while len(taken) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert status_of_third(address, large) == 429
        answers.go_on.set()
        assert [each.result().choices[0].message.content for each in waiting] == ["yes", "yes"]
        assert ask(address, images=[large]).choices[0].message.content == "yes", "what was answered is given back"


def status_of_third(address, image):
    """Of a request that is not answered within a second: None."""
    body = json.dumps({"model": "m", "messages": message("?", image)})
    host = address.removeprefix("http://")
    line = http.client.HTTPConnection(host, timeout=1)
    try:
        line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        return line.getresponse().status
    except TimeoutError:
        return None
    finally:
        line.close()


def test_bodies_of_all_requests_are_bounded():
    with served(all_bodies=100_000) as address:
        line = begun(address, 99_000)
        line.sendall(b" " * 98_000)
        deadline = time.monotonic() + 10
        while status_of_third(address, "A" * 5_000) != 429:
            assert time.monotonic() < deadline
        line.close()
        while status_of_third(address, "A" * 5_000) != 400:
            assert time.monotonic() < deadline, "what a client that went away held is given back"


def test_small_values_without_end_are_refused():
    body = {"model": "m", "messages": message("?"), "metadata": {"a": [[]] * 60_000}}
    with served() as address:
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
    assert caught.value.code == 400 and "50,000 values" in json.load(caught.value)["error"]["message"]


@pytest.mark.parametrize("where", ["field", "model", "type", "part", "path"])
def test_an_error_repeats_little_of_the_request(where):
    """A client that does not read them would make the server hold hundreds of long replies."""
    long, turn = "x" * 200_000, {"role": "user", "content": "?"}
    if where == "type":
        turn["content"] = [{"type": long}]
    if where == "part":
        turn[long] = 1
    body = {"model": long if where == "model" else "m", "messages": [turn]} | ({long: 1} if where == "field" else {})
    with served() as address:
        if where == "path":
            request = urllib.request.Request(f"{address}/v1/{long[:60_000]}")
        else:
            request = urllib.request.Request(
                f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        reply = caught.value.read()
    assert caught.value.code in (400, 404) and len(reply) < 2_500 and "xxx" in json.loads(reply)["error"]["message"]


@pytest.mark.slow
def test_long_stops_are_refused():
    """Questions that wait hold them, and no reply is as long."""
    taken = client_stops(["x" * 1000] * 4)
    assert taken == (200, "yes")
    status, said = client_stops(["no", "x" * 1001])
    assert status == 400 and "1,000 characters" in said


def client_stops(stops):
    """The status and the text of a reply to a question with these stops."""
    with served() as address:
        request = {"model": "m", "messages": message("?"), "stop": stops}
        try:
            return 200, client(address).chat.completions.create(**request).choices[0].message.content
        except openai.APIStatusError as problem:
            return problem.status_code, problem.body["message"]


@pytest.mark.slow
def test_an_over_long_question_is_refused_before_its_tokens_are_counted():
    answers = Answers()
    answers.refuse = lambda question: pytest.fail("its tokens are counted")
    with served(answers) as address:
        status, error = status_of(lambda: ask(address, words="long " * 400_000))
    assert status == 400 and "1,048,576 characters" in error


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""])
@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/chat/completions"])
def test_names_of_other_sites_are_not_answered_to(host, path):
    with served() as address:
        line = http.client.HTTPConnection(address.removeprefix("http://"))
        line.request("GET", path, headers={"Host": host})
        reply = line.getresponse()
        assert reply.status == 403 and json.load(reply)["error"]["code"] == "foreign_host"


@pytest.mark.slow
def test_this_machine_has_several_names_and_a_token_opens_to_any():
    with served() as address:
        port = address.rsplit(":", 1)[1]
        for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "[::1]"):
            assert urllib.request.urlopen(urllib.request.Request(f"{address}/health", headers={"Host": host})).status
    with served(token="secret") as address:
        headers = {"Host": "model.example", "Authorization": "Bearer secret"}
        assert urllib.request.urlopen(urllib.request.Request(f"{address}/v1/models", headers=headers)).status == 200


@pytest.mark.parametrize("token", ["", " "])
def test_an_empty_token_is_refused(token, tmp_path):
    """`--token "$UNSET"` would switch off the token and the check of names."""
    for begin in (lambda **how: serve(tmp_path, **how), lambda **how: playground([tmp_path], **how)):
        with pytest.raises(UserError, match="the token is empty"):
            begin(port=0, token=token)


def test_a_token_that_others_can_guess_is_refused(tmp_path):
    for begin in (lambda **how: serve(tmp_path, **how), lambda **how: playground([tmp_path], **how)):
        with pytest.raises(UserError, match="at least 16 random"):
            begin(host="0.0.0.0", port=0, token="fifteen letters")
    refuse_without_token("0.0.0.0", "sixteen letters.")
    refuse_without_token("127.0.0.1", "short")


def test_an_empty_token_lets_nobody_in():
    assert not same_token("", "")
    with served(token="") as address:
        for path, host, status in (("/v1/models", "127.0.0.1", 401), ("/health", "evil.example", 403)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(address + path, headers={"Host": host}))
            assert caught.value.code == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("token", [None, "secret"])
def test_what_a_page_may_post_without_asking_is_refused(kind, token):
    body = json.dumps({"model": "m", "messages": message("?")}).encode()
    headers = {"Content-Type": kind, "Origin": "https://evil.example", "Authorization": "Bearer secret"}
    with served(token=token) as address:
        request = urllib.request.Request(f"{address}/v1/chat/completions", body, headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 415
        preflight = urllib.request.Request(f"{address}/v1/chat/completions", method="OPTIONS", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(preflight)
        assert "Access-Control-Allow-Origin" not in caught.value.headers, "no permission when a browser asks for it"
        headers["Content-Type"] = "application/json; charset=utf-8"
        assert urllib.request.urlopen(urllib.request.Request(request.full_url, body, headers)).status == 200


def begun(address, length=1000):
    """A connection that has sent the headers of a request."""
    host, port = address.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    line.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % length)
    return line


def opened(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def drip(line, part, seconds):
    """Send `part` again and again; the seconds until the other side has closed."""
    start = time.monotonic()
    line.settimeout(0.1)
    while time.monotonic() - start < seconds:
        try:
            line.sendall(part)
            if line.recv(1000) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"GET /heal"])
@pytest.mark.parametrize("dripping", [False, True])
def test_headers_that_never_end_are_closed(first, dripping):
    with served(connections=ConnectionLimits(header=0.5)) as address:
        line = opened(address)
        line.sendall(first)
        assert drip(line, b"X-A: b\r\n" if dripping and first.endswith(b"\n") else b"", 8) < 4
        assert ask(address).choices[0].message.content == "yes"


@pytest.mark.slow
@pytest.mark.parametrize("part", [b"", b" "])
def test_bodies_that_never_end_are_closed(part):
    with served(connections=ConnectionLimits(body=0.5)) as address:
        assert drip(begun(address), part, 8) < 4
        assert ask(address).choices[0].message.content == "yes"


@pytest.mark.slow
def test_an_answer_may_take_longer_than_its_question():
    answers = Answers()
    with served(answers, connections=ConnectionLimits(header=0.3, body=0.3)) as address, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, address)
        time.sleep(1.5)
        answers.go_on.set()
        assert reply.result().choices[0].message.content == "yes"


def test_headers_without_end_are_not_kept():
    with served() as address:
        line = opened(address)
        line.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sent = 0
        with pytest.raises(OSError):
            while sent < 50 << 20:
                line.sendall(b"X-A: " + b"b" * 8000 + b"\r\n")
                sent += 8000
        assert sent < 20 << 20


@pytest.mark.slow
def test_too_many_silent_connections_lock_nobody_out():
    with served(connections=ConnectionLimits(most=8)) as address:
        silent = [opened(address) for _ in range(50)]
        assert ask(address).choices[0].message.content == "yes"
        closed = 0
        for line in silent:
            line.settimeout(0.05)
            try:
                closed += line.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                closed += 1
            line.close()
        assert closed >= 40


def test_an_icon_is_refused_undecoded(decoded):
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16)).save(buffer, "ICO")
    for read in (image_of_bytes, pixels_of_bytes):
        with pytest.raises(DataError, match="no known format"):
            read(buffer.getvalue(), where="here")
    assert decoded == []


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_conversion_in_bands_is_that_of_the_whole(mode):
    draw = np.random.default_rng(1)
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 1 << 16, (700, 60), dtype=np.uint16))
        whole = np.round(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        wanted = Image.fromarray(whole).convert("RGB")
    else:
        image = Image.fromarray(draw.integers(0, 256, (700, 60, 4), dtype=np.uint8)).convert(
            "RGBA" if mode == "P" else mode
        )
        image = image.quantize(32) if mode == "P" else image
        assert image.has_transparency_data
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if mode != "I;16":
        layer = Image.open(buffer).convert("RGBA")
        wanted = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert image_of_bytes(buffer.getvalue(), where="here")[0].tobytes() == wanted.tobytes()
