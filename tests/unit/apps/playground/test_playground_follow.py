"""The playground follows its runs: after a rollback or a new stage it asks, and shows, the stages that are there."""

from __future__ import annotations

import shutil

import pytest

from evertune import service
from evertune.apps.playground.inference import Query, StageInference
from evertune.apps.playground.model_session import open_runs
from evertune.apps.playground.uploads import Uploads
from evertune.data.images import read_image
from evertune.training.stages import stage_folders
from evertune.utils.errors import UserError
from evertune.utils.locks import alone


def query_about(sample):
    return Query(read_image(sample.images[0], origin="test"), sample.instruction)


@pytest.fixture
def folders(taught, tmp_path):
    return [shutil.copytree(taught / name, tmp_path / name) for name in ("eproj", "sequential")]


def replies_of(inference, query):
    return [(run, stage, reply.text) for run, stage, reply in inference.replies(query)]


@pytest.mark.slow
def test_stages_that_are_gone_are_not_asked(folders):
    runs, bench = open_runs(folders)
    inference, query = StageInference(runs, bench, tokens=4), query_about(runs[0].tasks[0].test[0])
    before = replies_of(inference, query)
    assert [place[:2] for place in before] == [(run, stage) for run in (0, 1) for stage in range(4)]
    assert inference.refresh() == runs, "nothing has happened"
    service.rollback(folders[0], 1)
    fresh = inference.refresh()
    assert fresh[1] is runs[1] and [len(run.stages) for run in fresh] == [1, 3]
    assert [task.name for task in fresh[0].tasks] == ["task-0"]
    assert replies_of(inference, query) == [place for place in before if place[:2] not in [(0, 2), (0, 3)]]


def test_what_was_remembered_of_a_changed_run_is_forgotten(folders, monkeypatch):
    """A stage may come back under its number, with other weights."""
    runs, bench = open_runs(folders)
    inference, query = StageInference(runs, bench, tokens=4), query_about(runs[0].tasks[0].test[0])
    replies_of(inference, query)
    third = stage_folders(folders[0])[2]
    shutil.move(third, folders[0] / "aside")
    shutil.copytree(folders[0] / "aside", third)
    inference.refresh()
    loaded, real = [], bench.at
    monkeypatch.setattr(bench, "at", lambda run, stage: loaded.append((run.name, stage)) or real(run, stage))
    replies_of(inference, query)
    assert loaded == [("eproj", stage) for stage in range(4)]


def test_a_run_that_is_damaged_is_told(folders):
    runs, bench = open_runs(folders)
    shutil.rmtree(stage_folders(folders[0])[2])
    shutil.copytree(stage_folders(folders[1])[2], folders[0] / "stages" / "03-task-2")  # of another method
    with pytest.raises(UserError, match="trained in another run, with another configuration"):
        StageInference(runs, bench, tokens=4).refresh()


@pytest.mark.slow
def test_a_stage_that_may_be_discarded_is_not_shown(folders):
    whole = shutil.copytree(folders[0], folders[0].parent / "whole")
    open_runs(folders)  # keeps the questions
    service.rollback(folders[0], 2)
    runs, bench = open_runs(folders)
    inference = StageInference(runs, bench, tokens=4)
    third = stage_folders(whole)[2]
    with alone(folders[0]):
        shutil.copytree(third, folders[0] / "stages" / third.name)
        assert [len(run.stages) for run in inference.refresh()] == [2, 3]
    assert [len(run.stages) for run in inference.refresh()] == [3, 3]


@pytest.mark.slow
def test_the_page_is_made_again(folders, tmp_path):
    page = pytest.importorskip("evertune.apps.playground.page")
    ground = page.Playground(*open_runs(folders), tokens=4, uploads=Uploads(tmp_path))
    assert "task-2" in ground.matrices("strict")
    version, notice, *rest = ground.current(0, "strict")
    assert version == 0 and all(part == page.gr.skip() for part in (notice, *rest))
    for folder in folders:
        service.rollback(folder, 1)
    version, _, head, stages, tasks, maps = ground.current(0, "strict")
    assert version == 1 and ground.last == stages.value == 1
    assert stages.choices == [("base", 0), ("task-0", 1)], "by name"
    assert "task-2" not in maps and "task-2" not in head and [name for name, _ in tasks.choices] == ["task-0"]
    assert ground.current(0, "strict")[0] == 1, "another page that was made before"
    service.rollback(folders[0], 0)
    version, notice, *_ = ground.current(1, "strict")
    assert version == 1 and "has learned nothing yet" in notice
