"""`evertune leaderboard --check`: a complete file passes, and each thing that is missing is one line."""

from __future__ import annotations

import json

import pytest
from commands import evertune
from result_files import MADE_WITH, row, seeds, with_options, write

from evertune.experiments.leaderboard import check_file

WHOLE = seeds("ewc") + seeds("sequential", (50, 50, 50))


def without(one, key):
    return {name: value for name, value in one.items() if name != key}


def problems(tmp_path, rows, **head):
    return check_file(write(tmp_path / "mine.json", rows, **head)).problems


def test_a_complete_file(tmp_path):
    checked = check_file(write(tmp_path / "mine.json", WHOLE))
    assert (checked.problems, checked.runs, checked.lines) == ((), 6, 2)
    assert any("held-out change" in note for note in checked.notes)


def last(one, **changes):
    return [*WHOLE[:2], one | changes, *WHOLE[3:]]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (WHOLE[1:], "ewc on toy, random: 2 test seeds (1, 2); an interval needs 3"),
        ([*WHOLE, row("ewc", seed=2)], "ewc on toy, random: seed 2 is there more than once with the same settings"),
        ([*WHOLE, row("ewc", seed=100)], "ewc on toy, random, seed 100: the seed is held out for choosing settings"),
        ([without(one, "made_with") for one in WHOLE], "all 6 runs: no made_with (model_fingerprint, dtype, device"),
        (last(without(WHOLE[2], "made_with")), "ewc on toy, random, seed 2: no made_with"),
        (last(WHOLE[2], made_with=MADE_WITH | {"dtype": None}), "ewc on toy, random, seed 2: no dtype in made_with"),
        (
            last(WHOLE[2], cost={"train_seconds": 1}),
            "seed 2: no trained_parameters, stored_bytes, samples_trained in the",
        ),
        (last(WHOLE[2], metrics={}), "seed 2: no final_average, forgetting, learning_accuracy among the metrics"),
        (last(WHOLE[2], settings={}), "ewc on toy, random, seed 2: no settings are recorded"),
        (last(WHOLE[2], R=[[0.0, 0.0], [80.0, None], [80.0, 80.0]]), "seed 2: 1 of 6 cells of R are missing"),
        (last(WHOLE[2], R=[[0.0, 0.0], [80.0, 0.0]]), "ewc on toy, random, seed 2: 1 of 2 stages"),
        (last(WHOLE[2], R=[[0.0, 0.0], [80.0, 0.0], [80.0, 81.0]]), "final average is 80.00, and its R gives 80.50"),
        (last(WHOLE[2], seed="2"), "run 3: 'seed' is missing or not of type int"),
        (last(WHOLE[2], tasks=["a", "a"]), "run 3: 'tasks' names one of them twice"),
        ([*WHOLE, *seeds("nothing-known")], "unknown method 'nothing-known'"),
        ([*WHOLE, *(with_options(one, odd=1) for one in seeds("mas"))], "method 'mas' has no option 'odd'"),
        ([], "the file has no runs"),
    ],
)
def test_a_problem_is_one_line(tmp_path, rows, problem):
    found = [one for one in problems(tmp_path, rows) if problem in one]
    assert len(found) == 1, problems(tmp_path, rows)


def test_a_problem_of_many_runs_names_some(tmp_path):
    rows = [*WHOLE, *(without(one, "made_with") for one in seeds("mas") + seeds("lwf"))]
    named = "; ".join(f"mas on toy, random, seed {seed}" for seed in range(3))
    assert problems(tmp_path, rows)[0].startswith(f"{named} and 3 more runs: no made_with")


def test_the_version_is_part_of_a_file(tmp_path):
    assert problems(tmp_path, WHOLE, evertune=None) == (
        "the file does not record the version of evertune: write it with evertune grid or study",
    )


def test_the_command_checks(tmp_path, capsys):
    path = write(tmp_path / "mine.json", WHOLE)
    code, out, _ = evertune("leaderboard", "--check", path, capsys=capsys)
    assert code == 0 and out.splitlines()[-1] == f"{path}: complete, 6 runs, 2 lines"
    path = write(tmp_path / "mine.json", WHOLE[1:])
    code, out, _ = evertune("leaderboard", "--check", path, capsys=capsys)
    assert code == 1 and f"{path}: ewc on toy, random: 2 test seeds (1, 2)" in out
    assert out.splitlines()[-1] == f"{path}: 1 problem in 5 runs, 2 lines"
    code, out, _ = evertune("leaderboard", "--check", path, "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 1 and not found["complete"] and len(found["files"][0]["problems"]) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--check", "nowhere.json"), "nowhere.json does not exist; expected a results.json"),
        (("nowhere",), "nowhere does not exist; expected a results.json"),
        (("{}/damaged.json",), "line 1 is not valid JSON"),
        (("--check", "{}/damaged.json"), "line 1 is not valid JSON"),
        (("{}/empty",), "has no result file"),
        (("{}/mine.json", "--check", "--out", "x"), "--check writes nothing"),
        (("{}/mine.json", "--out", "{}/mine.json"), "mine.json"),
        (("{}/odd.json",), "run 1 (ewc on toy, random, seed 0): final average is 1.00"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, complaint):
    write(tmp_path / "mine.json", WHOLE)
    write(tmp_path / "odd.json", [row("ewc", metrics={"final_average": 1.0})])
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "empty").mkdir()
    words = [word.format(tmp_path) for word in arguments]
    code, out, err = evertune("leaderboard", *words, capsys=capsys)
    assert code == 2 and out == "" and complaint in err and len(err.splitlines()) == 1
