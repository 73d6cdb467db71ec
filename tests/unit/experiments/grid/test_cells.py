"""A grid's YAML: which runs it stands for, their names, their order, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from evertune import UserError
from evertune.experiments.grid import Grid, cells_of, read_grid, state_of
from evertune.experiments.grid.cells import held_out_note
from evertune.experiments.grid.results import not_alike
from evertune.experiments.grid.run import default_jobs, doing, threads_each
from evertune.reporting.matrix import Matrix
from evertune.runs.config import RunConfig
from evertune.utils.config_io import setting_text, value_text
from evertune.utils.files import append_jsonl, digest_of_file, write_json

SMALL = {"name": "small", "streams": ["parcel"], "models": ["random"], "methods": ["sequential", "ewc"]}


def write(folder, **content):
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **content}, sort_keys=False))
    return path


def cells(folder, **content):
    return cells_of(read_grid(write(folder, **content)), out=folder / "out")


def test_seeds_are_outermost_then_streams_then_methods_as_listed(tmp_path):
    found = cells(tmp_path, seeds=[1, 0], streams=["parcel", "parcel-reversed"], methods=["direct", "ewc"])
    assert [cell.name for cell in found] == [
        *("parcel-random/direct/s1", "parcel-random/ewc/s1"),
        *("parcel-reversed-random/direct/s1", "parcel-reversed-random/ewc/s1"),
        *("parcel-random/direct/s0", "parcel-random/ewc/s0"),
        *("parcel-reversed-random/direct/s0", "parcel-reversed-random/ewc/s0"),
    ]
    assert found[0].folder == tmp_path / "out" / "parcel-random" / "direct" / "s1"
    assert found[0].config.seed == 1 and found[-1].config.stream == "parcel-reversed"


def test_a_stream_may_bring_its_model(tmp_path):
    found = cells(tmp_path, streams=[{"stream": "parcel", "model": "smol"}, "pocket-b1"], methods=["direct"])
    assert [(cell.config.stream, cell.config.model) for cell in found] == [
        ("parcel", "smol"),
        ("pocket-b1", "random"),
    ]


def test_a_varied_option_is_for_its_method_and_train_is_for_all(tmp_path):
    vary = {"ewc.strength": [0, "1e2"], "train.epochs": [1, 0.5]}
    found = cells(tmp_path, methods=["sequential", "replay + ewc"], vary=vary)
    assert [cell.name.split("/")[1] for cell in found] == [
        *("sequential,train.epochs=1", "sequential,train.epochs=0.5"),
        *("replay+ewc,ewc.strength=0,train.epochs=1", "replay+ewc,ewc.strength=0,train.epochs=0.5"),
        *("replay+ewc,ewc.strength=100,train.epochs=1", "replay+ewc,ewc.strength=100,train.epochs=0.5"),
    ]
    assert [cell.config.train.epochs for cell in found[:2]] == [1.0, 0.5]
    assert found[0].config.options == {} and found[-1].config.options == {"ewc": {"strength": 100.0}}


def test_a_run_gets_the_settings_of_the_grid_and_only_its_own_options(tmp_path):
    options = {"replay": {"ratio": 0.05}, "ewc": {"samples": 4}}
    found = cells(tmp_path, methods=["sequential", "replay", "ewc"], options=options, limit=7, train={"epochs": 2})
    assert [cell.config.options for cell in found] == [{}, {"replay": {"ratio": 0.05}}, {"ewc": {"samples": 4}}]
    assert all(cell.config.limit == 7 and cell.config.train.epochs == 2 for cell in found)
    varied = cells(tmp_path, methods=["ewc"], options={"ewc": {"samples": 4}}, vary={"ewc.strength": [1]})
    assert varied[0].config.options == {"ewc": {"samples": 4, "strength": 1}}


def test_a_stream_file_counts_from_the_grid(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "tasks": [{"name": "a", "data": "a.jsonl"}]}))
    found = cells(tmp_path, streams=["mine.yaml"], methods=["direct"])
    assert found[0].config.stream == str(tmp_path / "mine.yaml") and found[0].name == "mine-random/direct/s0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e6, "1e6"),
        (1000, "1e3"),
        (100.0, "100"),
        (0, "0"),
        (0.05, "0.05"),
        (5e-4, "5e-4"),
        (128, "128"),
        (-2.5, "-2.5"),
        ("all", "all"),
        (True, "True"),
        (None, "None"),
        (1.2345678e-7, "1.2345678e-07"),
    ],
)
def test_values_are_written_short_and_exactly(value, text):
    assert value_text(value) == text


def test_close_values_have_different_names():
    assert value_text(0.12345678) != value_text(0.12345679)
    assert setting_text("ewc.strength", 1e4, method="ewc") == "strength=1e4"
    assert setting_text("ewc.strength", 1e4, method="replay+ewc") == "ewc.strength=1e4"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"method": ["ewc"]}, "unknown key 'method'; did you mean 'methods'?"),
        ({"train": {"epoch": 1}}, "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (
            {"streams": [{"stream": "parcel", "modle": "x"}]},
            "unknown key 'streams.0.modle'; did you mean 'streams.0.model'?",
        ),
        ({"streams": ["parzel"]}, "unknown stream 'parzel'; did you mean 'parcel'?"),
        ({"streams": []}, "streams: "),
        ({"name": "../up"}, "name: "),
        ({"seeds": [0, -1]}, "seed: "),
        ({"seeds": [0, 0]}, "has the run parcel-random/sequential/s0 twice"),
        ({"vary": {"ewc.strength": [1, "1e0"]}}, "twice"),
        ({"vary": {"ecw.strength": [1]}}, "unknown method of this grid 'ecw'; did you mean 'ewc'?"),
        ({"vary": {"ewc": [1]}}, "write 'ewc' as METHOD.OPTION"),
        ({"vary": {"ewc.strength": []}}, "with a list of values"),
        ({"vary": {"train.epoch": [1]}}, "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ({"options": {"replay": {"ratio": 0.1}}}, "unknown method of this grid 'replay'"),
    ],
)
def test_mistakes_name_the_file_or_the_run_and_the_way_out(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint.replace("?", r"\?").replace("[", r"\[")) as raised:
        cells(tmp_path, **content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"methods": ["sequental"]}, "did you mean 'sequential'?"),
        ({"methods": ["sequential,ewc"]}, "write methods as a list"),
        ({"vary": {"ewc.strenght": [1]}}, "method 'ewc' has no option 'strenght'; did you mean 'ewc.strength'?"),
    ],
)
def test_wrong_methods_and_options_stop_the_grid_before_it_starts(tmp_path, content, complaint, photos):
    with pytest.raises(UserError, match=complaint.replace("?", r"\?")):
        Grid(cells(tmp_path, streams=[str(photos)], **content))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def photos(tmp_path):
    """A stream of two rows, never trained on here."""
    from PIL import Image

    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
        row = {"image": f"{name}.png", "instruction": "Colour?", "answer": colour}
        append_jsonl(tmp_path / f"{name}.jsonl", row)
    tasks = [{"name": "colour", "train": "a.jsonl", "test": "b.jsonl"}]
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump({"name": "photos", "tasks": tasks}))
    return tmp_path / "photos.yaml"


def write_matrix(folder, *, stages, rows):
    R = [[0.0, 0.0]] * rows
    write_json(folder / "matrix.json", Matrix("random", "toy", "sequential", 0, ["a", "b"], stages, R).to_dict())


def finished(cell, grid_key):
    """What a finished run leaves, as far as a grid looks at it."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text("seed: 0\n")
    write_matrix(cell.folder, stages=[], rows=1)
    config = digest_of_file(cell.folder / "config.yaml")
    write_json(cell.file("checked"), {"key": grid_key, "config": config, "seconds": 2.0})


@pytest.mark.slow
def test_what_counts_as_finished(tmp_path, photos):
    def grid(**more):
        return Grid(cells(tmp_path, streams=[str(photos)], methods=["sequential"], **more), jobs=1)

    (cell,) = cells(tmp_path, streams=[str(photos)], methods=["sequential"])
    before = grid()
    assert before.finished == [] and state_of(cell) == "waiting"
    finished(cell, before.keys[cell.name])
    assert grid().finished == [cell] and state_of(cell) == "finished"
    assert grid(train={"epochs": 2}).finished == [], "other settings"
    (cell.folder / "config.yaml").write_text("seed: 1\n")
    assert grid().finished == [], "another run lies there"
    (cell.folder / "config.yaml").write_text("seed: 0\n")
    assert grid().finished == [cell]
    write_matrix(cell.folder, stages=["a"], rows=1)
    assert grid().finished == [] and state_of(cell) == "begun"
    write_matrix(cell.folder, stages=[], rows=1)
    append_jsonl(tmp_path / "a.jsonl", {"image": "a.png", "instruction": "Hue?", "answer": "red"})
    assert grid().finished == [], "other data"


def test_jobs_and_threads(monkeypatch):
    monkeypatch.setattr("evertune.experiments.grid.run._cores", lambda: 12)
    monkeypatch.setattr("evertune.utils.device.pick_device", lambda: torch.device("cpu"))
    assert default_jobs() == 12
    monkeypatch.setattr("evertune.utils.device.pick_device", lambda: torch.device("cuda"))
    assert default_jobs() == 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_each(jobs) for jobs in (1, 5, 12, 40)] == ["12", "2", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_each(5) == "3"


def test_what_a_run_is_doing_is_read_from_its_ledger(tmp_path):
    def reason():
        return doing(tmp_path, tasks=["a", "b"])

    def cell(stage, task):
        known = {"stage": stage, "task": task, "score": 0.0, "relaxed": 0.0, "answers": "answers/x.jsonl"}
        append_jsonl(tmp_path / "ledger.jsonl", {"event": "cell", "cell": known, "sha256": "", "seconds": 0.0})

    assert reason() == "starting"
    cell(0, "a")
    assert reason() == "row 0: 1 of 2 tasks answered"
    cell(0, "b")
    write_matrix(tmp_path, stages=["a"], rows=1)
    assert reason() == "learning a (1 of 1)"
    append_jsonl(tmp_path / "ledger.jsonl", {"event": "stage", "stage": 1, "task": "a"})
    assert reason() == "row 1: 0 of 2 tasks answered"
    cell(1, "a")
    cell(1, "b")
    assert reason() == "writing the report"
    (tmp_path / "matrix.json").write_text("{")
    assert reason() == ""


def test_varying_on_test_seeds_is_noted(tmp_path):
    vary = {"ewc.strength": [1, 2]}
    assert held_out_note(read_grid(write(tmp_path, vary=vary, seeds=[100, 101]))) is None
    assert held_out_note(read_grid(write(tmp_path, seeds=[0]))) is None
    note = held_out_note(read_grid(write(tmp_path, vary=vary, seeds=[0, 100])))
    assert note == "seeds below 100 are test seeds: choose by others, not by 0"


def test_runs_that_were_not_made_alike_are_noted():
    def run(model, **changes):
        made_with = {"model_fingerprint": model, "dtype": "float32", "device": "cpu", "threads": 1, "torch": "2"}
        return {"model": model, "made_with": made_with | changes}

    assert not_alike([run("random"), run("smol"), run("random"), {"model": "random"}]) == []
    found = not_alike([run("random", dtype="bfloat16"), run("random"), run("smol")])
    assert found == ["not all runs of a model were made with the same dtype: bfloat16, float32"]


RUNS = {"table.yaml": 24, "ewc_strength.yaml": 6, "tir_strength.yaml": 6, "auto.yaml": 6, "auto_others.yaml": 12}


@pytest.mark.parametrize("name", RUNS)
def test_the_grids_of_the_benchmarks_are_valid(tmp_path, name):
    path = Path(__file__).parents[4] / "benchmarks" / name
    found = cells_of(read_grid(path), out=tmp_path)
    assert len(found) == RUNS[name]
    assert all(isinstance(cell.config, RunConfig) for cell in found)
