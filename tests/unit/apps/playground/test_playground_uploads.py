"""What visitors drop on the playground takes few open files and goes again; what they post in error is one log line.

A small page of Gradio's with our queue, access rules and upload route; no model.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest
from serving import running

from evertune.apps.auth import LARGEST_BODY
from evertune.apps.playground import page
from evertune.apps.playground.uploads import Uploads
from evertune.apps.serving import Server, socket_at

PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n'


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    made = page.Page(analytics_enabled=False)
    made.uploads = Uploads(tmp_path)
    with made:
        number, button = gr.Slider(0, 3), gr.Button()
        button.click(lambda value: value, number, number)
        button.click(lambda: 1 / 0, None, number)
    made.queue()
    made._queue.__class__ = page.Events
    return made


@pytest.fixture
def address(made):
    with running(Server(page.mounted(made, token=None, largest=LARGEST_BODY), socket_at("127.0.0.1", 0))) as url:
        httpx.get(f"{url}/config")
        yield url


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def wait_for(done, seconds=10):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def unfinished(address, body):
    """An upload whose end does not come."""
    host, port = address.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 1000}\r\n"
    line.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body)
    return line


@pytest.mark.slow
def test_an_upload_is_one_file(address, tmp_path):
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("../a.png", b"abc")})
    (path,) = sent.json()
    assert [str(path) for path in files_of(tmp_path)] == [path] and httpx.get(f"{address}/gradio_api/file={path}").text
    several = [("files", (f"{number}.png", b"x")) for number in range(3)]
    assert httpx.post(f"{address}/gradio_api/upload", files=several).status_code == 400
    assert httpx.post(f"{address}/gradio_api/upload", files={"other": ("a.png", b"x")}).status_code == 400
    assert httpx.post(f"{address}/gradio_api/upload", content=b"x").status_code == 400
    assert len(files_of(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc shows")
def test_an_upload_that_does_not_end_holds_one_file(address):
    before = len(list(Path("/proc/self/fd").iterdir()))
    lines = [unfinished(address, b"".join(PART % number + b"xx\r\n" for number in range(494))) for _ in range(2)]
    time.sleep(1)
    assert (
        len(list(Path("/proc/self/fd").iterdir())) - before < 10 and httpx.get(f"{address}/config").status_code == 200
    )
    for line in lines:
        line.close()


@pytest.mark.slow
def test_an_upload_that_breaks_off_leaves_no_file(address, tmp_path):
    line = unfinished(address, PART % 1 + b"x" * (3 << 20))
    time.sleep(0.5)
    line.close()
    time.sleep(0.5)
    assert httpx.get(f"{address}/config").status_code == 200 and files_of(tmp_path) == []


@pytest.mark.slow
def test_what_was_dropped_is_deleted_in_time(made, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "HOURLY", 1.5)
    left = tmp_path / "left" / "over"
    left.parent.mkdir()
    left.write_bytes(b"of an upload that broke off")
    with running(Server(page.mounted(made, token=None, largest=LARGEST_BODY), socket_at("127.0.0.1", 0))) as url:
        httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"abc")}).raise_for_status()
        assert len(files_of(tmp_path)) == 2
        wait_for(lambda: list(tmp_path.iterdir()) == [])
        assert httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"abc")}).status_code == 200


def test_only_what_is_old_is_deleted(tmp_path):
    uploads = Uploads(tmp_path)
    for name, age in (("old", 100), ("new", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        for path in (tmp_path / name / "file", tmp_path / name):
            os.utime(path, (time.time() - age,) * 2)
    uploads.delete_old(50)
    assert [path.name for path in files_of(tmp_path)] == ["file"] and (tmp_path / "new" / "file").exists()


@pytest.mark.slow
def test_an_event_that_fails_is_one_line_of_the_log(address, made, monkeypatch, capsys):
    records, keep = [], logging.Handler()
    keep.emit = records.append
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(keep)
    monkeypatch.setattr(made.uploads, "given", lambda path: 1 / 0)
    try:
        for number, data in ((0, ["\x1b]0;x\x07\n"]), (0, []), (0, ["1", "2"]), (1, []), (99, []), (-1, [])):
            body = {"data": data, "fn_index": number, "session_hash": f"s{number}"}
            if httpx.post(f"{address}/gradio_api/queue/join", json=body).status_code == 200:
                with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash=s{number}") as stream:
                    next(line for line in stream.iter_lines() if "process_completed" in line or "unexpected" in line)
        assert httpx.get(f"{address}/gradio_api/file=x").status_code == 500
    finally:
        logger.removeHandler(keep)
    messages = [record.getMessage() for record in records]
    assert 3 <= len(messages) <= 7 and not any("\n" in line or "\x1b" in line for line in messages)
    assert any("ZeroDivisionError: 'division by zero' (" in line for line in messages)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err and not any(record.exc_info for record in records)
