"""`stages.keep`: old stages lose their weights, and nothing else; kept ones can be loaded and gone back to."""

from __future__ import annotations

import json

import pytest
from commands import evertune as command

import evertune
from evertune.runs.api import open_run
from evertune.runs.config import RunConfig
from evertune.runs.plan.outline import stages_kept
from evertune.service.integrity import examine
from evertune.service.lifecycle import rollback
from evertune.training.stages import FILES, THINNED, load_stage, saved_stages
from evertune.training.thinning import is_kept, thin
from evertune.utils.errors import RunFolderError

SETTINGS = ["train.learning_rate=0.01", "train.epochs=2"]


def run(stream, out, *, keep, methods="sequential", **options):
    settings = [*SETTINGS, f"stages.keep={keep}"]
    return evertune.run(str(stream), model="random", methods=methods, out=out, settings=settings, **options)


def with_weights(folder):
    return [
        stage.number
        for stage in saved_stages(folder)
        if (folder / "stages" / f"{stage.number:02d}-{stage.task}" / FILES[0]).exists()
    ]


def test_which_stages_are_kept():
    def kept(keep):
        return [number for number in range(1, 8) if is_kept(keep, number, last=7)]

    assert kept("all") == [1, 2, 3, 4, 5, 6, 7]
    assert kept("last") == [7]
    assert kept("every 3") == [3, 6, 7]
    assert stages_kept([], "every 3", 7) == 3


@pytest.mark.parametrize("keep", ["every", "every 0", "5", "first", "every -1", "every 1.5"])
def test_another_word_is_refused(keep):
    with pytest.raises(ValueError, match="keep"):
        RunConfig(stream="parcel", stages={"keep": keep})


@pytest.mark.slow
def test_a_thinned_run_has_the_same_scores_and_can_go_back_to_what_it_keeps(toy_stream, tmp_path, capsys):
    whole = run(toy_stream, tmp_path / "whole", keep="all").runs["sequential"].matrix
    out = tmp_path / "part"
    thinned = run(toy_stream, out, keep="every 2").runs["sequential"].matrix
    assert (thinned.R, thinned.metrics) == (whole.R, whole.metrics)
    assert with_weights(out) == [2, 3]
    assert with_weights(tmp_path / "whole") == [1, 2, 3]
    assert not examine(out)
    learner = open_run(out)
    with pytest.raises(RunFolderError, match=r"was thinned out \(stages\.keep\).*Stages with weights: 0, 2, 3"):
        learner.load(1)
    ledger = (out / "ledger.jsonl").read_bytes()
    code, _, said = command("rollback", out, "--to", "1", "--yes", capsys=capsys)
    assert code
    assert "was thinned out" in said
    assert (out / "ledger.jsonl").read_bytes() == ledger
    code, _, said = command("export", out, "--stage", "1", "--to", tmp_path / "exported", capsys=capsys)
    assert code
    assert "was thinned out" in said
    rollback(out, 2)
    assert len(saved_stages(out)) == 2
    again = run(toy_stream, out, keep="last").runs["sequential"].matrix
    assert again.R == whole.R
    assert with_weights(out) == [3]


@pytest.mark.slow
def test_an_interrupted_thinning_is_finished_by_the_next_call(toy_stream, tmp_path):
    out = tmp_path / "run"
    run(toy_stream, out, keep="all")
    first, *_ = sorted((out / "stages").iterdir())
    (first / THINNED).write_text(json.dumps({"keep": "last"}))
    (first / FILES[0]).unlink()
    assert thin(out, "last") == [1, 2]
    assert not thin(out, "last")
    assert with_weights(out) == [3]
    (out / "stages" / first.name / "training.jsonl").write_text("")
    assert [finding.path.name for finding in examine(out)] == ["training.jsonl"]  # that one was no wish


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kept"), [("eproj", [1, 2, 3]), ("olora", [2, 3]), ("ewc", [3]), ("replay", [3])]
)  # stage 2 of olora has the first adapter
def test_what_later_stages_refer_to_stays(toy_stream, tmp_path, method, kept):
    out = tmp_path / "run"
    whole = run(toy_stream, out, keep="all", methods=method).runs[method].matrix
    stage = saved_stages(out)[-1]
    before = load_stage(out, stage)
    thin(out, "last")
    assert not examine(out)
    after = load_stage(out, stage)
    assert after[0].keys() == before[0].keys()
    assert with_weights(out) == kept
    again = run(toy_stream, out, keep="last", methods=method).runs[method].matrix
    assert again.R == whole.R


@pytest.mark.slow
def test_cells_of_a_thinned_stage_stay_null_with_a_warning(toy_stream, tmp_path):
    said = []

    class Listen(evertune.Callback):
        def on_warning(self, text):
            said.append(text)

    out = tmp_path / "run"
    settings = [*SETTINGS, "stages.keep=last"]

    def once(cells):
        more = [*settings, f"evaluation.cells={cells}"]
        options = {"model": "random", "methods": "sequential", "out": out, "callbacks": [Listen()]}
        return evertune.run(str(toy_stream), settings=more, **options).runs["sequential"].matrix

    once("final")
    matrix = once("all")
    assert [row.count(None) for row in matrix.R] == [0, 2, 2, 0]
    assert sum("was thinned out" in text for text in said) == 2
    said.clear()
    assert once("all").R == matrix.R
    assert not said  # finished
