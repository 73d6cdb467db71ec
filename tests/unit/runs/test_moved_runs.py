"""A run goes on where it is put: its folder, the cache, HOME and the data may all move between two commands."""

from __future__ import annotations

import base64
import shutil

import pytest
import yaml

import evertune
from evertune import service
from evertune.runs.callback import Callback
from evertune.runs.run_folder import begin, read_identity, refuse_other_run
from evertune.service.integrity import examine, repair
from evertune.training.image_store import FOLDER, IMAGES
from evertune.utils.errors import DataError, RunFolderError

SETTINGS = [
    "train.learning_rate=0.01",
    "dtype=float32",
    "options.replay.ratio=0.5",
    "train.save_every=1",
    "reuse=false",
]
NAMES_PLACES = {"config.yaml", "answers", "report", ".lock"}
"""What may say where something is: how a run was begun, and where images are that pages show."""


class StoppedError(Exception):
    """Stands for a kill."""


class StopAt(Callback):
    """Stops in the middle of a task's training; notes the first step that is taken."""

    def __init__(self, task=None):
        self.task, self.now, self.first = task, None, {}

    def on_task_begin(self, number, task):
        self.now = task.name

    def on_step_end(self, step, *, samples):
        self.first.setdefault(self.now, step.step)
        if self.now == self.task and step.step == 3:
            raise StoppedError


@pytest.fixture
def home(tasks, tmp_path, monkeypatch):
    """A home with data whose images are written into the cache below it."""
    for name in ("EVERTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "before"))
    data = tmp_path / "before" / "data"
    data.mkdir(parents=True)
    entries = []
    for task in tasks:
        for side, samples in (("train", task.train), ("test", task.test)):
            rows = [
                (str(at), base64.b64encode(s.images[0].read_bytes()).decode(), s.instruction, s.answers[0])
                for at, s in enumerate(samples)
            ]
            table = [("index", "image", "instruction", "answer"), *rows]
            (data / f"{task.name}-{side}.tsv").write_text("".join("\t".join(row) + "\n" for row in table))
        entries.append(
            {"name": task.name, "format": "table", **{side: f"{task.name}-{side}.tsv" for side in ("train", "test")}}
        )
    (data / "toy.yaml").write_text(yaml.safe_dump({"name": "toy", "tasks": entries}))
    return tmp_path / "before"


def run(home, name, callback=None):
    out = home / "runs" / name
    evertune.run(
        str(home / "data" / "toy.yaml"),
        model="random",
        methods="replay",
        out=out,
        settings=SETTINGS,
        callbacks=[callback] if callback else (),
    )
    return out


def moved(home, monkeypatch):
    """Everything under another name."""
    after = home.rename(home.parent / "after")
    monkeypatch.setenv("HOME", str(after))
    return after


def results(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in ("stages/*/*.safetensors", "eval_set/images/*")
        for path in sorted(folder.glob(pattern))
    }


@pytest.mark.slow
def test_folder_cache_and_home_move_in_the_middle_of_a_task(home, monkeypatch):
    with pytest.raises(StoppedError):
        run(home, "cut", StopAt("task-2"))
    after, callback = moved(home, monkeypatch), StopAt()
    folder = run(after, "cut", callback)
    assert callback.first == {"task-2": 3}, "went on after the saved step of the third task"
    assert results(folder) == results(run(after, "whole")) and examine(folder) == []


@pytest.mark.slow
def test_no_file_that_decides_something_names_a_place(home):
    with pytest.raises(StoppedError):
        run(home, "cut", StopAt("task-2"))
    folder = home / "runs" / "cut"
    assert (folder / "mid_task.safetensors").exists()
    naming = {
        path.relative_to(folder).parts[0]
        for path in folder.rglob("*")
        if path.is_file() and str(home.parent).encode() in path.read_bytes()
    }
    assert naming <= NAMES_PLACES


@pytest.mark.thorough
@pytest.mark.slow
def test_the_memory_needs_neither_cache_nor_data(home):
    folder = run(home, "whole")
    service.check(folder)
    (home / "more.tsv").write_text((home / "data" / "task-0-train.tsv").read_text())
    for gone in (home / ".cache", home / "data"):
        shutil.rmtree(gone)
    done = service.learn(folder, str(home / "more.tsv"), name="more", accept_if=service.parsed("gain>=-100"))
    assert done.stage == 4
    image = next((folder / FOLDER / IMAGES).iterdir())
    for path in (folder / FOLDER / IMAGES).iterdir():
        path.unlink()
    with pytest.raises(DataError, match="is missing"):
        service.learn(folder, str(home / "more.tsv"), name="again", accept_if=service.parsed("gain>=-100"))
    assert not image.exists()


@pytest.mark.slow
def test_a_changed_image_of_the_memory_is_copied_again(home):
    folder = run(home, "whole")
    before = results(folder)
    image = next((folder / FOLDER / IMAGES).iterdir())
    image.write_bytes(b"another")
    assert [finding.path for finding in examine(folder)] == [image]
    assert repair(folder).left == []
    assert results(folder) == before


def test_model_and_stream_are_known_by_name_and_content_and_not_by_folder(tmp_path):
    """Fingerprints of weights and data decide; the new places are written down."""
    identity = {"model": "/a/tiny", "stream": "/a/toy.yaml", "seed": 0, "data": {"x": "1"}, "model_config": "2"}
    begin(tmp_path / "run", identity)
    there = {**identity, "model": "/b/tiny", "stream": "c/toy.yaml"}
    refuse_other_run(tmp_path / "run", there)
    begin(tmp_path / "run", there)
    assert read_identity(tmp_path / "run") == there
    for changed in ({"model": "/b/other"}, {"model_config": "3"}, {"data": {"x": "2"}}, {"stream": "other"}):
        with pytest.raises(RunFolderError, match="[cC]hoose another folder"):
            refuse_other_run(tmp_path / "run", {**there, **changed})
