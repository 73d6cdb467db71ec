"""The real trio, offline: a run that is killed in the middle and resumed has in each service every point once."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time

import pytest
import warm

SETTINGS = ["limit=8", "train.epochs=20", "train.learning_rate=0.01", "dtype=float32", "reuse=false"]
SPEED = "train/examples_per_second"


def command(stream, out, *more):
    return [
        *[warm.python(), "-m", "evertune", "run", str(stream), "--model", "random", "--out", str(out)],
        *[part for entry in SETTINGS for part in ("--set", entry)],
        *more,
    ]


def points(folder):
    """Every value of the JSONL as (step, value) by name; not speeds, which no two trainings share."""
    curves = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step", "time", "after", SPEED}:
            curves.setdefault(name, []).append((row["step"], row[name]))
    return curves


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the services keep what they get, by environment variable."""
    base = tmp_path_factory.mktemp("services")
    mlflow = {"MLFLOW_TRACKING_URI": f"sqlite:///{base}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # mlflow can't open a database whose tables were being created when a process was killed
    create = "import mlflow; mlflow.MlflowClient().search_experiments()"
    subprocess.run([sys.executable, "-c", create], check=True, capture_output=True, env=os.environ | mlflow)
    return {"TRACKIO_DIR": str(base / "trackio"), "WANDB_MODE": "offline", "WANDB_API_KEY": "k" * 40, **mlflow}


@pytest.fixture(scope="module")
def resumed(stream, tmp_path_factory, places):
    """A run that was killed in its second stage and finished by the same command."""
    out = tmp_path_factory.mktemp("runs") / "killed"
    arguments, env = command(stream, out, "--track", "trackio,wandb,mlflow", "--json"), os.environ | places
    file, end = out / "metrics.jsonl", out / "stages" / "01-what" / "done.json"
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if end.exists() and len(file.read_text().splitlines()) > json.loads(end.read_text())["steps"] + 5:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert not (out / "stages" / "02-upright" / "done.json").exists()
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0 and "takes no more" not in result.stderr, result.stderr
    assert json.loads(result.stdout)["finished"], "nothing but JSON is printed"
    return out


@pytest.mark.thorough
def test_the_jsonl_is_that_of_an_undisturbed_run(stream, resumed, tmp_path):
    subprocess.run(command(stream, tmp_path / "whole"), check=True, capture_output=True)
    assert points(resumed) == points(tmp_path / "whole")


def test_mlflow_has_every_point_once(resumed, places):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(places["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([client.get_experiment_by_name("evertune").experiment_id])
    found = {}
    for name in points(resumed):
        history = client.get_metric_history(run.info.run_id, name)
        found[name] = sorted((metric.step, metric.value) for metric in history)
    assert found == points(resumed)
    speeds = [metric.step for metric in client.get_metric_history(run.info.run_id, SPEED)]
    assert sorted(speeds) == [step for step, _ in points(resumed)["train/loss"]]
    assert run.info.status == "FINISHED" and run.data.params["method"] == "sequential"
    assert run.data.params["train.epochs"] == "20.0" and run.data.tags["provenance.dtype"] == "float32"


@pytest.mark.thorough
def test_trackio_has_every_point_once(resumed, places, monkeypatch):
    """Read by a process of its own, for trackio reads its environment when it is imported."""
    script = (
        "import json, trackio; (run,) = trackio.Api().runs('evertune');"
        "from trackio.sqlite_storage import SQLiteStorage as Store;"
        "print(json.dumps([run.name, Store.get_logs('evertune', run.name)], default=str))"
    )
    result = subprocess.run(
        [warm.python(), "-c", script], capture_output=True, text=True, check=True, env=os.environ | places
    )
    name, rows = json.loads(result.stdout.splitlines()[-1])
    assert name.startswith("photos-random-sequential-s0-")
    found = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        for key in row.keys() - {"step", "timestamp", SPEED}:
            found.setdefault(key, []).append((row["step"], row[key]))
    assert found == points(resumed)


def records(path):
    """Payloads of a wandb file: LevelDB's log format, blocks of 32 KiB of (checksum, length, kind, bytes)."""
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole = (b"" if kind in (1, 2) else whole) + content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole


def test_the_newest_offline_run_of_wandb_is_whole(resumed):
    from wandb.proto import wandb_internal_pb2 as messages

    newest = sorted((resumed / "wandb").glob("offline-run-*"))[-1]
    found, steps = {}, []
    for data in records(next(newest.glob("*.wandb"))):
        record = messages.Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            assert record.run.run_id == json.loads((resumed / "tracking.json").read_text())["key"]
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps.append(row["step"])
            for name in row.keys() - {"step", "row_step", SPEED} - {n for n in row if n.startswith("_")}:
                found.setdefault(name, []).append((row["step"], row[name]))
    assert found == points(resumed) and steps == sorted(steps)


def test_no_secret_is_in_the_run_folder(resumed, places):
    for path in (path for path in resumed.rglob("*") if path.is_file()):
        assert places["WANDB_API_KEY"].encode() not in path.read_bytes(), path


def test_a_server_that_is_gone_is_said_once(stream, tmp_path):
    gone = {"MLFLOW_TRACKING_URI": "http://me:hunter2hunter2@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    unreachable = {"WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_API_KEY": ""}
    result = subprocess.run(
        command(stream, tmp_path / "run", "--track", "mlflow,wandb"),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | gone | unreachable,
    )
    words = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == 0 and (tmp_path / "run" / "matrix.json").exists(), words
    assert words.count("mlflow takes no more metrics") == words.count("wandb takes no more metrics") == 1
    assert "hunter2" not in words and "WANDB_MODE=offline" in words
