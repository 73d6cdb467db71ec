"""F1..F5 on results that were made up so that each verdict is known beforehand."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import made_up
import pytest

from evertune.experiments.study.file import Benchmark, Questions
from evertune.experiments.study.findings import (
    Comparison,
    Finding,
    Key,
    PairedDifference,
    drop,
    final_average,
    findings,
    forgetting,
    variants,
)

SEEDS = (0, 1, 2)
ASKED = Questions(
    b1=Benchmark(model="aligned", streams=["one", "one-reversed"]),
    b2=Benchmark(model="instruct", streams=["two", "two-reversed"]),
    seeds=list(SEEDS),
    working=["replay", "eproj"],
    penalties=["ewc"],
    informed={"tir+ewc": "ewc", "eproj (reuse)": "eproj"},
)
LOST = {  # points that each task loses: on b1, on b2
    "sequential": (30, 15),
    "replay": (10, 6),
    "eproj": (4, 2),
    "ewc": (30, 8),
    "tir+ewc": (20, 5),
    "eproj (reuse)": (2, 1),
}


def study(lost=None, *, noise=1.0, leave=lambda run: True):
    """All runs that the five findings need."""
    runs = []
    for method, (on_b1, on_b2) in {**LOST, **(lost or {})}.items():
        for seed in SEEDS:
            for stream in ("one", "one-reversed"):
                runs.append(made_up.run(stream, "aligned", method, seed=seed, lost=on_b1, noise=noise))
            for stream in ("two", "two-reversed"):
                runs.append(made_up.run(stream, "instruct", method, seed=seed, known=5, lost=on_b2, noise=noise))
                if method == "sequential":
                    runs.append(made_up.run(stream, "aligned", method, seed=seed, known=5, lost=on_b1, noise=noise))
    return [run for run in runs if leave(run)]


def verdicts(runs):
    return {finding.name: finding.verdict for finding in findings(runs, ASKED)}


def test_all_are_confirmed_where_all_hold():
    assert verdicts(study()) == dict.fromkeys(("F1", "F2", "F3", "F4", "F5"), "confirmed")


@pytest.mark.parametrize(
    ("lost", "changed"),
    [
        ({"sequential": (-5, -9), "replay": (-20, -20), "eproj": (-25, -25)}, {"F1": "contradicted"}),
        ({"sequential": (15, 30), "replay": (5, 6)}, {"F2": "contradicted"}),
        ({"replay": (40, 6)}, {"F3": "contradicted"}),
        ({"eproj": (30, 2), "eproj (reuse)": (20, 1)}, {"F3": "not confirmed"}),
        ({"ewc": (30, 15), "tir+ewc": (20, 8)}, {"F4": "not confirmed"}),
        ({"ewc": (20, 12), "tir+ewc": (10, 8)}, {"F4": "contradicted"}),
        ({"ewc": (12, 8), "tir+ewc": (5, 5)}, {"F4": "contradicted"}),
        ({"tir+ewc": (30, 5)}, {"F5": "not confirmed"}),
        ({"eproj (reuse)": (14, 12)}, {"F5": "contradicted"}),
    ],
)
def test_each_falls_where_its_claim_does_not_hold(lost, changed):
    found = verdicts(study(lost, noise=0.0))
    assert {name: found[name] for name in changed} == changed


def test_the_difference_is_taken_within_the_unit():
    """Seeds that differ by far more than the methods do: only pairs show it."""
    runs = [replace(run, R=[[s + 7.0 * run.seed for s in row] for row in run.R]) for run in study(noise=0.0)]
    test = next(t for t in findings(runs, ASKED)[2].comparisons if t.label == "replay − sequential on one")
    averages = {m: [final_average(r) for r in runs if r.stream == "one" and r.method == m] for m in LOST}
    assert statistics.stdev(averages["replay"]) == pytest.approx(7.0)
    assert test.differences == pytest.approx([15.0] * 3), "three of four tasks lose 20 points less"
    assert test.verdict() == "confirmed"


def test_the_interaction_pairs_orders_and_seeds():
    f4 = findings(study(noise=0.0), ASKED)[3]
    gain_b2, interaction, gain_b1 = f4.comparisons
    # b1: no gain. b2: 7 points less are lost on 8 of the 9 columns, all but the last task
    assert gain_b1.differences == pytest.approx([0.0] * 6) and not gain_b1.decides
    assert gain_b2.differences == pytest.approx([7 * 8 / 9] * 6)
    assert interaction.differences == pytest.approx([7 * 8 / 9] * 6) and len(interaction.units[0].runs) == 4
    assert [(u.stream, u.seed) for u in interaction.units] == [(s, n) for s in ("two", "two-reversed") for n in SEEDS]
    streams = {key.stream for key in interaction.units[-1].runs}
    assert streams == {"two-reversed", "one-reversed"} and {key.seed for key in interaction.units[-1].runs} == {2}


def test_f2_is_also_relative_to_what_was_learned_and_says_whether_it_is_fair():
    """A drop of 30 after 80 and of 15 after 80, and each start against 90 % of what `direct` learns."""

    def direct(model, learned):
        made = [made_up.run(s, model, "direct", seed=n, known=5) for s in ("two", "two-reversed") for n in SEEDS]
        return [replace(run, R=[[learned] * len(row) for row in run.R]) for run in made]

    runs = study(noise=0.0) + direct("aligned", 60.0) + direct("instruct", 90.0)
    share, aligned, instruct = findings(runs, ASKED)[1].comparisons[2:]
    assert not any(one.decides for one in (share, aligned, instruct))
    sequential = {run.model: run for run in runs if run.method == "sequential" and run.stream == "two"}
    had = {model: statistics.fmean(run.R[t][4 + t] for t in range(1, 5)) for model, run in sequential.items()}
    lost = {model: sum(run.R[t][4 + t] - run.R[4][4 + t] for t in range(1, 4)) for model, run in sequential.items()}
    before = {model: sum(run.R[t][4 + t] for t in range(1, 4)) for model, run in sequential.items()}
    wanted = 100 * (lost["aligned"] / before["aligned"] - lost["instruct"] / before["instruct"])
    assert share.differences == pytest.approx([wanted] * 6) and wanted > 5
    assert aligned.differences == pytest.approx([had["aligned"] - 54.0] * 6)
    assert instruct.differences == pytest.approx([had["instruct"] - 81.0] * 6)
    assert len(findings(study(), ASKED)[1].comparisons) == 3, "without `direct` nothing says so"


def test_forgetting_is_over_new_tasks_only():
    """What another start knew before the stream says nothing about how it forgets what it learns."""
    run = made_up.run("two", "aligned", known=5, lost=12.0)
    changed = replace(run, R=[[99.0 - 20 * t] * 5 + row[5:] for t, row in enumerate(run.R)])
    assert forgetting(changed) == forgetting(run) == pytest.approx(12.0)
    assert drop(changed) == drop(run) == pytest.approx(12.0)
    assert final_average(changed) != final_average(run)


def test_drop_has_no_maximum_in_it():
    R = [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0], [60.0, 50.0, 0.0], [50.0, 50.0, 50.0]]
    run = replace(made_up.run("one", "aligned", stages=3), R=R)
    assert drop(run) == 0.0 and forgetting(run) == 5.0


def test_missing_runs_are_named_and_nothing_is_decided():
    runs = study(leave=lambda run: not (run.method == "replay" and run.seed == 2 and run.stream == "two"))
    found = {finding.name: finding for finding in findings(runs, ASKED)}
    assert found["F3"].verdict == "not measured" and found["F1"].verdict == "confirmed"
    test = next(t for t in found["F3"].comparisons if t.label == "replay − sequential on two")
    assert test.missing == (Key("two", "instruct", "replay", 2),)
    assert test.as_dict()["missing"] == ["replay on two from instruct, seed 2"]
    assert len(test.units) == 2 and test.estimate is not None, "what is there is still shown"


def test_runs_without_the_cells_of_a_statistic_decide_nothing():
    """`evaluation.cells=final`: the final average is there, forgetting is not."""

    def final_only(run):
        known, last = len(run.known), len(run.R) - 1
        kept = [
            [s if row in (max(0, at - known + 1), last) else None for at, s in enumerate(scores)]
            for row, scores in enumerate(run.R)
        ]
        return replace(run, R=kept)

    whole = study()
    found = {finding.name: finding for finding in findings(list(map(final_only, whole)), ASKED)}
    lacking = {name for name, finding in found.items() if any(one.missing for one in finding.comparisons)}
    assert lacking
    for finding in found.values():
        for comparison in finding.comparisons:
            complete = not comparison.statistic.startswith("forgetting")
            assert bool(comparison.missing) is not complete
            assert bool(comparison.units) is complete


def test_no_runs_and_one_unit_are_not_measured_and_never_nan():
    one = ASKED.model_copy(
        update={
            "seeds": [0],
            "b1": Benchmark(model="aligned", streams=["one"]),
            "b2": Benchmark(model="instruct", streams=["two"]),
        }
    )
    for spec, runs in ((ASKED, []), (one, study())):
        found = findings(runs, spec)
        assert {finding.verdict for finding in found} == {"not measured"}
        json.dumps([finding.as_dict() for finding in found], allow_nan=False)
    assert findings(study(), one)[0].comparisons[0].estimate is not None
    assert findings(study(), one)[0].comparisons[0].interval() is None


def comparison(*differences, decides=True):
    units = tuple(PairedDifference("s", seed, difference, ()) for seed, difference in enumerate(differences))
    return Comparison("x", "final average", units, (), decides)


def test_one_of_many_comparisons_must_lie_further_below_zero():
    slightly = comparison(-1.0, -2.0, -3.0, -4.0)  # below zero at 95 %, t = -3.87; at 98.75 % t(3) = 5.4
    good = comparison(5.0, 5.1, 4.9, 5.0)
    assert slightly.verdict() == "contradicted"
    assert Finding("F", "", (slightly,)).verdict == "contradicted"
    several = Finding("F", "", (slightly, good, good, good))
    assert several.verdict == "not confirmed"
    assert [one.verdict() for one in several.comparisons] == ["not confirmed", *["confirmed"] * 3], "as the finding's"
    first = several.as_dict()["comparisons"][0]
    assert first["verdict"] == "not confirmed" and first["interval"][1] < 0 < first["strict"]["interval"][1]
    assert first["strict"]["level"] == 1 - 0.05 / 4
    clearly = comparison(-5.0, -5.1, -4.9, -5.0)
    assert Finding("F", "", (clearly, good, good, good)).verdict == "contradicted"


def test_an_interval_of_two_units_ends_where_differences_do():
    assert comparison(60.0, 90.0).interval() == (-100.0, 100.0), "Student's would be 75 ± 190.6"
    assert comparison(160.0, 190.0).interval() == pytest.approx((-15.6, 190.0), abs=0.1), "CIDEr"
    four = Key("s", "m", "x", 0), Key("s", "m", "y", 0), Key("t", "m", "x", 0), Key("t", "m", "y", 0)
    twice = Comparison(
        "x", "final average", tuple(PairedDifference("s", n, d, four) for n, d in enumerate((60.0, 90.0))), ()
    )
    assert twice.interval()[0] == pytest.approx(-115.6, abs=0.1) and twice.interval()[1] == 200


def test_what_does_not_decide_changes_no_verdict():
    good, bad = comparison(5.0, 5.1, 4.9), comparison(-5.0, -5.1, -4.9, decides=False)
    assert Finding("F", "", (good, bad)).verdict == "confirmed"
    assert Finding("F", "", (bad,)).verdict == "not measured"
    assert Finding("F", "", ()).verdict == "not measured"


def test_variants_are_compared_with_their_plain_method_over_common_seeds():
    runs = study(leave=lambda run: not (run.method == "eproj" and run.seed == 0), noise=0.0)
    found = {test.label: test for test in variants(runs)}
    assert set(found) == {f"eproj (reuse) on {s}" for s in ("one", "one-reversed", "two", "two-reversed")}
    test = found["eproj (reuse) on one"]
    assert [unit.seed for unit in test.units] == [1, 2] and not test.decides
    assert test.differences == pytest.approx([1.5, 1.5])
