"""A stage is accepted only in the run that it was trained in, after the stage that it was trained after."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import evertune
from evertune import service
from evertune.methods import make_methods
from evertune.models import load_lmm
from evertune.service.integrity import examine, repair
from evertune.training.learner import Learner
from evertune.training.stages import saved_stages
from evertune.utils.errors import RunFolderError
from evertune.utils.files import digest_of

SETTINGS = ("train.learning_rate=0.01", "train.epochs=1", "dtype=float32")
OTHERS = {
    "seed": {"seed": 1},
    "setting": {"settings": [*SETTINGS, "train.weight_decay=0.1"]},
    "option": {"settings": [*SETTINGS, "options.replay.ratio=0.5"]},
}
ELSEWHERE = r"was trained in another run, with another (configuration|model)"


def run(stream, out, **changed):
    evertune.run(str(stream), out=out, **{"model": "random", "methods": "replay", "settings": [*SETTINGS], **changed})
    return out


@pytest.fixture(scope="module")
def whole(toy_stream, tmp_path_factory):
    return run(toy_stream, tmp_path_factory.mktemp("chain") / "run")


@pytest.fixture
def mixed(whole, tmp_path):
    """Makes a copy of the run that has one stage of another folder."""

    def made(other, number):
        folder = shutil.copytree(whole, tmp_path / "mixed")
        (place,) = (folder / "stages").glob(f"{number:02d}-*")
        shutil.rmtree(place)
        shutil.copytree(other / "stages" / place.name, place)
        return folder

    return made


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("stages/*/*.safetensors"))}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stage_of_another_run_is_refused_named_and_trained_again(whole, mixed, toy_stream, tmp_path, what, number):
    folder = mixed(run(toy_stream, tmp_path / "other", **OTHERS[what]), number)
    with pytest.raises(RunFolderError, match=rf"{number:02d}-task-{number - 1} {ELSEWHERE}"):
        saved_stages(folder)
    (folder / "matrix.json").unlink()  # else the run is finished and answers at once
    for command in (
        lambda: run(toy_stream, folder),
        lambda: service.check(folder),
        lambda: service.rollback(folder, 1),
    ):
        with pytest.raises(RunFolderError, match=ELSEWHERE):
            command()
    assert [finding.stage for finding in examine(folder)] == [number]
    assert repair(folder).left == []
    assert files(folder) == files(whole)


def test_a_stage_of_another_start_is_refused(whole, mixed, tmp_path):
    """The same configuration, of a checkpoint with other weights."""
    other = shutil.copytree(whole, tmp_path / "other")
    for path in other.glob("stages/*/done.json"):
        content = json.loads(path.read_text())
        content["run"]["model"] = "0" * 64
        content.pop("seal")
        path.write_text(json.dumps({**content, "seal": digest_of(content)}))
    with pytest.raises(RunFolderError, match="was trained in another run, with another model"):
        saved_stages(mixed(other, 2))


def learner(folder):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    return Learner(lmm, make_methods("sequential"), folder=folder)


def test_a_stage_after_another_stage_is_refused(tasks, tmp_path):
    """Everything is equal but what was learned before."""
    for name, order in {"a": (0, 1, 2), "b": (2, 1, 0)}.items():
        for at in order:
            learner(tmp_path / name).learn(tasks[at])
    place = tmp_path / "a" / "stages" / "02-task-1"
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "b" / "stages" / "02-task-1", place)
    with pytest.raises(RunFolderError, match=r"02-task-1 was trained after another stage 1 than the one that is here"):
        learner(tmp_path / "a")


def test_what_is_legitimate_stays_so(whole, toy_stream, tmp_path):
    """Moved, rolled back and trained again, and with trainings of the cache that other runs have made."""
    moved = shutil.copytree(whole, tmp_path / "elsewhere" / "moved")
    assert len(saved_stages(moved)) == 3 and examine(moved) == []
    service.rollback(moved, 1)
    run(toy_stream, moved)
    assert files(moved) == files(whole) and examine(moved) == []
    joined = run(toy_stream, tmp_path / "sequential", methods="sequential")
    assert any(stage.reused for stage in saved_stages(joined)) and examine(joined) == []


@pytest.mark.parametrize(
    ("without", "message"), [("seal", "was changed: its checksum"), ("run", "doesn't say of which run")]
)
def test_a_stage_that_lacks_its_seal_or_its_run_is_refused(whole, toy_stream, tmp_path, without, message):
    folder = shutil.copytree(whole, tmp_path / "other")
    (folder / "matrix.json").unlink()
    for path in folder.glob("stages/*/done.json"):
        content = {key: value for key, value in json.loads(path.read_text()).items() if key not in (without, "seal")}
        path.write_text(json.dumps(content | ({} if without == "seal" else {"seal": digest_of(content)})))
    with pytest.raises(RunFolderError, match=rf"01-task-0/done.json {message}"):
        run(toy_stream, folder)
