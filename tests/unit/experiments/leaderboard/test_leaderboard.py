"""The lines of a leaderboard against values by hand, and that nothing is shown that a file does not record."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from plugging import write_plugin
from result_files import COST, joint, row, seeds, with_options, write

from evertune.experiments.grid.cells import Cell
from evertune.experiments.grid.results import read_results, write_results
from evertune.experiments.leaderboard import board_of, read_files
from evertune.experiments.leaderboard.pareto import front_of, pareto_plot
from evertune.experiments.leaderboard.text import as_markdown, shown
from evertune.reporting.held_out import Change, HeldOut
from evertune.reporting.matrix import Matrix
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.plugins import load_plugin

PAPER = Path(__file__).parents[4] / "docs" / "results" / "paper"
T_OF_3_SEEDS = 4.302652729911275  # Student's t, 97.5 %, 2 degrees of freedom: scipy.stats.t.ppf(0.975, 2)


def board(tmp_path, rows, **files):
    """The leaderboard of one file, or of several by name."""
    for name, own in {"one": rows, **files}.items():
        write(tmp_path / f"{name}.json", own)
    return board_of(*read_files([tmp_path]))


def line(found, method):
    return next(one for benchmark in found.benchmarks for one in benchmark.lines if one.method == method)


def test_a_line_by_hand(tmp_path):
    """Finals 60, 70, 80: mean 70, standard deviation 10. The first task fell from 80 by 20, 10 and 0."""
    found = line(board(tmp_path, seeds("ewc") + seeds("sequential", (50, 50, 50), stored=0)), "ewc")
    final, reach = found.scores["final_average"], T_OF_3_SEEDS * 10 / 3**0.5
    assert (found.seeds, final.mean) == ((0, 1, 2), pytest.approx(70.0))
    assert final.interval == (pytest.approx(70 - reach), pytest.approx(70 + reach))
    assert found.scores["forgetting"].mean == pytest.approx(10.0)
    assert found.scores["learning_accuracy"].mean == pytest.approx((80 + 60 + 80 + 70 + 80 + 80) / 6)
    assert found.costs == {"trained_parameters": 1000, "stored_per_task": 2000, "replayed": 0, "train_seconds": 60}
    assert found.made_with["torch"] == "2.12.0" and found.made_with["evertune"] == "0.1.0"
    assert found.files == (str(tmp_path / "one.json"),)


def test_scores_are_those_of_r_whatever_the_metrics_lack(tmp_path):
    rows = [one | {"metrics": {}} for one in seeds("ewc")]
    assert line(board(tmp_path, rows), "ewc").scores["final_average"].mean == pytest.approx(70.0)


def test_ranks_go_by_final_average_and_bounds_have_none(tmp_path):
    rows = seeds("ewc", (60, 60, 60)) + seeds("mas", (60, 60, 60)) + seeds("sequential", (40, 40, 40)) + joint()
    rows += seeds("direct", (95, 95, 95))
    lines = board(tmp_path, rows).benchmarks[0].lines
    assert [(one.method, one.rank) for one in lines] == [
        *(("ewc", 1), ("mas", 1), ("sequential", 3)),
        *(("joint", None), ("zero-shot", None), ("direct", None)),
    ]
    direct = lines[-1]
    assert direct.scores["final_average"] is None and direct.scores["learning_accuracy"], "it has no final model"


def test_defaults_make_no_variant(tmp_path):
    """A file that lists all options and one that lists none agree; another value is a line of its own."""
    rows = [row("ewc", seed=0), with_options(row("ewc", seed=1), samples=128)]
    rows.append(with_options(row("ewc", seed=0), strength=7.0))
    found = board(tmp_path, rows).benchmarks[0].lines
    assert {one.method: one.seeds for one in found if not one.reference} == {"ewc": (0, 1), "ewc (strength=7)": (0,)}


def test_other_samples_are_another_benchmark(tmp_path):
    limited = [one | {"settings": one["settings"] | {"limit": 8}} for one in seeds("ewc")]
    found = board(tmp_path, seeds("ewc") + limited)
    assert [one.title for one in found.benchmarks] == [
        "toy from random",
        "toy from random, at most 8 samples per task",
    ]


def test_held_out_seeds_choose_settings_and_are_no_lines(tmp_path):
    chosen = {"tasks": ["b", "a"], "stages": ["b", "a"], "stream": "toy-reversed"}
    found = board(tmp_path, seeds("ewc") + seeds("mas"), tuning=[row("ewc", seed=100, final=1.0, **chosen)])
    assert [len(benchmark.lines) for benchmark in found.benchmarks] == [3]
    assert line(found, "ewc").scores["final_average"].mean == pytest.approx(70.0)
    assert (line(found, "ewc").held_out_seeds, line(found, "mas").held_out_seeds) == ((100,), ())
    assert "1 runs with held-out seeds" in found.notes[0]


def test_a_copy_counts_once_and_a_contradiction_is_two_lines(tmp_path):
    found = board(tmp_path, seeds("ewc"), two=seeds("ewc"), three=seeds("mas"), four=seeds("mas", (1.0, 2.0, 3.0)))
    assert line(found, "ewc").seeds == (0, 1, 2) and "3 runs are in several files" in found.notes[0]
    disputed = [one for one in found.benchmarks[0].lines if one.disputed]
    assert [one.method for one in disputed] == [f"mas [{tmp_path / name}.json]" for name in ("three", "four")]
    assert all("another file has other scores" in one.marks[-1] for one in disputed)


@pytest.mark.parametrize(
    ("method", "options", "stores", "given"),
    [
        ("replay", {}, True, False),
        ("agem", {}, True, False),
        ("ewc", {}, False, False),
        ("eproj", {}, False, False),
        ("eproj", {"routing": "oracle"}, False, True),
        ("nothing-known", {}, None, None),
        ("ewc", {"no_such_option": 1}, False, None),
    ],
)
def test_filters_are_properties_of_methods(tmp_path, method, options, stores, given):
    rows = [with_options(one, **options) for one in seeds(method)]
    found = next(one for one in board(tmp_path, rows).benchmarks[0].lines if not one.reference)
    assert (found.stores_samples, found.needs_task_id) == (stores, given)
    assert any("unknown" in mark for mark in found.marks) == (given is None)


def test_a_method_of_ones_own_is_filtered_by_what_it_declares(tmp_path, plugged):
    text = """
    from evertune import Method, MethodInfo


    class Diary(Method):
        name = "diary"
        about = MethodInfo("keeps samples", "replay", "none", "", "", "")

        def needs_task_id(self):
            return True
    """
    load_plugin(write_plugin(tmp_path / "diary.py", text))
    found = line(board(tmp_path, seeds("diary")), "diary")
    assert (found.stores_samples, found.needs_task_id) == (True, True)


def test_replayed_samples_are_those_beyond_plain_training(tmp_path):
    plain, replay = seeds("sequential", samples=20), seeds("replay", samples=26)
    assert line(board(tmp_path, plain + replay), "replay").costs["replayed"] == 6
    assert line(board(tmp_path, replay), "replay").costs["replayed"] is None, "nothing to compare with"
    drawn = seeds("agem", samples=20)
    assert line(board(tmp_path, plain + drawn), "agem").costs["replayed"] is None, "drawn in each step, not counted"


def test_what_is_not_recorded_is_not_shown_as_a_number(tmp_path):
    without = [one | {"cost": {k: v for k, v in COST.items() if k != "stored_bytes"}} for one in seeds("mas")]
    half = [one | {"cost": COST if one["seed"] else {}} for one in seeds("lwf")]
    found = board(tmp_path, seeds("ewc") + without + half)
    assert shown(line(found, "mas"), "stored_per_task") == shown(line(found, "lwf"), "train_seconds") == "not recorded"
    assert "Not recorded in these files: held-out change." in as_markdown(found)
    assert "held-out change |" not in as_markdown(found)


def test_held_out_change_is_shown_where_a_run_has_it(tmp_path):
    rows = [one | {"metrics": one["metrics"] | {"held_out_change": -2.0 * one["seed"]}} for one in seeds("ewc")]
    found = board(tmp_path, rows + seeds("mas"))
    assert (shown(line(found, "ewc"), "held_out_change"), shown(line(found, "mas"), "held_out_change")) == (
        "−2.0",
        "not recorded",
    )


@pytest.mark.parametrize(
    ("finals", "marks"),
    [
        ((58.0, 68.0, 78.0), ("below sequential",)),  # two points with each seed
        ((40.0, 71.0, 81.0), ("below sequential (within noise)",)),
        ((59.99, 69.99, 79.99), ()),  # not visible
        ((93.0, 93.0, 93.0), ("above joint",)),
        ((89.0, 89.0, 95.0), ("above joint (within noise)",)),
    ],
)
def test_what_surprises_is_marked(tmp_path, finals, marks):
    found = board(tmp_path, seeds("ewc", finals) + seeds("sequential") + joint())
    assert line(found, "ewc").marks == marks
    assert line(found, "sequential").marks == ()


def test_few_and_other_seeds_are_marked(tmp_path):
    rows = seeds("ewc")[:2] + seeds("mas") + seeds("lwf") + [row("der", seed=seed) for seed in (3, 4, 5)]
    found = board(tmp_path, rows)
    assert line(found, "ewc").marks == ("2 seeds only",) and line(found, "der").marks == ("seeds 3, 4, 5",)


def test_warnings_and_mixed_provenance_are_notes(tmp_path):
    rows = [one | {"warnings": [f"forgets {one['seed']}.5 points only"]} for one in seeds("sequential")]
    rows += [{k: v for k, v in one.items() if k != "made_with"} for one in seeds("ewc")]
    rows += [one | {"made_with": one["made_with"] | {"dtype": "bfloat16"}} for one in seeds("mas")]
    notes = board(tmp_path, rows).benchmarks[0].notes
    assert notes == (
        "warning of 3 of 9 runs: forgets 0.5 points only, and 2 more with other numbers",
        "3 of 9 runs record no torch, dtype and device",
        "not all runs of a model were made with the same dtype: bfloat16, float32",
    )


def test_the_front_has_what_nothing_surpasses_with_as_little_memory(tmp_path):
    memories = {"sequential": (0, 50), "lwf": (0, 40), "mas": (4000, 45), "ewc": (4000, 60), "eproj": (9000, 70)}
    rows = [one for name, (stored, final) in memories.items() for one in seeds(name, [final] * 3, stored=stored)]
    lines = board(tmp_path, rows + seeds("replay", [99] * 3, stored=0)).benchmarks[0].lines
    assert [one.method for one in front_of(lines)] == ["sequential", "ewc", "eproj"]
    ranked = [one for one in lines if not one.reference]
    assert "stored per task, kB" in pareto_plot(ranked, looks=ranked, label="x")
    assert pareto_plot(ranked[:1], looks=ranked, label="x") == ""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not valid JSON"),
        ('{"format": 1, "runs": []}', "of another version"),
        ('{"format": 2, "runs": 5}', "of another version"),
        ('{"format": 2, "runs": [{"model": "m"}]}', "run 1: 'stream' is missing"),
        ("[]", "is no result file"),
    ],
)
def test_a_file_that_is_none_is_one_clear_error(tmp_path, content, complaint):
    path = tmp_path / "one.json"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=complaint) as found:
        read_files([path])
    assert str(path) in str(found.value)


def test_metrics_that_r_does_not_give_are_refused(tmp_path):
    rows = seeds("ewc")
    rows[1]["metrics"] = rows[1]["metrics"] | {"final_average": 70.2}
    with pytest.raises(RunFolderError, match=r"run 2 \(ewc on toy, random, seed 1\): final average is 70\.20.*70\.00"):
        board(tmp_path, rows)


def test_a_folder_without_results_and_a_place_that_is_not_there(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(UserError, match="has no result file"):
        read_files([tmp_path])
    with pytest.raises(UserError, match="does not exist"):
        read_files([tmp_path / "nowhere"])


def test_run_folders_are_not_searched(tmp_path):
    write(tmp_path / "results.json", seeds("ewc"))
    write(tmp_path / "run" / "stages" / "copy.json", seeds("mas"))
    (tmp_path / "run" / "matrix.json").write_text("{}")
    assert [Path(file.path).name for file in read_files([tmp_path])[1]] == ["results.json"]


def test_a_grid_keeps_what_became_of_probes(tmp_path):
    change = Change(-3.0, (-5.0, -1.0))
    held_out = HeldOut(["probe"], [[9.0], [8.0], [6.0]], [[9.0], [8.0], [6.0]], [change], change)
    content = row("ewc") | {"metrics": row("ewc")["metrics"] | held_out.metrics()}
    matrix = Matrix.from_dict({k: v for k, v in content.items() if k != "made_with"} | {"held_out": held_out.to_dict()})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "matrix.json").write_text(json.dumps(matrix.to_dict()))
    (folder / "provenance.json").write_text("{}")
    cell = Cell("run", SimpleNamespace(out=str(folder)))
    made = SimpleNamespace(cells={"run": cell}, finished=[cell], keys={"run": "k"}, done={"run": True})
    path = write_results(tmp_path / "results.json", made, name="grid")
    kept = Matrix.from_dict(read_results(path)[0])
    assert kept.held_out == held_out
    assert shown(line(board_of(*read_files([path])), "ewc"), "held_out_change") == "−3.0"


@pytest.mark.slow
def test_the_committed_results_are_the_table_of_the_study():
    """docs/study.md has mean and standard deviation of the same runs, computed by `compare`."""
    found = board_of(*read_files([PAPER / "main"]))
    shown_there = {
        "replay": 83.2,
        "replay+ewc": 83.0,
        "eproj": 82.2,
        "online-ewc": 78.7,
        "lwf": 66.5,
        "sequential": 76.4,
    }
    benchmark = next(one for one in found.benchmarks if one.title == "pocket-b1 from tiny-aligned")
    finals = {one.method: round(one.scores["final_average"].mean, 1) for one in benchmark.lines if one.rank}
    assert {name: finals[name] for name in shown_there} == shown_there
    assert not any("unknown" in mark for one in found.benchmarks for each in one.lines for mark in each.marks)
