"""Two runs on the same questions: which are compared, the numbers by hand, and what is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from answered_runs import write_run
from scipy import stats
from typer.testing import CliRunner

import evertune
from evertune.cli.main import app
from evertune.runs.same_questions import clusters_of
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import write_jsonl

TASKS = ("colour", "shape")
IMAGES = {task: [f"{task}-{n // 4}.png" for n in range(80)] for task in TASKS}


def scores(share, seed, *, count=80):
    draw = random.Random(f"{share} {seed}")
    return {task: [100.0 * (draw.random() < share) for _ in range(count)] for task in TASKS}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two methods, three seeds each, four questions about every image."""
    place = tmp_path_factory.mktemp("grid")
    for seed in range(3):
        for method, share in (("sequential", 0.3), ("replay", 0.6)):
            write_run(place / method / f"s{seed}", scores(share, seed), method=method, seed=seed, images=IMAGES)
    return place


@pytest.mark.slow
def test_one_seed_by_hand(place):
    found = evertune.paired(place / "sequential" / "s0", str(place / "replay" / "s0"))
    assert (found.a, found.b, found.units, found.seeds) == ("sequential", "replay", "images", (0,))
    before, after = scores(0.3, 0), scores(0.6, 0)
    means = []
    for row, task in zip(found.tasks, TASKS, strict=True):
        differences = np.array(after[task]) - np.array(before[task])
        assert (row.task, row.questions, row.images) == (task, 80, 20)
        assert (row.a, row.b) == pytest.approx((np.mean(before[task]), np.mean(after[task])))
        assert row.difference == pytest.approx(differences.mean()) and row.by_seed == (row.difference,)
        by_image = differences.reshape(20, 4).mean(axis=1)  # images of equal size: the mean of their means
        draws = np.random.default_rng(1).choice(by_image, (20_000, 20)).mean(axis=1)
        tail = stats.norm.sf(stats.t.ppf(0.975, 19) * np.sqrt(20 / 19))
        assert row.interval == pytest.approx(tuple(np.quantile(draws, [tail, 1 - tail])), abs=1.5)
        means.append(draws)
    assert found.mean.difference == pytest.approx(np.mean([row.difference for row in found.tasks]))
    assert (found.mean.questions, found.mean.images) == (160, 40)
    tail = stats.norm.sf(stats.t.ppf(0.975, 38) * np.sqrt(39 / 38))
    expected = np.quantile((means[0] + np.random.default_rng(2).permutation(means[1])) / 2, [tail, 1 - tail])
    assert found.mean.interval == pytest.approx(tuple(expected), abs=1.5)


def test_several_seeds_are_a_paired_t_test(place):
    methods = "sequential", "replay"
    found = evertune.paired(*([evertune.load_run(place / m / f"s{seed}") for seed in (2, 0, 1)] for m in methods))
    again = evertune.paired(place / "sequential", place / "replay")
    assert found == again and found.units == "seeds" and found.seeds == (0, 1, 2)
    for row, task in zip(found.tasks, TASKS, strict=True):
        before, after = ([np.mean(scores(share, seed)[task]) for seed in range(3)] for share in (0.3, 0.6))
        theirs = stats.ttest_rel(after, before).confidence_interval(0.95)
        assert row.interval == pytest.approx((theirs.low, theirs.high))
        assert row.by_seed == pytest.approx(tuple(np.subtract(after, before)))
    means = [[np.mean([np.mean(s) for s in scores(share, n).values()]) for n in range(3)] for share in (0.3, 0.6)]
    theirs = stats.ttest_rel(means[1], means[0]).confidence_interval(0.95)
    assert found.mean.interval == pytest.approx((theirs.low, theirs.high))


@pytest.mark.slow
def test_questions_about_one_image_are_not_taken_for_independent(place, tmp_path):
    """Four copies of each answer say no more than one of them: the interval stays as wide."""
    once = {"colour": [0.0, 100.0] * 10}, {"colour": [100.0, 100.0, 0.0, 100.0] * 5}
    names = ("a", "b")
    for name, each in zip(names, once, strict=True):
        write_run(tmp_path / "once" / name, each, method=name)
        four = {"colour": [score for score in each["colour"] for _ in range(4)]}
        images = {"colour": [f"{n // 4}.png" for n in range(80)]}
        write_run(tmp_path / "four" / name, four, method=name, images=images)
        write_run(tmp_path / "loose" / name, four, method=name)
    width = {}
    for kind in ("once", "four", "loose"):
        found = evertune.paired(*(tmp_path / kind / name for name in names))
        assert found.mean.difference == 25
        width[kind] = found.tasks[0].interval[1] - found.tasks[0].interval[0]
    assert width["four"] == pytest.approx(width["once"]) and width["loose"] < 0.6 * width["four"]


def test_questions_share_a_cluster_through_their_images():
    found = clusters_of([[("a",), ("a", "b"), ("c",), (), ()], [("b",), ("d", "c"), ("e",)]])
    first, second = found
    assert first[0] == first[1] == second[0] and first[2] == second[1]
    assert len({*first, *second}) == 5, "a and b, c and d, e, and two without an image"


@pytest.mark.slow
def test_the_order_of_tasks_and_of_rows_does_not_matter(tmp_path):
    each = scores(0.5, 1)
    first = write_run(tmp_path / "a", each, method="a")
    second = write_run(tmp_path / "b", {task: each[task] for task in reversed(TASKS)}, method="b")
    path = second / "answers" / "02" / "shape.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, rows[::-1])
    found = evertune.paired(first, second)
    assert [row.task for row in found.tasks] == list(TASKS)
    assert [(row.difference, row.interval) for row in (*found.tasks, found.mean)] == [(0, (0, 0))] * 3
    assert not found.mean.is_clear


def test_relaxed_scores_and_folders_from_before_rows_had_scores(tmp_path):
    each = {"colour": [0.0, 100.0] * 10}
    a, b = write_run(tmp_path / "a", each, method="a"), write_run(tmp_path / "b", each, method="b", scored=False)
    assert evertune.paired(a, b, relaxed=True).relaxed
    assert evertune.paired(a, b).tasks[0].interval == (0, 0), "the scores are made anew by the rule of the cell"


def test_a_score_of_the_whole_cell_has_no_interval_over_images(tmp_path):
    each = {"colour": [20.0 + n for n in range(20)], "shape": [0.0, 100.0] * 10}
    runs = [write_run(tmp_path / name, each, method=name, rule="bleu-1") for name in "ab"]
    found = evertune.paired(*runs)
    assert found.tasks[0].interval is None and found.mean.interval is None
    assert found.tasks[0].a == pytest.approx(29.5) and "-" in repr(found)


def test_it_prints_as_a_table_and_as_a_frame(place):
    found = evertune.paired(place / "sequential" / "s0", place / "replay" / "s0")
    lines = repr(found).splitlines()
    assert lines[0].split() == "task sequential replay difference 95 % interval n / images".split()
    assert lines[1].endswith("80 / 20") and max(map(len, lines)) <= 80
    note = " ".join(lines[4:])
    assert note == found.note() and "difference = replay − sequential" in note and "bootstrap over images" in note
    assert "Student's t over 3 seeds" in evertune.paired(place / "sequential", place / "replay").note()
    frame = found.to_frame().set_index("task")
    assert frame.difference["mean"] == found.mean.difference and frame.low["shape"] == found.tasks[1].interval[0]
    assert isinstance(frame, pd.DataFrame) and list(frame.index) == [*TASKS, "mean"]


def test_sides_of_one_method_are_called_by_their_folders(place, tmp_path):
    each = {"colour": [0.0, 100.0] * 10}
    for name in ("few", "many"):
        write_run(tmp_path / name / "replay" / "s0", each)
    found = evertune.paired(*(tmp_path / name / "replay" / "s0" for name in ("few", "many")))
    assert (found.a, found.b) == ("few", "many")
    result = evertune.load_run(place / "replay" / "s0")
    same = evertune.paired(result, result.runs["replay"])
    assert (same.a, same.b) == ("a", "b") and same.mean.difference == 0


REFUSED = {
    "other questions": ({"questions": "other"}, "task 'colour' has other questions in .*first than in .*second"),
    "another rule": ({"rule": "gqa"}, "task 'colour' is scored by 'exact' in .* and by 'gqa' in"),
    "fewer": ({"count": 79}, "task 'colour' has other questions .*80 and 79, by their id"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_questions_are_refused_by_task(kind, tmp_path):
    more, complaint = REFUSED[kind]
    count = more.get("count", 80)
    first = write_run(tmp_path / "first", scores(0.5, 1), method="a")
    how = {key: value for key, value in more.items() if key != "count"}
    second = write_run(tmp_path / "second", scores(0.5, 2, count=count), method="b", **how)
    with pytest.raises(UserError, match=complaint):
        evertune.paired(first, second)


def test_a_question_that_was_worded_otherwise_is_refused(tmp_path):
    first, second = (write_run(tmp_path / name, scores(0.5, 1), method=name) for name in "ab")
    path = second / "answers" / "02" / "shape.jsonl"
    path.write_text(path.read_text().replace("what?", "which?", 3))
    with pytest.raises(UserError, match=r"task 'shape' has other questions .*\(question 'q0'\)"):
        evertune.paired(first, second)


def test_answers_that_are_not_those_of_the_matrix_are_refused(tmp_path):
    first, second = (write_run(tmp_path / name, scores(0.5, 1), method=name) for name in "ab")
    path = second / "answers" / "02" / "shape.jsonl"
    path.write_text(path.read_text().replace('"score": 100.0', '"score": 0.0', 1))
    with pytest.raises(RunFolderError, match="'shape' after stage 2 are not those"):
        evertune.paired(first, second)
    path.unlink()
    with pytest.raises(RunFolderError, match=r"shape.jsonl is missing"):
        evertune.paired(first, second)


@pytest.mark.slow
def test_seeds_whose_streams_have_another_order_are_compared_task_by_task(tmp_path):
    sides = []
    for method, share in (("a", 0.3), ("b", 0.6)):
        for seed in range(2):
            each = scores(share, seed)
            kept = each if seed == 0 else dict(reversed(each.items()))
            write_run(tmp_path / method / f"s{seed}", kept, method=method, seed=seed)
        sides.append(tmp_path / method)
    found = evertune.paired(*sides)
    for row in found.tasks:
        wanted = [np.mean(scores(0.6, seed)[row.task]) - np.mean(scores(0.3, seed)[row.task]) for seed in range(2)]
        assert row.by_seed == pytest.approx(tuple(wanted))
    for method in "ab":
        write_run(tmp_path / method / "s1", {"colour": [0.0] * 80}, method=method, seed=1)
    with pytest.raises(UserError, match="task 'shape' is not in the runs of every seed"):
        evertune.paired(*sides)


def test_what_does_not_pair_up_is_refused(place, tmp_path):
    s0 = place / "sequential" / "s0"
    for a, b, complaint in (
        (s0, place / "replay", "the runs don't pair up: seeds 0 on one side, 0, 1, 2 on the other"),
        (place, s0, r"holds runs of several methods \(replay, sequential\): give the folder of one of them"),
        ([s0, s0], [s0, s0], "have one seed, 0: give one run per seed"),
        ([s0, place / "replay" / "s1"], [s0], "one side has several methods"),
        ([], s0, "an empty list has nothing to compare"),
        ({"x": 1}, s0, r"a dict is no run: expected a run folder, or result.runs\[...\], for example evertune.paired"),
        (tmp_path, s0, "holds no run"),
        (tmp_path / "nowhere", s0, "nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=complaint):
            evertune.paired(a, b)
    other = write_run(tmp_path / "other", {"colours": [0.0], "shape": [0.0]})
    with pytest.raises(UserError, match="task 'colour' of .* is not in .*other; did you mean 'colours'"):
        evertune.paired(s0, other)
    matrix = json.loads((other / "matrix.json").read_text())
    started = {**matrix, "R": matrix["R"][:2], "relaxed": None, "metrics": {}}
    (other / "matrix.json").write_text(json.dumps(started))
    with pytest.raises(UserError, match=r"other is in progress \(1 of 2 stages\)"):
        evertune.paired(s0, other)


def output_of(*words):
    done = CliRunner().invoke(app, ["compare", *map(str, words), "--paired"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.mark.slow
def test_on_the_command_line(place):
    a, b = place / "sequential" / "s0", place / "replay" / "s0"
    found = evertune.paired(a, b)
    text = output_of(a, b)
    assert max(map(len, text.splitlines()[:5])) <= 80 and text.split()[:3] == ["task", "sequential", "replay"]
    assert "difference = replay − sequential" in " ".join(text.split())
    assert json.loads(output_of(a, b, "--json")) == json.loads(json.dumps(found.to_dict()))
    assert output_of(a, b, "--markdown").startswith("| task | sequential | replay | difference | 95 % interval |")
    assert "Student's t over 3 seeds" in " ".join(output_of(place / "sequential", place / "replay").split())
    for words, complaint in (((a,), "1 given"), ((a, b, a), "3 given"), ((a, b, "--latex"), "to_latex")):
        with pytest.raises(UserError, match=complaint):
            output_of(*words)


@pytest.mark.slow
def test_results_are_read_without_torch(place):
    """The command answers in a second."""
    code = (
        "import sys, evertune\n"
        f"evertune.paired({str(place / 'sequential' / 's0')!r}, {str(place / 'replay' / 's0')!r})\n"
        f"evertune.load_run({str(place / 'replay' / 's0')!r}).runs['replay'].answers('base', 'shape')\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
