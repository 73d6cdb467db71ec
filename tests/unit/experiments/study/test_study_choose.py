"""The tuning rule, what takes its values, and `chosen.json`; on results that nobody measured."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace

import made_up
import pytest
from test_study_file import write

from evertune import UserError
from evertune.experiments.grid import GridCallback
from evertune.experiments.study import Study, read_study
from evertune.experiments.study.result import result_of
from evertune.utils.files import read_json


def tried(**finals):
    """Runs of ewc on parcel: {'1': {100: 40.0, 101: 50.0}} is strength 1 with two seeds and their final averages."""
    runs = []
    for value, by_seed in finals.items():
        for seed, final in by_seed.items():
            run = made_up.run("parcel", "random", "ewc", seed=seed, options={"ewc": {"strength": float(value)}})
            metrics = run.metrics | {"final_average": final}
            runs.append(replace(run, R=[*run.R[:-1], [final] * 4], metrics=metrics))
    return runs


def study(folder, runs=(), change=lambda content: None):
    def two_seeds(content):
        content["parts"]["tuning"][0].update(seeds=[100, 101])
        content["parts"]["tuning"][0]["vary"] = {"ewc.strength": [1, 10, 100]}
        change(content)

    made = Study(read_study(write(folder, two_seeds)), folder / "out")
    if runs:
        made_up.write(made.out / "tuning" / "strengths", runs)
    return made


WON_BY_TEN = {"1": {100: 50.0, 101: 10.0}, "10": {100: 30.0, 101: 40.0}, "100": {100: 45.0, 101: 20.0}}


def test_the_highest_mean_over_the_seeds_is_chosen(tmp_path):
    """Not the highest single run, which strength 1 has."""
    (choice,) = study(tmp_path, tried(**WON_BY_TEN)).choices()
    assert (choice.method, choice.key, choice.value, choice.seeds) == ("ewc", "ewc.strength", 10.0, (100, 101))
    assert choice.means == ((1.0, 30.0), (10.0, 35.0), (100.0, 32.5)) and not choice.at_edge


def test_of_equal_ones_the_first_listed_is_chosen_and_an_edge_is_said(tmp_path):
    finals = {value: {100: 40.0, 101: 40.0} for value in ("1", "10", "100")}
    made = study(tmp_path, tried(**finals))
    (choice,) = made.choices()
    assert choice.value == 1.0 and choice.at_edge
    assert any("ewc.strength of ewc on parcel" in note and "beyond" in note for note in result_of(made).notes)


def rates(learned, *, base=10.0):
    """Runs of ewc, with a strength each and its learning accuracy; the base model's score."""
    runs = tried(**{value: {100: 1.0, 101: 1.0} for value in learned})
    return [
        replace(
            run,
            metrics=run.metrics
            | {"zero_shot": base, "learning_accuracy": learned[f"{run.settings['options']['ewc']['strength']:g}"]},
        )
        for run in runs
    ]


def plastic(content):
    content["parts"]["tuning"][0]["rule"] = "plastic"


def test_the_plastic_rule_takes_the_largest_value_that_learns_as_well(tmp_path):
    """Within one point of the best learning accuracy, whatever the final average says."""
    (choice,) = study(tmp_path, rates({"1": 80.0, "10": 79.1, "100": 78.9}), plastic).choices()
    assert choice.value == 10.0 and not choice.at_edge
    assert choice.means == ((1.0, 80.0), (10.0, 79.1), (100.0, 78.9))
    (choice,) = study(tmp_path, rates({"1": 79.0, "10": 60.0, "100": 80.0}), plastic).choices()
    assert choice.value == 100.0 and choice.at_edge


def test_where_nothing_is_learned_there_is_no_regime(tmp_path):
    made = study(tmp_path, rates({"1": 10.0, "10": 10.9, "100": 3.0}), plastic)
    with pytest.raises(
        UserError, match=r"does not learn parcel from random .* 1: 10.0, 10: 10.9, 100: 3.0; .* has 10.0"
    ):
        made.choices()


@pytest.mark.parametrize(
    "lacking",
    [
        {"1": {100: 50.0}, "10": {100: 30.0}, "100": {100: 45.0}},  # a seed for all
        {"1": {100: 50.0, 101: 10.0}, "10": {100: 30.0, 101: 40.0}},  # a value
        {**WON_BY_TEN, "10": {100: 30.0}},  # one run
    ],
)
def test_nothing_is_chosen_before_every_value_has_every_seed(tmp_path, lacking):
    made = study(tmp_path, tried(**lacking))
    assert made.choices() == []
    sequential, ewc = made.planned("main")
    assert sequential.waits_for is None, "it takes nothing"
    assert "ewc.strength of ewc on parcel is not chosen yet: 'strengths' lacks runs" in ewc.waits_for
    assert "a run counts only with today's options of ewc" in ewc.waits_for, "runs may be there, made before an option"


def test_a_run_takes_what_was_chosen_for_its_method_on_its_stream_or_the_reverse(tmp_path):
    made = study(tmp_path, tried(**WON_BY_TEN))
    sequential, ewc = (run.cell.config for run in made.planned("main"))
    assert ewc.stream == "parcel-reversed" and ewc.options == {"ewc": {"strength": 10.0}}
    assert sequential.options == {}


def test_a_method_may_stand_for_others_and_another_model_takes_the_stream_s_values(tmp_path):
    def change(content):
        content["parts"]["tuning"][0]["stands_for"] = {"ewc": ["replay+ewc"]}
        content["parts"]["main"][0].update(methods=["replay+ewc"], models=["smol"], options={"replay": {"ratio": 0.5}})

    (run,) = study(tmp_path, tried(**WON_BY_TEN), change).planned("main")
    assert run.cell.config.options == {"replay": {"ratio": 0.5}, "ewc": {"strength": 10.0}}
    assert run.cell.config.model == "smol"


def test_a_setting_taken_from_two_grids_is_refused(tmp_path):
    def change(content):
        twin = {**content["parts"]["tuning"][0], "name": "again"}
        content["parts"]["tuning"].append(twin)
        content["parts"]["main"][0]["take"].append("again")

    (_, ewc) = study(tmp_path, tried(**WON_BY_TEN), change).planned("main")
    assert "takes ewc.strength from two places" in ewc.waits_for


def test_a_rate_goes_into_the_training_and_the_recipe_stays(tmp_path):
    def change(content):
        content["parts"]["tuning"][0].update(methods=["sequential"], vary={"train.learning_rate": ["1e-4", "1e-3"]})
        content["parts"]["tuning"][0]["stands_for"] = {"sequential": ["ewc"]}
        content["parts"]["main"][0]["train"] = {"epochs": 3}

    runs = []
    for seed in (100, 101):
        for rate, lost in ((1e-4, 5.0), (1e-3, 9.0)):
            run = made_up.run("parcel", "random", seed=seed, lost=lost)
            run.settings["train"]["learning_rate"] = rate
            runs.append(run)
    for planned in study(tmp_path, runs, change).planned("main"):
        assert planned.cell.config.train.learning_rate == 1e-4 and planned.cell.config.train.epochs == 3


def test_without_its_choices_a_part_is_not_started_and_says_why(tmp_path):
    def only_ewc(content):
        content["parts"]["main"][0]["methods"] = ["ewc"]

    made = study(tmp_path, change=only_ewc)
    ended = made.run(watching=lambda: nullcontext(GridCallback()), only="main")
    assert "main: ewc.strength of ewc on parcel is not chosen yet" in ended.stopped
    assert not (made.out / "main").exists()


def test_only_findings_starts_nothing_and_an_unknown_part_is_named(tmp_path):
    made = study(tmp_path, tried(**WON_BY_TEN))
    assert made.run(watching=lambda: nullcontext(GridCallback()), only="findings").stopped is None
    with pytest.raises(UserError, match="unknown part 'mian'; did you mean 'main'"):
        made.run(watching=lambda: nullcontext(GridCallback()), only="mian")


def test_a_choice_can_be_written_and_read_as_json(tmp_path):
    from evertune.utils.files import write_json

    (choice,) = study(tmp_path, tried(**WON_BY_TEN)).choices()
    write_json(tmp_path / "chosen.json", [asdict(choice)])
    (read,) = read_json(tmp_path / "chosen.json")
    assert read["value"] == 10.0 and read["grid"] == "strengths" and read["means"][1] == [10.0, 35.0]


def test_a_damaged_result_is_named(tmp_path):
    made = study(tmp_path, tried(**WON_BY_TEN))
    path = made.out / "tuning" / "strengths" / "results.json"
    path.write_text('{"format": 7, "runs": []}')
    with pytest.raises(UserError, match=r"results\.json is not the result of a grid, or of another version"):
        made.choices()
