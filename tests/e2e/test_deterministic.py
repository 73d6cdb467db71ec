"""`--deterministic`: the same bits again, whatever the cache holds and however many threads there are.

`KNOWN` has the hash of a small run by kind of machine and version of torch. It is made by arithmetic whose last bits
belong to the processor and the library: on others the test says that it does not know, and compares nothing. A change
of ours that moves it moves numbers: then change it here, and say so in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import pytest
import torch
import yaml
from test_run import significant
from typer.testing import CliRunner

from evertune import UserError
from evertune import run as evertune_run
from evertune.cli.main import app
from evertune.models.auto_dtype import pick_dtype
from evertune.models.weights import fingerprint_of
from evertune.service import learn, new, parsed
from evertune.tools.data.source import Hints
from evertune.training.states import read_tensors
from evertune.utils.device import as_before, is_deterministic, no_fixed_order, processor, settle

SETTINGS = ["train.epochs=2", "train.learning_rate=0.01", "train.batch_size=2"]
KNOWN = {("x86_64", "6-207-2 Intel(R) Xeon(R) Processor (AVX512)", "2.13.0"): "e06e47a6c14d16b7"}
"""By machine, processor (family, model, stepping; what torch uses of it) and torch's version."""


@pytest.fixture(autouse=True)
def _undone():
    with as_before():
        yield


def run(stream, out, methods="replay+ewc", **more):
    settings = [*SETTINGS, *(["ewc.samples=4"] if "ewc" in methods else [])]
    evertune_run(str(stream), model="random", methods=methods, out=out, settings=settings, **more)


@pytest.fixture(scope="module")
def first(toy_stream, tmp_path_factory):
    """A deterministic run with a cache of its own."""
    place = tmp_path_factory.mktemp("deterministic")
    with pytest.MonkeyPatch.context() as patch, as_before():
        patch.setenv("EVERTUNE_CACHE", str(place / "cache"))
        run(toy_stream, place / "run", deterministic=True)
    return place / "run"


def test_the_same_bits_whatever_the_cache_holds_and_with_other_threads(first, toy_stream, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    settle(deterministic=True)
    run(toy_stream, tmp_path / "other", methods="joint", deterministic=True)  # images of all tasks in one go
    settle(deterministic=False)
    torch.set_num_threads(2)
    run(toy_stream, tmp_path / "run", deterministic=True)
    assert significant(tmp_path / "run") == significant(first)
    assert torch.get_num_threads() == 2, "only while it ran"


def test_it_is_stamped_and_part_of_what_the_run_is(first, toy_stream):
    assert yaml.safe_load((first / "config.yaml").read_text())["deterministic"] is True
    provenance = json.loads((first / "provenance.json").read_text())
    assert (provenance["deterministic"], provenance["threads"], provenance["dtype"]) == (True, 1, "float32")
    with pytest.raises(UserError, match="holds a run started with deterministic=true; requested deterministic=null"):
        run(toy_stream, first)


def model_of_processor():
    """Two processors of one name may differ in the last bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return ""
    facts = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    return "-".join(facts.get(key, "") for key in ("cpu family", "model", "stepping"))


def test_the_hash_of_this_kind_of_machine(first):
    machine = (platform.machine(), f"{model_of_processor()} {processor()}", torch.__version__.partition("+")[0])
    if machine not in KNOWN:
        pytest.skip(f"no hash is known for {machine}: a rerun is compared with a rerun only; it is {hashed(first)}")
    assert hashed(first) == KNOWN[machine], "other numbers than before on the same kind of machine"


def hashed(folder):
    """Over losses, trained weights and what was said."""
    total = hashlib.sha256()
    for stage in sorted(folder.glob("stages/*")):
        weights, _ = read_tensors(stage / "trainable.safetensors")
        total.update(fingerprint_of(weights).encode() + (stage / "training.jsonl").read_bytes())
    for path in sorted(folder.glob("answers/*/*.jsonl")):
        total.update("\n".join(json.loads(line)["answer"] for line in path.read_text().splitlines()).encode())
    return total.hexdigest()[:16]


def test_the_flag_and_a_model_in_service(toy_stream, tasks, tmp_path):
    out, model = tmp_path / "run", tmp_path / "model"
    given = ["run", str(toy_stream), "--model", "random", "--out", str(out), "--limit", "2", "--deterministic"]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["deterministic"] is True
    assert CliRunner().invoke(app, ["new", str(model), "--model", "random", "--method", "sequential"]).exit_code == 0
    rows = str(toy_stream.parent / "task-0-train.jsonl")
    hints = Hints(images=str(tasks[0].train[0].images[0].parent))
    with pytest.raises(UserError, match="was made without --deterministic, and so were its stages"):
        learn(model, rows, hints=hints, deterministic=True)
    strict = tmp_path / "strict"
    new(strict, model="random", method="sequential", settings=["deterministic=true"])
    settings = ["train.min_steps=0"]
    learn(strict, rows, hints=hints, deterministic=True, settings=settings, accept_if=parsed("gain>=-100"))
    assert is_deterministic() and json.loads((strict / "provenance.json").read_text())["deterministic"] is True


def test_what_has_no_fixed_order_is_said():
    settle(deterministic=True)
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    message = "put_ does not have a deterministic implementation, but you set 'x'. You can turn off determinism"
    refused = pytest.raises(UserError, match="deterministic: put_ does not have a deterministic implementation; leave")
    with refused, no_fixed_order():
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="else"), no_fixed_order():
        raise RuntimeError("something else")
