"""The playground without a browser: what every stage says, what a cell holds, who comes in, what is refused."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import shutil
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from serving import running
from typer.testing import CliRunner

import evertune
from evertune import service
from evertune.apps.auth import LARGEST_BODY
from evertune.apps.playground import fragments, view_models
from evertune.apps.playground import model_session as bench_module
from evertune.apps.playground.access import COOKIE, AccessMiddleware
from evertune.apps.playground.command import playground
from evertune.apps.playground.fragments import Fragments
from evertune.apps.playground.inference import LONGEST_QUESTION, Query, StageInference, image_at, query_of
from evertune.apps.playground.model_session import open_runs
from evertune.apps.playground.runs import ExampleQuestions, names_of
from evertune.apps.playground.view_models import RunPredictions, answers_of, choices_of, mark_of, matrix_of
from evertune.cli.main import app
from evertune.data.images import read_image
from evertune.data.task import Sample, Task
from evertune.runs.api import open_run
from evertune.service.service import percent
from evertune.training.answer_files import read_answers
from evertune.utils.errors import DataError, UserError


@pytest.fixture(scope="module")
def both(taught):
    return open_runs([taught / "eproj", taught / "sequential"])


@pytest.fixture(scope="module")
def address(taught):
    with running(playground([taught / "sequential"], port=0)) as url:
        yield url


def query_about(sample):
    return Query(read_image(sample.images[0], origin="test"), sample.instruction)


@pytest.mark.slow
def test_every_stage_says_what_the_run_itself_said(both, taught):
    """The answers that the runs wrote down are those of the right stage, expert and run, also when runs alternate."""
    runs, bench = both
    inference = StageInference(runs, bench, tokens=12)
    distinct = set()
    for task in runs[0].tasks:
        sample = task.test[0]
        replies = list(inference.replies(query_about(sample)))
        assert [(run, stage) for run, stage, _ in replies] == [(r, s) for r in (0, 1) for s in range(4)]
        for number, stage, reply in replies:
            rows = read_answers(runs[number].folder / "answers" / f"{stage:02d}" / f"{task.name}.jsonl")
            row = next(row for row in rows if row["id"] == sample.id)
            short = row["answer"]  # answers of a run may be cut off earlier
            assert reply.text.startswith(short) and reply.expert == row["expert"], (number, stage)
            distinct.add(reply.text)
    assert len(distinct) > 2, "answers that tell something"


def test_the_router_says_how_sure_it_was(both, taught):
    runs, bench = both
    sample = runs[0].tasks[1].test[0]
    replies = {(r, s): reply for r, s, reply in StageInference(runs, bench, tokens=4).replies(query_about(sample))}
    learner = open_run(taught / "eproj")
    assert replies[0, 3].ranking == learner.ranking(sample) and len(replies[0, 3].ranking) == 3
    predictions = RunPredictions("eproj", ("base", "a", "b", "c")).and_then(replies[0, 3], None)
    assert sum(share for _, share in replies[0, 3].ranking) == pytest.approx(1)
    assert predictions.predictions[0].lead == f"{percent(replies[0, 3].ranking[0][1])} sure"
    assert replies[1, 3].ranking == [], "one set of weights routes nothing"


def test_one_model_is_loaded_for_runs_that_began_alike(taught, monkeypatch):
    loaded = []
    real = bench_module.model_of
    monkeypatch.setattr(bench_module, "model_of", lambda *a, **k: loaded.append(1) or real(*a, **k))
    runs, bench = open_runs([taught / "eproj", taught / "sequential"])
    inference = StageInference(runs, bench, tokens=4)
    first = list(inference.replies(query_about(runs[0].tasks[0].test[0])))
    assert len(loaded) == 1
    monkeypatch.setattr(bench, "at", lambda *_: pytest.fail("asked again"))
    assert list(inference.replies(query_about(runs[0].tasks[0].test[0]))) == first, "what was asked is remembered"


@pytest.mark.slow
def test_many_ask_at_once(both):
    runs, bench = both
    samples = [task.test[n] for task in runs[0].tasks for n in range(2)]
    alone = [list(StageInference(runs, bench, tokens=4).replies(query_about(sample))) for sample in samples]
    inference = StageInference(runs, bench, tokens=4)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda sample: list(inference.replies(query_about(sample))), samples))
    assert together == alone


def test_a_stage_that_is_damaged_ends_its_run_only(taught, tmp_path):
    shutil.copytree(taught / "eproj", tmp_path / "eproj")
    shutil.copytree(taught / "sequential", tmp_path / "sequential")
    runs, bench = open_runs([tmp_path / "eproj", tmp_path / "sequential"])
    (broken,) = (tmp_path / "eproj" / "stages").glob("02-*/trainable.safetensors")
    broken.write_bytes(b"no")
    replies = list(StageInference(runs, bench, tokens=4).replies(query_about(runs[0].tasks[0].test[0])))
    assert [(r, s) for r, s, _ in replies] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert "02-" in str(replies[2][2]) and isinstance(replies[2][2], UserError)
    predictions = (
        RunPredictions("eproj", tuple(runs[0].stage_names)).and_then(replies[0][2], None).and_then(replies[2][2], None)
    )
    assert "truncated or was changed" in Fragments().turn([predictions], 1)


def test_marks_know_the_right_answer():
    samples = tuple(Sample(str(n), (), "what?", (gold,)) for n, gold in enumerate(["red", "a red hat", "a blue car"]))
    exact, words = Task("t", (), samples[:1]), Task("t", (), samples[1:], score="cider")
    marks = [mark_of(text, exact, samples[0]) for text in ("red", "it is red", "blue")]
    assert marks == ["right", "form", "wrong"]
    # CIDEr weighs words by all answers of the task: one question alone would make every word worth nothing
    assert mark_of("a blue car", words, samples[2]) == "right"


def test_the_matrix_is_that_of_the_run(both, taught):
    runs, _ = both
    for form, key in (("strict", "R"), ("relaxed", "relaxed")):
        wanted = json.loads((taught / "eproj" / "matrix.json").read_text())[key]
        found = matrix_of(0, runs[0], form)
        assert [[square.score for square in squares] for _, squares in found.rows] == wanted
    assert [(s.stage, s.task) for _, row in found.rows for s in row if s.own] == [(1, 0), (2, 1), (3, 2)]


def test_a_cell_lists_its_answers(both):
    runs, _ = both
    kept = ExampleQuestions(runs)
    whole = answers_of(1, runs[1], kept, stage=3, task=0)
    assert whole.counts["all"] == len(runs[1].tasks[0].test) == sum(whole.counts[k] for k in whole.counts if k != "all")
    assert whole.strict == pytest.approx(100 * whole.counts["right"] / whole.counts["all"])
    for kind in ("right", "wrong"):
        found = answers_of(1, runs[1], kept, stage=3, task=0, kind=kind)
        assert {row.mark for row in found.rows} <= {kind} and len(found.rows) + found.more == whole.counts[kind]
    few = answers_of(1, runs[1], kept, stage=3, task=0, count=2)
    assert len(few.rows) == 2 and few.more == whole.counts["all"] - 2
    assert all(row.thumbnail.startswith("data:image/") and row.kept is not None for row in few.rows)
    with pytest.raises(UserError, match="this cell was not evaluated"):
        answers_of(1, runs[1], kept, stage=9, task=0)


def test_a_request_for_any_number_of_rows_gets_a_bounded_page(both, monkeypatch):
    runs, _ = both
    for module in (view_models, fragments):
        monkeypatch.setattr(module, "MOST", 3)
    kept = ExampleQuestions(runs)
    found = answers_of(1, runs[1], kept, stage=3, task=0, count=999_999_999)
    assert len(found.rows) == 3 and found.more == found.counts["all"] - 3
    text = Fragments().answers(found)
    assert 'class="more"' not in text and f"{found.more} more are in the run folder" in text
    shown, left = choices_of(kept, kept.tasks[0], count=999_999_999)
    assert len(shown) == 3 and left == len(kept.of(kept.tasks[0])) - 3
    assert f"{left} more are not shown here" in Fragments().choices(kept.tasks[0], (shown, left))
    assert 'data-count="26"' in Fragments().choices(kept.tasks[0], (shown[:2], left))


def test_kept_questions_are_found_by_image_and_words(both):
    runs, _ = both
    kept = ExampleQuestions(runs)
    assert kept.tasks == [task.name for task in runs[0].tasks]
    sample = runs[0].tasks[2].test[1]
    sha = read_image(sample.images[0], origin="test")[1]
    assert kept.found(sha, f" {sample.instruction} ")[1].answers == sample.answers
    assert kept.found(sha, "something else") is None and kept.of("nobody's") == []
    shown, left = choices_of(kept, runs[0].tasks[0].name, count=3)
    assert len(shown) == 3 and left == len(runs[0].tasks[0].test) - 3


def test_a_moved_model_shows_its_images(taught, tmp_path):
    shutil.copytree(taught / "sequential", tmp_path / "moved")
    open_runs([tmp_path / "moved"])  # keeps the questions
    moved = (tmp_path / "moved").rename(tmp_path / "again")
    runs, _ = open_runs([moved])
    found = answers_of(0, runs[0], ExampleQuestions(runs), stage=1, task=0)
    assert all(row.thumbnail for row in found.rows)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda place: place / "nowhere", "is not a folder"),
        (lambda place: (place / "empty").mkdir() or place / "empty", "is no run folder"),
    ],
)
def test_folders_that_are_none(make, says, tmp_path):
    with pytest.raises(UserError, match=says):
        playground([make(tmp_path)], port=0)


def test_folders_that_cannot_be_shown(taught, tmp_path, mini_blip):
    service.new(tmp_path / "blank", model="random")
    with pytest.raises(UserError, match=r"has learned nothing yet: teach it with evertune learn"):
        playground([tmp_path / "blank"], port=0)
    service.new(tmp_path / "other", model=str(mini_blip))
    with pytest.raises(UserError, match=r"holds random and .*other holds mini, another model"):
        playground([taught / "eproj", tmp_path / "other"], port=0)
    with pytest.raises(UserError, match="set a token in EVERTUNE_TOKEN"):
        playground([taught / "eproj"], host="0.0.0.0", port=0)
    shutil.copytree(taught / "eproj", tmp_path / "half")
    matrix = json.loads((tmp_path / "half" / "matrix.json").read_text())
    cut = {key: matrix[key][:-1] for key in ("R", "relaxed")}
    (tmp_path / "half" / "matrix.json").write_text(json.dumps({**matrix, **cut, "held_out": None, "finished": False}))
    with pytest.raises(UserError, match="is a run that is not finished"):
        playground([tmp_path / "half"], port=0)


def test_the_command_says_what_is_wrong(tmp_path):
    result = CliRunner().invoke(app, ["app", str(tmp_path / "nowhere"), "--port", "0"])
    assert isinstance(result.exception, UserError) and "nowhere is not a folder" in str(result.exception)


def test_names_tell_folders_apart(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert names_of(folders) == ["a/run", "b/run", "c"]


@pytest.mark.slow
def test_questions_that_cannot_be_asked(tmp_path):
    with pytest.raises(DataError, match="has no words"):
        query_of(None, "  ", None)
    with pytest.raises(DataError, match=r"1,048,576 letters; at most 4,000"):
        query_of(None, "x" * (1 << 20), None)
    assert query_of(None, "x" * LONGEST_QUESTION, None).sha == ""
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(DataError, match="broken or not an image"):
        query_of(text, "what?", None)
    with pytest.raises(DataError, match="choose it again"):
        image_at(tmp_path / "gone.png")
    huge = tmp_path / "huge.png"
    Image.new("1", (10_000, 10_000)).save(huge)
    with pytest.raises(DataError, match="10000 x 10000 pixels"):
        image_at(huge)
    long = tmp_path / "long.png"
    with long.open("wb") as stream:
        stream.truncate(LARGEST_BODY + 1)
    with pytest.raises(DataError, match="at most 20 are read"):
        image_at(long)


def test_a_image_that_the_model_needs(both, monkeypatch):
    runs, bench = both
    learner = SimpleNamespace(lmm=SimpleNamespace(images_per_sample=range(1, 2), name="random"))
    monkeypatch.setattr(bench, "at", lambda *_: learner)
    replies = list(StageInference(runs, bench, tokens=4).replies(Query(None, "what is this?")))
    assert [stage for _, stage, _ in replies] == [0, 0]
    assert all("an image: choose or drop one" in str(reply) for _, _, reply in replies)


@pytest.mark.slow
def test_a_method_that_is_told_the_task(toy_stream, tmp_path):
    settings = ["options.eproj.routing=oracle"]
    evertune.run(str(toy_stream), model="random", methods="eproj", out=tmp_path / "told", settings=settings)
    runs, bench = open_runs([tmp_path / "told"])
    inference, sample = StageInference(runs, bench, tokens=4), runs[0].tasks[1].test[0]
    ((_, _, problem),) = inference.replies(query_about(sample))
    assert "needs the task of a question" in str(problem)
    image = read_image(sample.images[0], origin="test")
    replies = list(inference.replies(Query(image, sample.instruction, runs[0].tasks[1].name)))
    assert [reply.expert for _, _, reply in replies][-1] == runs[0].tasks[1].name
    others = list(inference.replies(Query(image, sample.instruction, runs[0].tasks[0].name)))
    assert [reply.expert for _, _, reply in others][-1] == runs[0].tasks[0].name, "not what the other task's was"


# The door.


def answer(url, *, headers=None, body=None, method=None):
    """(status, text, headers) without following a redirection."""
    place = url.removeprefix("http://")
    host, _, path = place.partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request(method or ("POST" if body is not None else "GET"), f"/{path}", body, headers or {})
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace"), response.headers


def test_the_page_answers_to_names_of_this_machine_only(address):
    assert answer(f"{address}/")[0] == 200
    status, text, _ = answer(f"{address}/", headers={"Host": "evil.example"})
    assert status == 403 and "localhost only" in text
    port = address.rsplit(":", 1)[1]
    assert [answer(f"{address}/", headers={"Host": f"{n}:{port}"})[0] for n in ("localhost", "[::1]")] == [200, 200]


def test_every_answer_has_a_policy(address):
    for path in ("", "config", "gradio_api/info"):
        _, _, headers = answer(f"{address}/{path}")
        assert "connect-src 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"


def test_what_the_page_says_of_itself_names_no_other_host(address):
    _, text, _ = answer(f"{address}/")
    assert "fonts.googleapis" not in text and "cdn" not in text.lower()
    config = json.loads(answer(f"{address}/config")[1])
    assert config["analytics_enabled"] is False and config["footer_links"] == []


def test_too_much_is_refused_and_the_page_stays(address):
    status, text, _ = answer(f"{address}/gradio_api/upload", headers={"Content-Length": str(1 << 30)}, method="POST")
    assert status == 413 and "20 MiB" in text
    assert answer(f"{address}/", headers={"Content-Length": "nonsense"})[0] in (400, 413)

    def unending():
        for _ in range(25):
            yield b"x" * (1 << 20)

    try:
        status, _, _ = answer(f"{address}/gradio_api/queue/join", body=unending())
        assert status in (400, 413)
    except (ConnectionError, http.client.HTTPException):
        pass  # it hung up while we were still sending
    assert answer(f"{address}/")[0] == 200


def test_a_body_without_a_length_is_counted():
    """Piece by piece: what goes beyond the limit is not handed on."""
    sent, read = [], []

    async def behind(scope, receive, send):
        while True:
            message = await receive()
            read.append(len(message["body"]))
            if not message["more_body"]:
                break

    async def receive():
        return {"type": "http.request", "body": b"x" * 4, "more_body": len(read) < 9}

    async def send(message):
        sent.append(message)

    door = AccessMiddleware(behind, token=None, largest=10)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(door(scope, receive, send))
    assert read == [4, 4] and sent[0]["status"] == 413


def test_other_files_are_not_given_away(address, taught):
    for path in (taught / "sequential" / "config.yaml", "/etc/passwd"):
        assert answer(f"{address}/gradio_api/file={path}")[0] in (403, 404)


def test_a_token_is_wanted(taught):
    with running(playground([taught / "sequential"], port=0, token="s3cret")) as url:
        for path in ("", "config", "gradio_api/info", "gradio_api/upload", "theme.css"):
            assert answer(f"{url}/{path}")[0] == 401, path
        status, page, _ = answer(f"{url}/", headers={"Accept": "text/html"})
        assert status == 401 and 'name="token"' in page and "sequential" not in page
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert answer(f"{url}/enter", headers=form, body="token=wrong")[0] == 401
        assert answer(f"{url}/enter", headers=form, body="token=" + "x" * 100_000)[0] == 401
        status, _, headers = answer(f"{url}/enter", headers=form, body="token=s3cret")
        cookie = headers["set-cookie"]
        assert status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "s3cret" not in cookie
        assert answer(f"{url}/config", headers={"Cookie": cookie.split(";")[0]})[0] == 200
        assert answer(f"{url}/config", headers={"Cookie": f"{COOKIE}=s3cret"})[0] == 401
        assert answer(f"{url}/config", headers={"Authorization": "Bearer s3cret"})[0] == 200
        assert answer(f"{url}/config", headers={"Authorization": "Bearer s3cre"})[0] == 401


def test_what_was_dropped_is_gone_afterwards(taught, monkeypatch):
    with running(playground([taught / "sequential"], port=0)) as url:
        place = Path(os.environ["GRADIO_TEMP_DIR"])
        image = io.BytesIO()
        Image.new("RGB", (8, 8)).save(image, "PNG")
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + image.getvalue()
        request = urllib.request.Request(f"{url}/gradio_api/upload", data=body + b"\r\n--x--\r\n")
        request.add_header("Content-Type", "multipart/form-data; boundary=x")
        with urllib.request.urlopen(request) as response:
            sent = Path(json.load(response)[0])
        assert sent.is_relative_to(place) and sent.exists()
    assert place != sent.parent.parent and not sent.parent.parent.exists(), "the folder of this page"
