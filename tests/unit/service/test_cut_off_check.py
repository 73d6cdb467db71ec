"""`learn` is killed after its stage is written and before the stage is accepted: the stage is not part of the model.

The same command completes the check without training again; others say what to do.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from evertune import service as upkeep
from evertune.apps.server.reload import has_moved, marks_of
from evertune.runs.api import open_run
from evertune.runs.callback import Callback
from evertune.runs.unchecked import FILE, unchecked_stage
from evertune.service.integrity import examine
from evertune.service.lifecycle import history
from evertune.service.service import Service
from evertune.training.stages import FILES
from evertune.utils.errors import RunFolderError, UserError

SETTINGS = ["train.learning_rate=0.01", "train.batch_size=4", "train.min_steps=0"]
ANYHOW = "gain>=-100"
KILLED = """
import os, signal, sys
from pathlib import Path
from evertune import service
from evertune.runs import runner
from evertune.service import lifecycle

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

moment, folder, data = sys.argv[1:]
if moment == "before the ledger":
    append = runner.append_jsonl
    runner.append_jsonl = lambda path, row: killed() if row["event"] == "stage" else append(path, row)
if moment == "before the questions":
    learned = lifecycle.learn_stage
    lifecycle.learn_stage = lambda *given: (learned(*given), killed())
if moment == "before the verdict":
    lifecycle._verdict = killed
service.learn(Path(folder), data, accept_if=service.parsed("average>1000"))
"""


class Steps(Callback):
    """Counts optimizer steps."""

    count = 0

    def on_step_end(self, step, *, samples):
        self.count += 1


@pytest.fixture(scope="module")
def data(toy_stream, tmp_path_factory):
    """One stream file per toy task."""
    whole, place = yaml.safe_load(toy_stream.read_text()), tmp_path_factory.mktemp("data") / "files"
    shutil.copytree(toy_stream.parent, place)
    found = []
    for entry in whole["tasks"]:
        path = place / f"only-{entry['name']}.yaml"
        path.write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
        found.append(str(path))
    return found


@pytest.fixture(scope="module")
def taught_one(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught") / "model"
    upkeep.new(folder, model="random", method="replay", seed=3, settings=SETTINGS)
    upkeep.learn(folder, data[0], accept_if=upkeep.parsed(ANYHOW))
    return folder


@pytest.fixture(scope="module")
def cut_off(data, taught_one, tmp_path_factory):
    """By moment, a model whose second `learn` was killed."""
    made = {}

    def of(moment):
        if moment not in made:
            made[moment] = shutil.copytree(taught_one, tmp_path_factory.mktemp("cut") / "model")
            command = [sys.executable, "-c", KILLED, moment, str(made[moment]), data[1]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == -signal.SIGKILL, done.stderr
        return made[moment]

    return of


def weights(folder):
    (place,) = (folder / "stages").glob("02-*")
    return [(place / file).read_bytes() for file in FILES]


@pytest.mark.parametrize(
    "moment",
    [
        "before the questions",
        *(pytest.param(other, marks=pytest.mark.thorough) for other in ("before the ledger", "before the verdict")),
    ],
)
def test_the_same_command_completes_the_check(data, cut_off, tmp_path, moment):
    """Whether the condition holds or not; the stage that was trained stays what it is."""
    for condition, kept in ((ANYHOW, True), ("average>1000", False)):
        folder, steps = shutil.copytree(cut_off(moment), tmp_path / str(kept)), Steps()
        before = weights(folder)
        done = upkeep.learn(folder, data[1], accept_if=upkeep.parsed(condition), callback=steps)
        assert steps.count == 0 and done.stage == 2 and bool(done.broken) != kept and done.steps > 0
        assert Service.open(folder).number == 1 + kept and not (folder / FILE).exists()
        assert [row["event"] for row in history(folder)] == ["stage", "stage", *([] if kept else ["rollback"])]
        if kept:
            assert weights(folder) == before and upkeep.check(folder).others[1].task == "task-1"
        assert examine(folder) == []


def test_the_stage_is_not_part_of_the_model_until_then(data, taught_one, cut_off):
    folder = cut_off("before the questions")
    assert unchecked_stage(folder).stage == 2 and weights(folder)
    assert Service.open(folder).number == len(open_run(folder).stages) == 1
    assert marks_of(folder).keys() == marks_of(taught_one).keys() and not has_moved(folder, marks_of(folder))
    assert [change.task for change in upkeep.check(folder).others] == ["task-0"]
    (finding,) = examine(folder)
    assert finding.path.name == FILE and "rollback" in finding.what


def test_another_command_says_what_to_do(data, cut_off, tmp_path):
    folder = shutil.copytree(cut_off("before the questions"), tmp_path / "model")
    for path, settings in ((data[2], ()), (data[1], ("train.epochs=2",))):
        with pytest.raises(UserError, match=r"stage 2 \('task-1'\) was learned, but its check was cut off.*--to 1"):
            upkeep.learn(folder, path, settings=settings)
    assert upkeep.rollback(folder, 1) == ["task-1"]
    assert not (folder / FILE).exists() and not list((folder / "stages").glob("02-*"))
    assert upkeep.learn(folder, data[2], accept_if=upkeep.parsed(ANYHOW)).stage == 2


def test_a_note_without_its_stage_means_nothing_and_a_damaged_one_is_said(data, taught_one, tmp_path):
    folder = shutil.copytree(taught_one, tmp_path / "model")
    (folder / FILE).write_text('{"stage": 2, "task": "task-1", "training": {}}')
    assert unchecked_stage(folder) is None and examine(folder) == []
    for content in ("[]", "{}", '{"stage": 2, "task": "../x", "training": {}}'):
        (folder / FILE).write_text(content)
        with pytest.raises(RunFolderError):
            unchecked_stage(folder)
        assert len(examine(folder)) == 1
