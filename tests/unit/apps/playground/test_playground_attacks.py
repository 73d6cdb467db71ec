"""The playground against strangers: every event and input of the page is posted what its authors did not mean.

A stock client (httpx) talks to a real server on loopback, so what is assumed of the installed Gradio is checked too.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import shutil
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio import processing_utils, route_utils
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from gradio.queueing import Event
from gradio.server_messages import EstimationMessage
from PIL import Image
from serving import running

from evertune.apps.playground import events, page
from evertune.apps.playground.access import INLINE
from evertune.apps.playground.command import playground
from evertune.apps.playground.model_session import open_runs
from evertune.apps.playground.runs import ExampleQuestions, own_image
from evertune.apps.playground.view_models import answers_of
from evertune.utils.errors import UserError

SECRET = "the words of a file that nobody uploaded"
META = {"_type": "gradio.FileData"}
USUAL = {"image": None, "textbox": "what?", "dropdown": "task-0", "stage": 1, "radio": "strict", "state": None}


class Stranger:
    """A client that posts what it likes."""

    def __init__(self, url):
        self.http = httpx.Client(base_url=url, timeout=20)
        self.config = self.http.get("/config").json()
        stages = {part["id"] for part in self.config["components"] if part["props"].get("elem_id") == "stage"}
        kinds = {part["id"]: part["type"] for part in self.config["components"]}
        self.kinds = kinds | dict.fromkeys(stages, "stage")
        self.events = {event["id"]: event["inputs"] for event in self.config["dependencies"]}
        self.count = 0

    def usual(self, event):
        return [USUAL[self.kinds[part]] for part in self.events[event]]

    def post(self, event, data, *, session=None, event_data=None):
        """The last message of an event, as text."""
        self.count += 1
        session = session or f"s{self.count}"
        body = {"data": data, "fn_index": event, "session_hash": session, "event_data": event_data}
        answer = self.http.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            return answer.text
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line or '"unexpected_error"' in line:
                    return line
        return ""

    def uploads(self):
        """The folder that files are dropped into."""
        dropped = self.http.post("/gradio_api/upload", files={"files": ("a.png", b"x")}).json()[0]
        return Path(dropped).parent.parent

    def named(self, kind):
        """(event, place) of every input of a kind; of all kinds if None."""
        return [
            (event, place)
            for event, parts in self.events.items()
            for place, part in enumerate(parts)
            if kind in (None, self.kinds[part])
        ]


@pytest.fixture(scope="module")
def hostile(taught, tmp_path_factory):
    """A received run."""
    place = tmp_path_factory.mktemp("hostile")
    folder = shutil.copytree(taught / "sequential", place / "received")
    open_runs([folder])  # keeps the questions
    return folder


@pytest.fixture(scope="module")
def stranger(hostile):
    with running(playground([hostile], port=0)) as url:
        yield Stranger(url)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture
def uploaded(stranger):
    """The path of an image that was dropped on the page, as any client drops one."""

    def drop(content, name="a.png"):
        return stranger.http.post("/gradio_api/upload", files={"files": (name, content)}).json()[0]

    return drop


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def written(line):
    """What an event answered, without what differs from call to call."""
    if not line.startswith("data: "):
        return line
    message = json.loads(line[6:])
    return json.dumps([message["msg"], message["success"], *map(message["output"].get, ("data", "error"))])


def values_naming(path):
    """Ways to name a file in a value."""
    whole = {"path": str(path), "meta": META}
    return [
        whole,
        {"path": str(path)},
        {"path": str(path), "meta": META, "is_stream": True},
        {
            "path": str(path),
            "meta": META,
            "url": f"/gradio_api/file={path}",
            "orig_name": "a.png",
            "mime_type": "image/png",
        },
        {"value": whole},
        [whole],
        str(path),
    ]


def copies():
    """Files of the uploads that hold the secret."""
    place = Path(os.environ["GRADIO_TEMP_DIR"])
    small = [path for path in place.rglob("*") if path.is_file() and path.lstat().st_size < 1 << 20]
    return [path for path in small if SECRET in path.read_text(errors="replace")]


def test_a_file_of_the_machine_is_not_copied(stranger, secret):
    (event, place), *_ = stranger.named("image")
    data = stranger.usual(event)
    data[place] = {"path": str(secret), "meta": META}
    stranger.post(event, data, session="thief")
    link = stranger.http.get("/gradio_api/deep_link", params={"session_hash": "thief"})
    assert copies() == [] and str(secret) not in link.text and link.status_code == 404


PLANT = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "folder": os.mkdir,
    "large": lambda path: (path.touch(), os.truncate(path, 20 << 30)),
}


@pytest.mark.parametrize("kind", PLANT)
@pytest.mark.parametrize("where", ["elsewhere", "dropped"])
def test_what_is_no_regular_file_is_not_opened(stranger, tmp_path, kind, where):
    """The page answers at once, and holds no more memory than before."""
    path = (tmp_path if where == "elsewhere" else stranger.uploads()) / kind
    PLANT[kind](path)
    names = [path, Path("/dev/zero")] if (kind, where) == ("device", "elsewhere") else [path]
    (event, place), *_ = stranger.named("image")
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for named in names:
        data = stranger.usual(event)
        data[place] = {"path": str(named), "meta": META}
        replies = stranger.post(event, data)
        wanted = "20,480 MiB; at most 20" if (kind, where) == ("large", "dropped") else "choose it again"
        assert wanted in replies or '"success":false' in replies, replies
        assert stranger.http.get(f"/gradio_api/file={named}").status_code == 404
        assert stranger.http.get("/config").status_code == 200
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "KiB"
    path.rename(tmp_path / "again")


@pytest.mark.slow
def test_every_input_of_every_event_takes_only_what_was_dropped(stranger, secret):
    """Texts, numbers and dropped images: anything else is refused, and alike whether the file exists or not."""
    gone = secret.with_name("gone--.txt")
    places = stranger.named(None)
    assert len(places) > 20 and {stranger.kinds[stranger.events[e][p]] for e, p in places} == set(USUAL), "all known"
    for event, place in places:
        for there, missing in zip(values_naming(secret), values_naming(gone), strict=True):
            replies = []
            for value, path in ((there, secret), (missing, gone)):
                if isinstance(value, str) and stranger.kinds[stranger.events[event][place]] == "textbox":
                    continue  # words
                data = stranger.usual(event)
                data[place] = value
                replies.append(written(stranger.post(event, data)).replace(str(path), "PATH"))
                assert SECRET not in replies[-1]
            assert len(set(replies)) < 2, (event, place, there)
    assert copies() == []


@pytest.mark.thorough
@pytest.mark.slow
def test_every_event_stands_what_is_posted_beside_its_values(stranger, secret):
    """The data of a click, and values of the wrong type: the page never says what is in a file, and stays."""
    hostile = [{"path": str(secret), "meta": META}, [], "x", {"act": {"path": str(secret)}, "place": -1, "task": []},
               {"run": "0", "stage": "9", "task": "0", "act": "pick", "place": "9" * 400}]  # fmt: skip
    for event in stranger.events:
        for value in hostile:
            assert SECRET not in stranger.post(event, stranger.usual(event), event_data=value)
    for event, place in stranger.named(None):
        for value in (-1, 1e308, True, "", "x" * 5000, [], {}, [[]], {"meta": None, "path": "x"}):
            data = stranger.usual(event)
            data[place] = value
            stranger.post(event, data)
    assert stranger.http.get("/config").status_code == 200 and copies() == []


@pytest.mark.slow
def test_nothing_is_fetched_for_a_caller(stranger, monkeypatch):
    """Neither as a value nor as a file: Gradio would."""
    fetched = []
    for name in ("async_ssrf_protected_download", "async_ssrf_protected_get"):
        monkeypatch.setattr(processing_utils, name, lambda *a, **_: fetched.append(a))
    monkeypatch.setattr(route_utils.safehttpx, "async_validate_url", lambda *a, **_: fetched.append(a))
    for event, place in stranger.named(None):
        data = stranger.usual(event)
        data[place] = {"path": "https://example.com/a.png", "meta": META}
        stranger.post(event, data)
    for path in ("file=https://example.com/a.png", "proxy=https://example.com/a.png"):
        assert stranger.http.get(f"/gradio_api/{path}").status_code == 404
    assert fetched == []


def test_an_image_that_was_dropped_is_asked_about_and_given_back(stranger, uploaded):
    path, content = uploaded(png()), png()
    answer = stranger.http.get(f"/gradio_api/file={path}")
    assert answer.content == content and answer.headers["content-type"] == "image/png"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    (event, place), *_ = stranger.named("image")
    data = stranger.usual(event)
    data[place] = {"path": path, "meta": META, "url": f"/gradio_api/file={path}", "orig_name": "a.png", "size": 9}
    replies = stranger.post(event, data)
    assert '"success":true' in replies and "choose it again" not in replies


def test_a_kept_question_is_copied_to_the_page(stranger, hostile):
    pick = next(e["id"] for e in stranger.config["dependencies"] if e["api_name"] == "pick")
    replies = json.loads(stranger.post(pick, [], event_data={"act": "pick", "task": "task-0", "place": "0"})[6:])
    image, words, *_ = replies["output"]["data"]
    content = stranger.http.get(image["url"]).content
    kept = json.loads((hostile / "eval_set" / "task-0.json").read_text())["test"][0]
    assert words == kept["instruction"] and content == (hostile / "eval_set" / "images" / kept["image"]).read_bytes()


SCRIPTS = {
    "page.html": b"<script>document.title = 1</script>",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "page.png": b"<!doctype html><script>document.title = 1</script>",
    "text.txt": b"<script>1</script>",
    "data.json": b'"<script>1</script>"',
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_images_are_given_to_a_browser(stranger, hostile, uploaded, name):
    """Neither what somebody dropped, nor what lies in a received run, whatever it is called."""
    kept = hostile / "eval_set" / "images" / name
    kept.write_bytes(SCRIPTS[name])
    for path in (kept, uploaded(SCRIPTS[name], name)):
        (event, place), *_ = stranger.named("image")
        data = stranger.usual(event)
        data[place] = {"path": str(path), "meta": META}
        stranger.post(event, data)
        for ask in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/file={path}"):
            answer = stranger.http.get(ask)
            kind, policy = answer.headers.get("content-type"), answer.headers["content-security-policy"]
            if answer.status_code == 200:  # to whoever dropped it
                assert path != kept and answer.headers["content-disposition"] == "attachment"
                assert kind == "application/octet-stream" and policy == "default-src 'none'; sandbox"
            else:
                assert answer.status_code == 404 and "script" not in answer.text, (ask, answer.headers)


def test_an_image_that_is_a_page_too_runs_nothing(stranger, uploaded):
    image = io.BytesIO()
    Image.new("P", (1, 1)).save(image, "GIF")
    both = uploaded(image.getvalue() + b"<script>1</script>", "page.html")
    answer = stranger.http.get(f"/gradio_api/file={both}")
    assert answer.headers["content-type"] == "image/gif" and answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("link", ["image", "images", "kept"])
def test_a_received_run_shows_no_image_of_another(taught, tmp_path, link):
    """By a link: its files, its folder of images, or all that it kept."""
    other, run = (shutil.copytree(taught / "sequential", tmp_path / name) for name in ("other", "received"))
    open_runs([other, run])  # keeps the questions
    path = {
        "image": sorted((run / "eval_set" / "images").iterdir())[0],
        "images": run / "eval_set" / "images",
        "kept": run / "eval_set",
    }[link]
    target = other / path.relative_to(run)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    path.symlink_to(target)
    try:
        runs, _ = open_runs([run])
    except UserError:
        return  # refused altogether
    kept = ExampleQuestions(runs)
    offered = [sample.images[0] for task in runs[0].tasks for sample in kept.of(task.name)]
    assert all(image.resolve().is_relative_to(run) for image in offered)
    assert (len(offered) > 0) == (link == "image")
    shown = answers_of(0, runs[0], kept, stage=3, task=0, count=99).rows
    own = [s for s in runs[0].tasks[0].test if own_image(run, s.images[0])]
    assert sum(row.thumbnail is not None for row in shown) == len(own)


def test_answers_show_no_image_that_the_run_does_not_keep(taught, tmp_path):
    run = shutil.copytree(taught / "sequential", tmp_path / "received")
    runs, _ = open_runs([run])
    image = tmp_path / "private.png"
    image.write_bytes(png())
    cell = runs[0].cells[3, "task-0"]
    rows = [json.loads(line) for line in (run / cell["answers"]).read_text().splitlines()]
    rows[0] |= {"id": "of the stranger", "image": str(image)}
    (run / cell["answers"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = answers_of(0, runs[0], ExampleQuestions(runs), stage=3, task=0).rows
    assert shown[0].thumbnail is None and shown[0].image == "private.png" and shown[1].thumbnail


def test_only_what_the_page_asks_for_is_answered(stranger):
    """Of all routes of the installed Gradio."""
    closed = """deep_link proxy=http://x component_server process_recording vibe-edit vibe-code undo-vibe-edit
        vibe-starter-queries run/ask api/ask call/ask call/v2/ask stream/1 custom_component/1/client/a/b
        file//etc/passwd openapi.json app_id token user login_check dev/reload queue/status profiling/traces"""
    for path in closed.split():
        for method in ("GET", "POST"):
            answer = stranger.http.request(method, f"/gradio_api/{path}")
            assert answer.status_code == 404 and answer.text == "There is nothing here.", (method, path)
    for path in ("monitoring", "login", "svelte/a.js", "pwa_icon", "robots.txt", "docs", "static/../config"):
        assert stranger.http.get(f"/{path}").status_code == 404 or path.startswith("static"), path


def test_scripts_of_the_page_are_known_by_their_hashes(stranger):
    answer = stranger.http.get("/")
    parts = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    template = Path(gr.__file__).parent / "templates" / "frontend" / "index.html"
    written = len(INLINE.findall(template.read_bytes()))
    assert "'unsafe-inline'" not in parts["script-src"] and parts["script-src"].count("'sha256-") == written > 1
    for path in ("/config", "/theme.css", "/nothing"):
        policy = stranger.http.get(path).headers["content-security-policy"]
        assert "script-src 'self' 'unsafe-eval';" in policy, path


@pytest.mark.slow
def test_gradio_checks_paths_of_a_page_that_counts_as_launched(tmp_path, monkeypatch):
    """Our own check comes first; this is what the installed Gradio does without it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "secret.txt").write_text(SECRET)
    with gr.Blocks() as page:
        words = gr.Textbox()
        words.submit(lambda text: text, words, words)
    LocalContext.blocks.set(page)
    value = {"path": str(tmp_path / "secret.txt"), "meta": META}
    page.has_launched = True
    with pytest.raises(InvalidPathError):
        processing_utils.move_files_to_cache(value, words, check_in_upload_folder=True)


@pytest.mark.slow
def test_gradio_calls_our_check_before_it_moves_files(tmp_path, monkeypatch):
    """`validate_inputs` comes first in `preprocess_data`, for every event."""
    with gr.Blocks() as page:
        words = gr.Textbox()
        words.submit(lambda text: text, words, words)
    order = []
    monkeypatch.setattr(page, "validate_inputs", lambda *_: order.append("checked"))

    async def moved(value, *_, **__):
        order.append("moved")
        return value

    monkeypatch.setattr(processing_utils, "async_move_files_to_cache", moved)
    asyncio.run(page.preprocess_data(next(iter(page.fns.values())), ["x"], None))
    assert order == ["checked", "moved"]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data; boundary=x"])
def test_a_page_of_another_site_posts_nothing(stranger, kind):
    """A browser sends such a request without asking, and says where it is from."""
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "other"})
    for origin, path in (("https://evil.example", "queue/join"), ("null", "upload"), ("http://localhost:1", "reset")):
        headers = {"Content-Type": kind, "Origin": origin}
        answer = stranger.http.post(f"/gradio_api/{path}", content=body, headers=headers)
        assert answer.status_code == 403 and "another site" in answer.text, (origin, answer.text)
    own = {"Origin": str(stranger.http.base_url).rstrip("/")}
    assert stranger.http.post("/gradio_api/upload", files={"files": ("a.png", png())}, headers=own).status_code == 200


def test_only_images_may_be_large(stranger):
    """A value takes many times its size in memory, and as many requests as may wait hold theirs."""
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "large", "event_data": "x" * (3 << 20)})
    assert stranger.http.post("/gradio_api/queue/join", content=body).status_code == 413
    assert stranger.http.post("/gradio_api/upload", files={"files": ("a.png", b"x" * (3 << 20))}).status_code == 200


@pytest.mark.parametrize("key", ["data", "event_data", "trigger_id", "other"])
def test_small_values_without_end_are_refused(stranger, key):
    """Decoding 2 MiB of them takes seconds, in which nobody is answered, and 100 MB for each event that waits."""
    usual = {"data": stranger.usual(0), "fn_index": 0, "session_hash": "small"}
    body = json.dumps(usual | {key: [[]] * 30_000})
    answer = stranger.http.post("/gradio_api/queue/join", content=body, headers={"Connection": "close"})
    assert answer.status_code == 413 and "20,000 values" in answer.text
    assert "," * 30_000 not in answer.text and is_answered(stranger)


def test_replies_that_no_client_reads_are_dropped(hostile, monkeypatch):
    """Whoever posts events and never reads what they made; the session that leaves most unread goes first."""
    pages, mounted = [], page.mounted
    monkeypatch.setattr(page, "mounted", lambda made, **how: pages.append(made) or mounted(made, **how))
    monkeypatch.setattr(events, "MOST_UNREAD", 100_000)
    with running(playground([hostile], port=0)) as url:
        stranger, queue = Stranger(url), pages[-1]._queue
        maps = next(e["id"] for e in stranger.config["dependencies"] if e["api_name"] == "matrices")
        body = {"data": ["strict"], "fn_index": maps, "event_data": None}
        stranger.http.post("/gradio_api/queue/join", json=body | {"session_hash": "patient"})
        for number in range(60):
            session = {"session_hash": "greedy" if number % 2 else f"many{number}"}
            while stranger.http.post("/gradio_api/queue/join", json=body | session).status_code != 200:
                time.sleep(0.05)
        assert is_answered(stranger)
        held = {name: each.size for name, each in queue.pending_messages_per_session.items()}
        assert held["patient"] > 1000 and sum(held.values()) <= 100_000
        assert set(queue.pending_event_ids_session) <= set(held)


def test_bodies_that_are_no_request_leave_the_page_whole(stranger):
    start = '{"fn_index": 0, "session_hash": "odd", "data": '
    deep = "[" * 100_000 + "]" * 100_000
    bodies = ["", "[]", "{", deep, f"{start}{deep}}}", f"{start}[NaN]}}", f"{start}[1e999, -0, {'9' * 5000}]}}"]
    for session in (None, 7, [], {}, "../../x", "x" * 100_000):
        bodies.append(json.dumps({"data": [], "fn_index": 0, "session_hash": session}))
    for number in (-1, 999, "x", None, 1e9):
        bodies.append(json.dumps({"data": [], "fn_index": number, "session_hash": "odd"}))
    headers = {"Content-Type": "application/json", "Connection": "close"}
    statuses = [stranger.http.post("/gradio_api/queue/join", content=b, headers=headers).status_code for b in bodies]
    assert set(statuses) <= {200, 400, 404, 413, 422, 500} and stranger.http.get("/config").status_code == 200, statuses


def is_answered(stranger):
    """Whether another session's event is processed."""
    event = next(e["id"] for e in stranger.config["dependencies"] if e["api_name"] == "rendered")
    return '"success":true' in stranger.post(event, stranger.usual(event))


@pytest.mark.parametrize("session", ["", "\ud800", "../x", "x" * 65, "a b"])
def test_no_name_of_a_session_stops_the_events_of_others(stranger, session):
    """Gradio's loop ends for every page at an exception, such as a session without a name makes while others wait."""
    statuses, headers = set(), {"Content-Type": "application/json", "Connection": "close"}
    for _ in range(20):
        body = json.dumps({"data": stranger.usual(0), "fn_index": 0, "session_hash": session, "event_data": None})
        answer = stranger.http.post("/gradio_api/queue/join", content=body, headers=headers)
        statuses.add(answer.status_code)
    assert is_answered(stranger) and statuses == {400}


@pytest.mark.slow
def test_a_session_that_is_gone_stops_nobody(hostile, monkeypatch):
    """Its client left, or 2,000 others came, while its event waited."""
    pages, mounted = [], page.mounted
    monkeypatch.setattr(page, "mounted", lambda made, **how: pages.append(made) or mounted(made, **how))
    with running(playground([hostile], port=0)) as url:
        stranger, queue = Stranger(url), pages[-1]._queue
        event = Event("gone", next(iter(queue.blocks.fns.values())), None, None)
        queue.send_message(event, EstimationMessage(rank=0, queue_size=1))
        assert is_answered(stranger)
