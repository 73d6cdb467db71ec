"""Metrics in the run folder: what they say, what a resume makes of them, and that tracking changes nothing."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evertune
from evertune.reporting.plots import heat_map_pixels
from evertune.runs.callback import Callback
from evertune.runs.tracking import callback as watch
from evertune.runs.tracking import feed, registry
from evertune.runs.tracking.jsonl import Jsonl, read_points
from evertune.runs.tracking.protocol import Point
from evertune.training.stages import FILES
from evertune.utils.errors import UserError
from evertune.utils.redaction import without_secrets

SETTINGS = ["train.learning_rate=0.01", "train.epochs=2", "train.batch_size=4", "reuse=false"]
CHANGES = ("time", "train/examples_per_second")


def run(stream, out, *, settings=(), method="sequential", **more):
    all_settings = [*SETTINGS, *settings]
    result = evertune.run(str(stream), model="random", methods=method, seed=3, settings=all_settings, out=out, **more)
    return result.runs[method].matrix


def lines(folder, *, without=CHANGES):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in without} for row in rows]


def events(folder):
    """Every scalar that TensorBoard reads, by name, and the images."""
    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    read.Reload()
    tags = read.Tags()
    scalars = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, {tag: read.Images(tag) for tag in tags["images"]}


def same_as_file(folder, scalars):
    """TensorBoard's curves are those of the JSONL, in single precision."""
    expected = {}
    for row in lines(folder, without=("time", "after")):
        step = row.pop("step")
        for name, value in row.items():
            expected.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    assert scalars == expected


def losses(folder):
    """Loss by step as the stages' own logs have it, counted over all stages."""
    rows = [json.loads(r) for p in sorted(folder.glob("stages/*/training.jsonl")) for r in p.read_text().splitlines()]
    return [(number, row["loss"], row["gradient_norm"]) for number, row in enumerate(rows, start=1)]


class Stop(Callback):
    """Ends a run at some step, or where a stage has just been saved."""

    def __init__(self, *, step=None, stage=None):
        self.step, self.stage, self.steps = step, stage, 0

    def on_step_end(self, step, *, samples):
        self.steps += 1
        if self.steps == self.step:
            raise KeyboardInterrupt

    def on_task_end(self, stage):
        if stage.number == self.stage:
            raise KeyboardInterrupt


class WarningRecorder(Callback):
    def __init__(self):
        self.warnings = []

    def on_warning(self, text):
        self.warnings.append(text)


@pytest.fixture(scope="module")
def whole(toy_stream, tmp_path_factory):
    """An undisturbed run, and its matrix."""
    folder = tmp_path_factory.mktemp("tracked") / "whole"
    return folder, run(toy_stream, folder)


def test_steps_go_on_over_the_stream_and_say_what_was_trained(whole):
    folder, _ = whole
    training = [row for row in lines(folder) if "after" not in row]
    assert [(r["step"], r["train/loss"], r["train/gradient_norm"]) for r in training] == losses(folder)
    assert len(training) == 3 * (len(training) // 3) > 3 and all(row["train/learning_rate"] >= 0 for row in training)
    speeds = [r["train/examples_per_second"] for r in lines(folder, without=()) if "after" not in r]
    assert all(speed > 0 for speed in speeds)


def test_rows_say_scores_average_and_forgetting(whole):
    folder, matrix = whole
    R, rows = np.array(matrix.R), [row for row in lines(folder) if "after" in row]
    per_stage = len(losses(folder)) // 3
    assert [row["step"] for row in rows] == [0, per_stage, 2 * per_stage, 3 * per_stage]
    assert [row["after"] for row in rows] == ["base", *matrix.tasks]
    for t, row in enumerate(rows):
        assert [row[f"score/{task}"] for task in matrix.tasks] == list(R[t])
        assert row["stream/stage"] == t
        assert row.get("stream/average") == (pytest.approx(R[t, :t].mean()) if t else None)
        lost = [R[i + 1 : t, i].max() - R[t, i] for i in range(t - 1)]
        assert row.get("stream/forgetting") == (pytest.approx(np.mean(lost)) if lost else None)
    assert rows[-1]["stream/forgetting"] == pytest.approx(matrix.metrics["forgetting"])


@pytest.mark.slow
def test_one_stage_for_all_tasks_has_no_forgetting(toy_stream, tmp_path):
    matrix = run(toy_stream, tmp_path / "joint", method="joint")
    last = lines(tmp_path / "joint")[-1]
    assert last["stream/average"] == pytest.approx(np.mean(matrix.R[1])) and "stream/forgetting" not in last


def test_tensorboard_has_the_same_curves_and_the_matrix_as_a_image(whole, tmp_path):
    folder, matrix = whole
    scalars, images = events(folder)
    same_as_file(folder, scalars)
    assert [image.step for image in images["matrix"]] == [row["step"] for row in lines(folder) if "after" in row]
    (tmp_path / "m.png").write_bytes(images["matrix"][-1].encoded_image_string)
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "m.png")), heat_map_pixels(matrix.tasks, matrix.stages, matrix.R)
    )


@pytest.mark.slow
def test_the_image_of_a_long_stream_does_not_grow():
    names = [f"task-{number}" for number in range(40)]
    pixels = heat_map_pixels(names, names, [[50.0] * 40] * 41)
    assert 1e6 < pixels.shape[0] * pixels.shape[1] < 1.2e6


@pytest.mark.slow
def test_a_full_disk_ends_the_curves_and_not_the_run(toy_stream, tmp_path, monkeypatch):
    """tensorboardX's own thread would die of it, and the run wait for it for ever."""
    from tensorboardX.record_writer import RecordWriter

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    callback = WarningRecorder()
    assert run(toy_stream, tmp_path / "run", callbacks=[callback]).finished
    assert [text for text in callback.warnings if "tensorboard" in text.lower() and "No space left" in text]


def test_a_deeper_blue_for_a_higher_score_and_nothing_where_nobody_asked():
    def darkness(score):
        pixels = heat_map_pixels(["a"], [], [[score]])
        return 255 - float(pixels[-30:, -30:, 0].mean())

    assert darkness(0.0) < darkness(50.0) < darkness(100.0)
    assert darkness(math.nan) == 0 < darkness(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [{"step": 3}, {"step": 5}, {"stage": 1}, {"stage": 3}])
def test_cut_off_and_resumed_equals_undisturbed(toy_stream, whole, tmp_path, stop):
    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run(toy_stream, folder, callbacks=[Stop(**stop)])
    assert len(lines(folder)) < len(lines(whole[0]))
    run(toy_stream, folder)
    assert lines(folder) == lines(whole[0])
    same_as_file(folder, events(folder)[0])


@pytest.mark.slow
def test_what_a_crash_tore_or_lost_is_mended(toy_stream, whole, tmp_path):
    folder = tmp_path / "torn"
    with pytest.raises(KeyboardInterrupt):
        run(toy_stream, folder, callbacks=[Stop(stage=2)])
    path = folder / "metrics.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join([kept[0], *kept[3:-1], kept[-1][:20]]))
    run(toy_stream, folder)
    assert lines(folder) == lines(whole[0])


@pytest.mark.slow
def test_a_training_that_is_taken_over_has_its_points(toy_stream, whole, tmp_path):
    for name in ("first", "again"):
        run(toy_stream, tmp_path / name, settings=["reuse=true"])
    rows = lines(tmp_path / "again", without=())
    assert not any("train/examples_per_second" in row for row in rows), "nothing was trained"
    assert lines(tmp_path / "again") == lines(tmp_path / "first") == lines(whole[0])


@pytest.mark.slow
def test_tracking_changes_no_number(toy_stream, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LOCAL", ())
    matrix = run(toy_stream, tmp_path / "untracked")
    assert not (tmp_path / "untracked" / "metrics.jsonl").exists()
    assert matrix.R == whole[1].R
    for place in sorted(whole[0].glob("stages/*")):
        for file in (*FILES, "training.jsonl"):
            other = tmp_path / "untracked" / "stages" / place.name / file
            assert other.read_bytes() == (place / file).read_bytes(), file


class Failing(Jsonl):
    """Raises from a given call on, with a password in the message."""

    package = None
    at = "begin"
    waits = False

    def _maybe(self, what):
        if what == type(self).at:
            raise ConnectionError("no route to https://me:hunter2hunter2@example.org/api")

    def begin(self, run):
        self._maybe("begin")
        return {}

    def log(self, point):
        self._maybe("log")

    def end(self, *, finished):
        self._maybe("end")


@pytest.mark.slow
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("at", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_said_once_and_stops_nothing(toy_stream, whole, tmp_path, monkeypatch, at, waits):
    kind = type("Kind", (Failing,), {"at": at, "waits": waits})
    monkeypatch.setattr(registry, "TRACKERS", {**registry.TRACKERS, "gone": kind})
    monkeypatch.setattr(watch, "TRACKERS", registry.TRACKERS)
    recorder = WarningRecorder()
    matrix = run(toy_stream, tmp_path / "run", callbacks=[recorder], track=["gone"])
    assert matrix.R == whole[1].R and lines(tmp_path / "run") == lines(whole[0])
    (messages,) = [text for text in recorder.warnings if text.startswith("tracking: ")]
    assert messages.startswith("tracking: gone takes no more metrics (ConnectionError: no route to https://")
    assert "hunter2" not in messages


@pytest.mark.slow
def test_a_tracker_that_hangs_is_left_behind(toy_stream, tmp_path, monkeypatch):
    free = threading.Event()
    kind = type("Kind", (Failing,), {"at": "", "waits": True, "begin": lambda self, run: free.wait(60) and {}})
    monkeypatch.setattr(registry, "TRACKERS", {**registry.TRACKERS, "slow": kind})
    monkeypatch.setattr(watch, "TRACKERS", registry.TRACKERS)
    monkeypatch.setattr(feed, "SECONDS_TO_FINISH", 0.2)
    recorder = WarningRecorder()
    run(toy_stream, tmp_path / "run", callbacks=[recorder], track=["slow"])
    free.set()
    messages = [text for text in recorder.warnings if text.startswith("tracking: ")]
    assert messages == ["tracking: slow takes no more metrics (it did not answer in time); the run continues"]


def test_more_points_than_a_lane_holds(monkeypatch):
    monkeypatch.setattr(feed, "MOST_WAITING", 3)
    messages, free = [], threading.Event()
    kind = type("Kind", (Failing,), {"at": "", "begin": lambda self, run: free.wait(60) and {}})
    lane = feed.BackgroundFeed(feed.TrackerFeed("slow", kind(), say=messages.append))
    lane.begin(None, [])
    for step in range(20):
        lane.log(Point(step, {"a": 1.0}, time.time()))
    assert len(messages) == 1 and "3 points are waiting" in messages[0]
    free.set()


def test_a_feed_gives_each_value_once():
    got = []

    class SplitIndex(Failing):
        at = ""

        def begin(self, run):
            return {"loss": 2, "score": 1}

        def log(self, point):
            got.append((point.step, dict(point.values)))

    one = feed.TrackerFeed("half", SplitIndex(), say=pytest.fail)
    one.begin(None, [Point(1, {"loss": 1.0}, 0), Point(2, {"loss": 2.0}, 0), Point(2, {"score": 5.0}, 0, "a")])
    for _ in range(2):
        one.log(Point(3, {"loss": 3.0}, 0))
    assert got == [(2, {"score": 5.0}), (3, {"loss": 3.0})]


def test_a_package_that_is_missing_is_an_error_before_anything_is_done(toy_stream, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'mlflow' needs a package .*: pip install 'evertune\[mlflow\]'"):
        run(toy_stream, tmp_path / "run", track=["mlflow"])
    with pytest.raises(UserError, match="unknown tracker 'mlfow'; did you mean 'mlflow'"):
        run(toy_stream, tmp_path / "run", track=["mlfow"])
    assert not (tmp_path / "run").exists()


def test_where_metrics_go_is_no_part_of_what_a_run_is(whole):
    all_settings = evertune.configure("parcel", track="trackio, mlflow")
    assert all_settings.track == ["trackio", "mlflow"]
    assert "track" not in (whole[0] / "config.yaml").read_text()


def test_secrets_stay_here(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdef123456")
    given = {
        "model": "https://me:pass@host/m?token=abc&x=1",
        "options": {"ewc": {"strength": 1.0}, "hub_token": "t0p", "keys": ["gradient"]},
        "note": "sent abcdef123456 along",
    }
    assert without_secrets(given) == {
        "model": "https://(left out)@host/m?token=(left out)&x=1",
        "options": {"ewc": {"strength": 1.0}, "hub_token": "(left out)", "keys": ["gradient"]},
        "note": "sent (left out) along",
    }


def test_lines_that_are_no_points_do_not_count(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 2, "a": 3.0}\n[]\n{"a": 1}\nnone\n{"step": 2, "ti')
    assert read_points(tmp_path / "metrics.jsonl") == [Point(1, {"a": 3.0}, 2.0)]
    assert read_points(tmp_path / "none.jsonl") == []
