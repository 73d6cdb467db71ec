"""Whole runs through the command line: real photographs, resume after a kill, damaged folders, a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import statistics
import subprocess
import time

import pytest
import warm
import yaml
from matrices import matrices_of

from evertune import UserError, load_run, paired
from evertune import run as evertune_run
from evertune.utils.files import digest_of_file, write_jsonl

SETTINGS = ["train.epochs=12", "train.learning_rate=0.01", "dtype=float32"]


def command(stream, out, *more):
    return [
        *[warm.python(), "-m", "evertune", "run", str(stream), "--model", "random", "--out", str(out)],
        *[part for entry in SETTINGS for part in ("--set", entry)],
        *more,
    ]


def run(stream, out, **more):
    settings = [*SETTINGS, *more.pop("settings", [])]
    return matrices_of(evertune_run(str(stream), model="random", out=out, settings=settings, **more))


@pytest.fixture(scope="module")
def finished(stream, tmp_path_factory):
    """A run of three methods, made by the command line."""
    out = tmp_path_factory.mktemp("runs") / "three"
    result = subprocess.run(
        command(stream, out, "--method", "sequential,replay+ewc,eproj", "--set", "ewc.samples=4"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_folder_holds_what_was_promised(finished):
    out, result = finished
    assert "report" in result and (out / "report" / "index.html").exists()
    for method in ("sequential", "replay+ewc", "eproj"):
        folder = out / method
        matrix = json.loads((folder / "matrix.json").read_text())
        assert matrix["tasks"] == ["what", "upright"] and matrix["method"] == method and matrix["seed"] == 0
        assert [len(row) for row in matrix["R"]] == [2, 2, 2]
        assert {"final_average", "forgetting", "bwt", "learning_accuracy"} <= set(matrix["metrics"])
        assert len(matrix["cells"]) == 6
        for cell in matrix["cells"]:
            assert cell["task_id"] == "inferred"
            rows = [json.loads(line) for line in (folder / cell["answers"]).read_text().splitlines()]
            right = sum(row["answer"] == row["gold"][0] for row in rows)
            assert len(rows) == cell["n"] > 0
            assert cell["score"] == pytest.approx(100 * right / cell["n"])
            assert matrix["R"][cell["stage"]][matrix["tasks"].index(cell["task"])] == cell["score"]
        assert json.loads((folder / "provenance.json").read_text())["prompts"]["what"] == "{image}What is this?\n"
    assert any(cell["experts"] for cell in json.loads((out / "eproj" / "matrix.json").read_text())["cells"])


def test_it_learned_something_and_sequential_forgot(finished):
    """A miniature of random weights still learns a few words, and loses them with the next task."""
    folder = finished[0] / "sequential"
    matrix = json.loads((folder / "matrix.json").read_text())
    assert matrix["R"][0] == [0, 0] and matrix["R"][2][1] > 0
    result = {json.loads(row)["answer"] for row in (folder / "answers/02/what.jsonl").read_text().splitlines()}
    first_words = {"person", "cup", "cat", "rocket", "flower", "temple"}
    assert not result & first_words, "after the second task the words of the first are gone"
    losses = [json.loads(row)["loss"] for row in (folder / "stages/01-what/training.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.2 * losses[0]


def test_a_finished_run_answers_at_once(finished, stream):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    matrices = run(stream, out, methods="sequential,replay+ewc,eproj", settings=["ewc.samples=4"])
    assert [m.method for m in matrices] == ["sequential", "replay+ewc", "eproj"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_another_configuration_is_refused(finished, stream):
    out, _ = finished
    with pytest.raises(UserError, match="holds a run started with seed=0; requested seed=1"):
        run(stream, out, methods="sequential,replay+ewc,eproj", settings=["ewc.samples=4"], seed=1)
    with pytest.raises(UserError, match=r"holds a run (started with limit|of other data)"):
        run(stream, out / "sequential", methods="sequential", limit=3)


def test_a_foreign_folder_is_refused(stream, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not a run"):
        run(stream, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_what_a_killed_beginning_left_is_nobodys(stream, tmp_path):
    """Killed while the very first file was written: its temporary and the lock are all there is."""
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.405-78a7b3f7").write_text("stre")
    run(stream, tmp_path)
    assert (tmp_path / "matrix.json").exists() and not list(tmp_path.rglob(".config.yaml.*"))


def significant(folder):
    """What must be equal: the matrix without its clocks, all answers, all weights."""
    matrix = json.loads((folder / "matrix.json").read_text())
    matrix.pop("cost")
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in ("answers/**/*.jsonl", "stages/**/*.safetensors", "stages/**/training.jsonl")
        for path in folder.glob(pattern)
    }
    return matrix, files


@pytest.mark.parametrize(
    ("method", "markers"),
    [
        ("replay+ewc", ["stages/01-what/done.json", "answers/01/upright.jsonl"]),
        pytest.param("eproj", ["answers/00/what.jsonl", "answers/02/what.jsonl"], marks=pytest.mark.thorough),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(stream, tmp_path, method, markers):
    """Killed at the moment a file appears: between training and evaluation, and in the middle of a row."""
    more = ["--method", method, "--set", "reuse=false", *(["--set", "ewc.samples=4"] if "ewc" in method else [])]
    subprocess.run(command(stream, tmp_path / "whole", *more), check=True, capture_output=True)
    for marker in markers:
        process = subprocess.Popen(
            command(stream, tmp_path / "killed", *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while not (tmp_path / "killed" / marker).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(stream, tmp_path / "killed", *more), check=True, capture_output=True)
    assert significant(tmp_path / "killed") == significant(tmp_path / "whole")


def test_a_damaged_stage_is_named_and_earlier_ones_stay_valid(stream, tmp_path):
    out = tmp_path / "run"
    (matrix,) = run(stream, out, methods="ewc", settings=["ewc.samples=4"])
    (out / "matrix.json").unlink()
    (out / "answers" / "02" / "what.jsonl").unlink()
    broken = out / "stages" / "02-upright" / "method.safetensors"
    broken.write_bytes(broken.read_bytes()[:-4])
    with pytest.raises(
        UserError, match=r"02-upright/method.safetensors is truncated .* earlier stages are still valid"
    ):
        run(stream, out, methods="ewc", settings=["ewc.samples=4"])
    for path in broken.parent.iterdir():
        path.unlink()
    broken.parent.rmdir()
    (again,) = run(stream, out, methods="ewc", settings=["ewc.samples=4"])
    assert again.R == matrix.R


def test_a_damaged_matrix_or_config_is_named(stream, tmp_path):
    out = tmp_path / "run"
    run(stream, out)
    (out / "matrix.json").write_text('{"R": [')
    with pytest.raises(UserError, match=r"matrix.json.* is not valid JSON"):
        run(stream, out)
    (out / "config.yaml").write_text("[")
    with pytest.raises(UserError, match=r"config.yaml can't be read"):
        run(stream, out)


def test_a_full_disk_loses_nothing(stream, tmp_path, monkeypatch):
    out = tmp_path / "run"
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        run(stream, out, settings=["reuse=false"])
    assert not [path for path in out.rglob(".*") if path.is_file() and path.name != ".lock"], "no half-written files"
    monkeypatch.setattr(os, "fsync", real)
    (matrix,) = run(stream, out, settings=["reuse=false"])
    assert matrix.finished


def test_a_broken_image_stops_before_training(stream, tmp_path):
    folder = stream.parent
    rows = (folder / "what.jsonl").read_text().splitlines()
    for name in ("ok.jpg", "cut.jpg"):
        (tmp_path / name).write_bytes((folder / "cup-0.jpg").read_bytes()[: None if name == "ok.jpg" else 300])
    row = json.loads(rows[0])
    lines = [{**row, "image": "ok.jpg"}, {**row, "image": "cut.jpg"}]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "s.yaml").write_text("name: s\ntasks: [{name: bad, data: bad.jsonl, test_share: 0.5}]")
    with pytest.raises(UserError, match=r"bad.jsonl:2: the image .*cut.jpg is broken"):
        run(tmp_path / "s.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_result_from_disk_has_the_scores_of_every_prediction(finished):
    out, _ = finished
    result = load_run(out)
    assert set(result.runs) == {"sequential", "replay+ewc", "eproj"} and result.report.exists()
    for run in result.runs.values():
        cells = {(cell["stage"], cell["task"]): cell for cell in run.matrix.cells}
        for (stage, task), cell in cells.items():
            rows = run.answers(stage, task)
            assert statistics.fmean(row["score"] for row in rows) == pytest.approx(cell["score"])
            assert statistics.fmean(row["relaxed"] for row in rows) == pytest.approx(cell["relaxed"])
    found = paired(out / "sequential", result.runs["eproj"])
    ends = [result.runs[name].matrix.R[-1] for name in ("sequential", "eproj")]
    assert [d.difference for d in found.tasks] == pytest.approx([b - a for a, b in zip(*ends, strict=True)])


def test_a_folder_from_before_predictions_had_scores_resumes_as_it_is(stream, tmp_path):
    out = tmp_path / "run"
    (first,) = run(stream, out)
    ledger = out / "ledger.jsonl"
    for path in out.glob("answers/*/*.jsonl"):
        before = digest_of_file(path)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_jsonl(path, [{key: row[key] for key in row if key not in ("score", "relaxed")} for row in rows])
        ledger.write_text(ledger.read_text().replace(before, digest_of_file(path)))
    kept = {path: path.read_bytes() for path in [*out.glob("answers/*/*.jsonl"), ledger]}
    (out / "matrix.json").unlink()
    (again,) = run(stream, out)
    assert again.R == first.R and {path: path.read_bytes() for path in kept} == kept
    assert paired(out, out).mean.difference == 0


def test_a_run_yaml_says_what_flags_say(stream, tmp_path):
    config = {"stream": str(stream), "model": "random", "method": "replay", "out": str(tmp_path / "a"), "seed": 3}
    config |= {"train": {"epochs": 1}, "options": {"replay": {"ratio": 0.5}}, "dtype": "float32"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (by_file,) = matrices_of(evertune_run(str(tmp_path / "run.yaml")))
    flags = evertune_run(
        str(stream),
        model="random",
        methods="replay",
        seed=3,
        out=tmp_path / "b",
        settings=["train.epochs=1", "replay.ratio=0.5", "dtype=float32"],
    )
    (by_flags,) = matrices_of(flags)
    assert by_file.R == by_flags.R and by_file.seed == 3


def test_plan_trains_and_writes_nothing(stream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = subprocess.run(
        [
            warm.python(),
            "-m",
            "evertune",
            "plan",
            str(stream),
            "--model",
            "random",
            "--method",
            "eproj,joint",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    eproj, joint = json.loads(result.stdout)
    assert [stage["task"] for stage in eproj["stages"]] == ["what", "upright"]
    assert [stage["task"] for stage in joint["stages"]] == ["joint"]
    assert joint["stages"][0]["samples"] == sum(stage["samples"] for stage in eproj["stages"])
    assert eproj["trained_parameters"] > 0 and eproj["train_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_stopped_by_sigterm_in_the_middle_of_a_task_equals_uninterrupted(stream, tmp_path):
    """A cluster's notice: the step in progress is saved, the exit code says why it ended, the rest follows."""
    more = ["--method", "replay+ewc", "--set", "reuse=false", "--set", "ewc.samples=4", "--set", "train.save_every=5"]
    process = subprocess.Popen(
        command(stream, tmp_path / "stopped", *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    mid_task = tmp_path / "stopped" / "mid_task.safetensors"
    deadline = time.monotonic() + 120
    while not mid_task.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, result = process.communicate(timeout=240)
    assert process.returncode == 143 and "the same command again continues" in result
    assert "stopped by SIGTERM after step" in result and mid_task.exists()
    run(stream, tmp_path / "stopped", methods="replay+ewc", settings=["reuse=false", "ewc.samples=4"])
    run(stream, tmp_path / "whole", methods="replay+ewc", settings=["reuse=false", "ewc.samples=4"])
    assert significant(tmp_path / "stopped") == significant(tmp_path / "whole") and not mid_task.exists()
