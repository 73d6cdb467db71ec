"""The HTTP fuzz campaign in small: hostile requests to both servers, checked as in `scripts/fuzz_http.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import warm

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import fuzz_http  # noqa: E402
from fuzzing.http_requests import Request, Server, http, requests_of  # noqa: E402

from evertune.apps.server.chat import ChatRequest  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """With the world in it, which is made once."""
    folder = tmp_path_factory.mktemp("fuzz-http")
    fuzz_http.built(folder / "world")
    return folder


@pytest.mark.parametrize(("kind", "requests"), [("server", 300), ("playground", 100)])
def test_hostile_requests_to_a_server(place, kind, requests):
    command = [warm.python(), str(SCRIPTS / "fuzz_http.py"), "--out", str(place), "--requests", str(requests)]
    done = subprocess.run([*command, "--only", kind, "--seed", "t"], capture_output=True, text=True, check=False)
    findings = [path.read_text() for path in (place / "findings").glob(f"{kind}*.txt")]
    assert done.returncode == 0, "\n".join([done.stdout[-2000:], done.stderr[-2000:], *findings[:3]])
    count = json.loads((place / "counts.json").read_text())[kind]
    assert count["read"] >= requests and count["200"] > requests / 50, "some reach what is behind the checks"
    assert count["400"] + count.get("404", 0) > requests / 10


@pytest.fixture(scope="module")
def server(place):
    attacked = fuzz_http.Attacked("server", place)
    yield attacked
    attacked.close()


def test_the_checks_see(server):
    """A copy of a file outside, a file written elsewhere, a traceback in the log, too much memory, a late answer."""
    assert server.wrong() == []
    (server.place / "server-own" / "tmp" / "copy").write_bytes(b"x" + fuzz_http.MARKER)
    (server.place / "outside" / "written").touch()
    with server.log.open("a") as log:
        log.write("Traceback (most recent call last)\n  here")
    server.rest -= 10_000
    found = " ".join(server.wrong())
    for words in ("copy is a copy of a file outside", "outside/written", "a traceback in its log", "MB at the peak"):
        assert words in found, words
    server.rest += 10_000
    for path in (server.place / "server-own" / "tmp" / "copy", server.place / "outside" / "written"):
        path.unlink()


def test_a_late_answer_and_one_with_content_of_a_file_outside(server, monkeypatch):
    unfinished = http("POST", "/v1/chat/completions", b"{}")[:-1]
    monkeypatch.setattr(fuzz_http, "SECONDS", 1.0)
    assert server.ask(Request(unfinished))[2] == "late" and server.ask(Request(http("GET", "/health")))[2] == ""
    echoed = http("GET", f"/v1/models/{fuzz_http.MARKER.decode()}")
    monkeypatch.setattr(fuzz_http, "requests_of", lambda *_, **__: [Request(echoed)])
    _, found = fuzz_http.sent(server, 0, "t")
    assert len(found) == 1 and fuzz_http.MARKER.decode() in found[0][1]


@pytest.mark.parametrize("kind", ["server", "playground"])
def test_requests_follow_from_their_number(kind):
    about = Server(("/etc/passwd",), "m", ChatRequest.model_json_schema(), {0: ("image", "textbox"), 3: ("slider",)})
    first = [requests_of(about, kind, seed="s", number=number) for number in range(200)]
    assert first == [requests_of(about, kind, seed="s", number=number) for number in range(200)]
    contents = {request.content for requests in first for request in requests}
    assert len(contents) > 150 and any(b"/etc/passwd" in content for content in contents)
