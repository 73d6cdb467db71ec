"""A study's YAML: the one that is shipped is valid to the last option, and mistakes are one clear line."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import made_up
import pytest
import yaml
from commands import evertune

from evertune import UserError
from evertune.data import stream_names
from evertune.experiments.grid import check_methods
from evertune.experiments.grid.cells import FIRST_HELD_OUT_SEED
from evertune.experiments.study import Study, read_study, study_names
from evertune.experiments.study.file import base_stream
from evertune.experiments.study.findings import findings
from evertune.methods import METHODS

SMALL = {
    "name": "small",
    "parts": {
        "tuning": [
            {
                "name": "strengths",
                "streams": ["parcel"],
                "models": ["random"],
                "methods": ["ewc"],
                "seeds": [100],
                "vary": {"ewc.strength": [1, 10]},
            }
        ],
        "main": [
            {
                "name": "table",
                "take": ["strengths"],
                "streams": ["parcel-reversed"],
                "models": ["random"],
                "methods": ["sequential", "ewc"],
            }
        ],
    },
}


def write(folder, change=lambda content: None):
    content = copy.deepcopy(SMALL)
    change(content)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def done(name, folder):
    """A shipped study in a folder where everything has been run, and runs that nobody made."""
    study = Study(read_study(name), folder)
    for part, grid in study.spec.grids():
        runs = []
        for planned in study.planned(part):
            if planned.grid.name == grid.name:
                runs.append(pretended(planned.cell.config))
        made_up.write(study.out / part / grid.name, runs)
    return study


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return done("paper", tmp_path_factory.mktemp("paper"))


def pretended(config):
    known = 5 if "b2" in config.stream else 0
    run = made_up.run(config.stream, config.model, config.method, seed=config.seed, known=known, options=config.options)
    run.settings["train"]["learning_rate"] = config.train.learning_rate
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "plastic"])
def test_every_method_option_stream_and_model_of_the_paper_exists(name, tmp_path):
    assert study_names() == ["paper", "plastic"]
    planned = done(name, tmp_path).planned()
    assert all(run.waits_for is None for run in planned), "everything that is taken has been chosen"
    check_methods([run.cell for run in planned])
    assert {run.cell.config.stream for run in planned} <= set(stream_names())
    assert {run.cell.config.model for run in planned} == {"tiny-aligned", "tiny-instruct"}
    names = [run.cell.name for run in planned]
    assert len(set(names)) == len(names)


def test_the_paper_has_all_methods_both_benchmarks_both_directions_three_seeds(paper):
    streams = ("pocket-b1", "pocket-b1-reversed", "pocket-b2", "pocket-b2-reversed")
    table = paper.spec.grid("methods")
    regularization = {"ewc", "online-ewc", "mas", "lwf", "tir"}
    of_the_paper = {"sequential", "direct", "joint", "replay", "eproj"} | regularization
    assert {part for method in table.methods for part in method.split("+")} == of_the_paper <= set(METHODS)
    assert tuple(place.stream for place in table.streams) == streams and table.seeds == [0, 1, 2]


@pytest.mark.parametrize("name", ["paper", "plastic"])
def test_nothing_is_chosen_on_a_seed_that_a_table_uses(name):
    for _, grid in read_study(name).grids():
        assert all((seed >= FIRST_HELD_OUT_SEED) == bool(grid.vary) for seed in grid.seeds)


def test_every_method_has_the_same_budget(paper):
    """Four values of each setting; docs/study.md says by which rule, and for which settings, the list went on."""
    went_on = {
        ("rates", "train.learning_rate"): 5,
        ("strengths", "online-ewc.strength"): 5,
        ("tir-strengths", "ewc.strength"): 6,
        ("tir-strengths", "mas.strength"): 6,
    }
    for _, grid in paper.spec.grids():
        for key, values in grid.vary.items():
            assert len(values) == went_on.get((grid.name, key), 4), key
    tuned = [grid for _, grid in paper.spec.grids() if grid.vary]
    assert len({(tuple(grid.seeds), str(grid.streams)) for grid in tuned}) == 1


def test_every_setting_of_a_method_is_chosen_and_taken(paper):
    """A method with a strength, a ratio or a threshold gets it from the tuning; all get their rate."""
    table = paper.spec.grid("methods")
    sources = [paper.spec.grid(name) for name in table.take]
    for method in table.methods:
        keys = [key for source in sources for _, key in source.choosing_for(method)]
        wanted = ["train.learning_rate"]
        wanted += [f"{p}.strength" for p in method.split("+") if p in ("ewc", "online-ewc", "mas", "lwf")]
        wanted += ["replay.ratio"] if "replay" in method.split("+") else []
        assert sorted(keys) == sorted(wanted), method
    reuse = paper.spec.grid("eproj-reuse")
    assert [key for name in reuse.take for _, key in paper.spec.grid(name).choosing_for("eproj")] == [
        "train.learning_rate",
        "eproj.threshold",
    ]


def test_the_findings_of_the_paper_lack_no_run(paper):
    found = findings(paper.measured(), paper.spec.questions)
    assert [finding.name for finding in found] == ["F1", "F2", "F3", "F4", "F5"]
    assert not [key for finding in found for one in finding.comparisons for key in one.missing]
    assert all(one.units for finding in found for one in finding.comparisons)


def test_a_reversed_stream_counts_as_its_stream():
    assert base_stream("pocket-b2-reversed") == base_stream("pocket-b2") == "pocket-b2"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["parts"].update(findings=[]), "a part can't be called 'findings'"),
        (lambda c: c["parts"]["main"][0].update(name="strengths"), "two grids are called 'strengths'"),
        (lambda c: c["parts"]["main"][0].update(take=["strength"]), "'strength' is no earlier grid with `vary`"),
        (lambda c: c["parts"]["tuning"][0].update(take=["table"]), "'table' is no earlier grid"),
        (lambda c: c["parts"]["main"][0].update(methods=["mas"]), "'strengths' chooses nothing for mas"),
        (lambda c: c["parts"]["main"][0].update(streams=["pocket-b1"]), "not be tuned on|tuned once on"),
        (lambda c: c["parts"]["tuning"][0].update(models=["random", "smol"]), "tuned once on parcel-reversed"),
        (lambda c: c["parts"]["tuning"][0]["vary"].update({"ewc.samples": [4, 8]}), "several settings of one method"),
        (lambda c: c["parts"]["tuning"][0].update(stands_for={"mas": ["ewc"]}), "unknown method"),
        (lambda c: c["parts"]["main"][0].update(taek=[]), "unknown key 'parts.main.0.taek'"),
        (lambda c: c["parts"]["main"][0].update(options={"replay": {}}), "unknown method of this grid 'replay'"),
        (lambda c: c.update(name="a/b"), "name"),
        (
            lambda c: c["parts"]["main"].append({**c["parts"]["main"][0], "name": "twin"}),
            "twin: ewc on parcel-reversed is run by 'table' too: give one of them a `variant`",
        ),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, change, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        read_study(write(tmp_path, change))
    assert len(str(caught.value).splitlines()) == 1


def test_a_variant_is_no_twin(tmp_path):
    def change(content):
        content["parts"]["main"].append({**content["parts"]["main"][0], "name": "twin", "variant": "again"})

    assert read_study(write(tmp_path, change)).grid("twin").label("ewc") == "ewc (again)"


def test_the_study_of_the_docs_can_be_read(tmp_path):
    text = (Path(__file__).parents[4] / "docs" / "study.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(example)
    study = Study(read_study(str(path)), tmp_path / "out")
    assert {part: study.size(part) for part in study.spec.parts} == {"tuning": 6, "main": 12}


def test_the_numbers_of_runs_in_the_docs_are_right(paper):
    text = (Path(__file__).parents[4] / "docs" / "study.md").read_text()
    for part in paper.spec.parts:
        assert f"| `{part}` | {paper.size(part)} |" in text
    assert f"all {sum(map(paper.size, paper.spec.parts))} runs" in text


@pytest.mark.slow
def test_the_command_lists_and_evaluates_without_starting_a_run(tmp_path, capsys):
    name, out = write(tmp_path), tmp_path / "out"
    code, output, errors = evertune("study", name, "--out", out, "--dry-run", capsys=capsys)
    assert code == 0, errors
    *lines, empty, together = output.splitlines()
    assert empty == "" and together.startswith("4 runs: 4 waiting. Hours and disk ")
    assert lines == [
        *(
            "waiting   strengths/parcel-random/ewc,strength=1/s100",
            "waiting   strengths/parcel-random/ewc,strength=10/s100",
        ),
        *("waiting   table/parcel-reversed-random/sequential/s0", "waiting   table/parcel-reversed-random/ewc/s0"),
    ]
    assert not out.exists()
    runs = [made_up.run("parcel-reversed", "random", seed=0)]
    made_up.write(out / "main" / "table", runs)
    code, output, errors = evertune("study", name, "--out", out, "--only", "findings", "--json", capsys=capsys)
    assert code == 0, errors
    assert json.loads(output)["progress"] == {
        "tuning": {"finished": 0, "runs": 2},
        "main": {"finished": 1, "runs": 2},
    }
    assert {path.name for path in out.iterdir()} == {"main", "study.json", "index.html"}
    code, _, errors = evertune("study", name, "--out", out, "--only", "mian", capsys=capsys)
    assert code == 2 and "did you mean 'main'?" in errors


def test_an_unknown_study_is_told_which_there_are():
    with pytest.raises(UserError, match="unknown study 'papre'; did you mean 'paper'"):
        read_study("papre")
