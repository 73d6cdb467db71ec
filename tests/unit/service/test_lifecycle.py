"""A model in service: learn, check, go back; what it keeps is enough when data and folder are elsewhere."""

from __future__ import annotations

import json
import shutil
import statistics
from dataclasses import replace

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import evertune
from evertune import service
from evertune.cli.main import app
from evertune.metrics.statistics import change_interval
from evertune.runs.ledger import cells_of
from evertune.service.lifecycle import history, would_forget
from evertune.service.regression_report import Change, RegressionReport, change_of
from evertune.service.service import Service, ask_once, lead_of, percent
from evertune.training.eval_set import kept_task
from evertune.training.evaluator import Prediction, write_answers
from evertune.training.stages import FILES
from evertune.utils.errors import DataError, RunFolderError, UserError

SETTINGS = ("train.learning_rate=0.01", "train.batch_size=4", "train.min_steps=0")
"""Tasks of a few steps, as in a run; what they gain is the business of test_small_files.py."""
ANYHOW = service.parsed("gain>=-100")


@pytest.fixture
def data(toy_stream, tasks, tmp_path):
    """One stream file per toy task, in a folder of their own with their images."""
    whole = yaml.safe_load(toy_stream.read_text())
    place = tmp_path / "data"
    shutil.copytree(toy_stream.parent, place)
    found = []
    for task, entry in zip(tasks, whole["tasks"], strict=True):
        images = place / f"images-{task.name}"
        shutil.copytree(entry["images"], images)
        path = place / f"{task.name}.yaml"
        path.write_text(yaml.safe_dump({"name": task.name, "tasks": [{**entry, "images": str(images)}]}))
        found.append(str(path))
    return found


def made(folder, method="replay", **options):
    sets = [*SETTINGS, *(f"options.{key}={value}" for key, value in options.items())]
    service.new(folder, model="random", method=method, seed=3, settings=sets)
    return folder


def weights(folder, stage):
    (place,) = (folder / "stages").glob(f"{stage:02d}-*")
    return [(place / file).read_bytes() for file in FILES]


def test_a_benchmark_is_learn_in_a_loop(data, toy_stream, tmp_path):
    sets = [*SETTINGS, "options.ewc.samples=4", "evaluation.text_probe=false"]  # a model in service has no probes
    evertune.run(str(toy_stream), model="random", methods="ewc", seed=3, settings=sets, out=tmp_path / "run")
    folder = made(tmp_path / "model", "ewc", **{"ewc.samples": 4})
    for path in data:
        service.learn(folder, path, accept_if=ANYHOW)
    for stage in (1, 2, 3):
        assert weights(folder, stage) == weights(tmp_path / "run", stage), "bit-identical"
    ours = {(r["stage"], r["task"]): r["score"] for r in cells(folder)}
    theirs = {(r["stage"], r["task"]): r["score"] for r in cells(tmp_path / "run")}
    assert ours.items() <= theirs.items() and (3, "task-0") in ours


def test_the_matrix_of_a_model_that_was_taught_task_by_task(data, toy_stream, tmp_path):
    """The reverse: it becomes a run like any other, cell by cell that of `evertune run`."""
    sets = [*SETTINGS, "options.ewc.samples=4", "evaluation.text_probe=false"]  # a model in service has no probes
    result = evertune.run(str(toy_stream), model="random", methods="ewc", seed=3, settings=sets, out=tmp_path / "run")
    wanted = result.runs["ewc"].matrix
    folder = made(tmp_path / "model", "ewc", **{"ewc.samples": 4})
    with pytest.raises(UserError, match="has learned nothing yet"):
        service.complete(folder)
    for path in data[:2]:
        service.learn(folder, path, accept_if=ANYHOW)
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "r.html")])
    assert "evertune check" in str(result.exception) and "--every-stage" in str(result.exception)
    assert CliRunner().invoke(app, ["check", str(folder), "--every-stage"]).exit_code == 0
    matrix = json.loads((folder / "matrix.json").read_text())
    assert matrix["R"] == [row[:2] for row in wanted.R[:3]] and matrix["finished"]
    assert CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "r.html")]).exit_code == 0
    assert CliRunner().invoke(app, ["compare", str(folder), str(tmp_path / "run")]).exit_code == 0
    service.learn(folder, data[2], accept_if=ANYHOW)
    assert not (folder / "matrix.json").exists(), "it is out of date"
    service.complete(folder)
    matrix = json.loads((folder / "matrix.json").read_text())
    assert matrix["R"] == wanted.R and matrix["metrics"] == wanted.metrics
    service.rollback(folder, 2)
    assert not (folder / "matrix.json").exists()
    with pytest.raises(UserError, match="is a run: its matrix is there"):
        service.complete(tmp_path / "run")


def cells(folder):
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    return [row["cell"] for row in map(json.loads, lines) if row["event"] == "cell"]


def test_what_it_keeps_is_enough(data, tmp_path):
    folder = made(tmp_path / "model", **{"replay.ratio": 0.3})
    service.learn(folder, data[0], accept_if=ANYHOW)
    shutil.rmtree(tmp_path / "data" / "images-task-0")
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    done = service.learn(moved, data[1], accept_if=ANYHOW)
    assert [change.task for change in done.verdict.others] == ["task-0"]
    stage = Service.open(moved).learner.stages[-1]
    assert stage.samples > len(kept_task(moved, "task-1").test), "the replayed samples were there"
    assert done.steps == stage.steps > done.training.steps(len(kept_task(moved, "task-1").train)), "they took steps too"
    assert [change.difference for change in service.check(moved).others] == [0, 0]


def test_a_stage_that_breaks_the_condition_is_discarded(data, tmp_path):
    folder = made(tmp_path / "model")
    service.learn(folder, data[0], accept_if=ANYHOW)
    before = weights(folder, 1)
    done = service.learn(folder, data[1], accept_if=service.parsed("average>1000 and forgetting<1000"))
    assert done.broken == (f"average {done.verdict.measures()['average']:.1f} is not > 1000",)
    opened = Service.open(folder)
    assert opened.number == 1 and weights(folder, 1) == before and not (folder / "eval_set" / "task-1.json").exists()
    assert [event["event"] for event in history(folder)] == ["stage", "stage", "rollback"]
    again = service.learn(folder, data[2], accept_if=service.parsed("average>=0"))
    assert again.stage == 2 and not again.broken
    at_two = [cell for cell in cells(folder) if cell["stage"] == 2 and cell["task"] == "task-0"]
    assert len(at_two) == 2, "what the discarded stage said about the first task does not count for the new one"


@pytest.mark.parametrize("changed", ["images", "answers", "score", "ids"])
def test_cells_of_a_discarded_task_are_not_those_of_the_next_of_its_name(data, tmp_path, changed):
    """Also where ids and instructions are the same: other images, answers or another score make other questions."""
    folder = made(tmp_path / "model")
    assert service.learn(folder, data[0], accept_if=service.parsed("average>1000")).broken
    place = tmp_path / "data"
    rows = [json.loads(line) for line in (place / "task-0-test.jsonl").read_text().splitlines()]
    assert len({row["answer"] for row in rows}) > 1 and len({row["image"] for row in rows}) == len(rows)
    for key, column in (("images", "image"), ("answers", "answer")):
        if changed == key:
            values = [row[column] for row in rows]
            rows = [{**row, column: value} for row, value in zip(rows, values[1:] + values[:1], strict=True)]
    if changed == "ids":
        rows = [{**row, "id": f"other-{number}"} for number, row in enumerate(rows)]
    (place / "task-0-test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    anyhow = service.parsed("gain>=-100")
    service.learn(folder, data[0], score="normalised" if changed == "score" else None, accept_if=anyhow)
    at_zero = [cell for cell in cells(folder) if cell["stage"] == 0]
    assert len(at_zero) == 2, "what the base model said was about other questions"
    wanted = kept_task(folder, "task-0")
    result = [json.loads(line) for line in (folder / "answers" / "00" / "task-0.jsonl").read_text().splitlines()]
    assert [row["gold"] for row in result] == [list(sample.answers) for sample in wanted.test]
    assert [row["image"] for row in result] == [str(sample.images[0]) for sample in wanted.test]


def test_going_back(data, tmp_path):
    folder = made(tmp_path / "model")
    for path in data[:2]:
        service.learn(folder, path, accept_if=ANYHOW)
    with pytest.raises(UserError, match="is at stage 2 and can't go back to stage 2: earlier stages are 0 to 1"):
        would_forget(folder, 2)
    assert service.rollback(folder, 0) == ["task-0", "task-1"]
    with pytest.raises(UserError, match="has learned nothing yet"):
        service.check(folder)
    assert service.learn(folder, data[1], accept_if=ANYHOW).stage == 1


def test_a_run_is_such_a_model(data, toy_stream, tmp_path):
    run = tmp_path / "run"
    two = yaml.safe_load(toy_stream.read_text())
    two["tasks"] = two["tasks"][:2]
    stream = tmp_path / "data" / "two.yaml"
    stream.write_text(yaml.safe_dump(two))
    evertune.run(str(stream), model="random", methods="eproj", settings=SETTINGS, out=run)
    assert [change.difference for change in service.check(run).others] == [0, 0]
    done = service.learn(run, data[2], accept_if=ANYHOW)
    assert done.stage == 3 and [change.task for change in done.verdict.others] == ["task-0", "task-1"]
    shutil.rmtree(tmp_path / "data")
    verdict = service.check(run)
    assert [change.task for change in verdict.others] == ["task-0", "task-1", "task-2"]
    opened = Service.open(run)
    sample = opened.tasks[2].test[0]
    result = ask_once(opened, sample.images, sample.instruction)
    assert result.expert in {"task-0", "task-1", "task-2"} and len(result.ranking) == 3
    assert result.ranking[0][0] == result.expert and result.surely.endswith(" % sure")


def test_a_run_goes_back_too(data, toy_stream, tmp_path):
    run = tmp_path / "run"
    evertune.run(str(toy_stream), model="random", methods="replay", settings=SETTINGS, out=run)
    assert service.rollback(run, 1) == ["task-1", "task-2"]
    assert [change.task for change in service.check(run).others] == ["task-0"]
    assert service.learn(run, data[2], name="task-1", accept_if=ANYHOW).stage == 2, "another task of the same name"
    assert [change.task for change in service.check(run).others] == ["task-0", "task-1"]


def test_a_image_of_the_memory_that_is_gone_is_said_to_be(data, tmp_path):
    """Not because the data are gone: the run keeps its own copies."""
    stream, run = data[0], tmp_path / "run"
    evertune.run(stream, model="random", methods="replay", settings=[*SETTINGS, "options.replay.ratio=1"], out=run)
    service.check(run)
    shutil.rmtree(tmp_path / "data" / "images-task-0")
    service.learn(run, data[1], accept_if=ANYHOW)
    known = [kept_task(run, name) for name in ("task-0", "task-1")]
    answered_again = {image for task in known for sample in (*task.train, *task.test) for image in sample.images}
    for path in set((run / "eval_set" / "images").iterdir()) - answered_again:
        path.unlink()
    with pytest.raises(DataError, match=r"the memory of task-0: the kept image \S+ is missing. Run evertune doctor"):
        service.learn(run, data[2], accept_if=ANYHOW)


def test_nothing_is_changed_by_data_that_can_not_be_used(data, tmp_path):
    folder = made(tmp_path / "model")
    service.learn(folder, data[0], accept_if=ANYHOW)
    listed = sorted(path.name for path in folder.rglob("*"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"image": "none.png", "instruction": "what?", "answer": "x"}\n')
    with pytest.raises(DataError, match=r"none.png"):
        service.learn(folder, str(bad), accept_if=ANYHOW)
    with pytest.raises(UserError, match="knows a task 'task-0' already: give the new one another name with --name"):
        service.learn(folder, data[1], name="task-0", accept_if=ANYHOW)
    with pytest.raises(UserError, match="has several tasks"):
        service.learn(folder, str(tmp_path / "data" / "toy.yaml"), accept_if=ANYHOW)
    with pytest.raises(UserError, match="use letters, digits"):
        service.learn(folder, data[1], name="a task", accept_if=ANYHOW)
    with pytest.raises(UserError, match="is not empty"):
        made(folder)
    with pytest.raises(RunFolderError, match="is no run folder"):
        service.check(tmp_path)
    assert sorted(path.name for path in folder.rglob("*")) == listed


def test_a_change_is_paired(tasks, tmp_path):
    task = replace(tasks[0], test=(*tasks[0].train, *tasks[0].test))
    assert len(task.test) >= 12
    right = [sample.answers[0] for sample in task.test]
    first = [text if i % 2 else "wrong" for i, text in enumerate(right)]
    last = [text if i % 4 else "wrong" for i, text in enumerate(right)]
    for name, texts in (("a", first), ("b", last)):
        result = [Prediction(sample, text, None) for sample, text in zip(task.test, texts, strict=True)]
        write_answers(tmp_path / name, result)
    change = change_of(task, tmp_path / "a", tmp_path / "b", best=0.0)
    scores = [[float(text == r) for text, r in zip(texts, right, strict=True)] for texts in (first, last)]
    assert change.interval == change_interval(*scores, [sample.images for sample in task.test])
    mean = 100 * (statistics.fmean(scores[1]) - statistics.fmean(scores[0]))
    assert change.interval[0] < mean < change.interval[1] and not change.few
    assert change.difference == pytest.approx(mean) and change.best == change.after


def test_questions_about_one_image_are_not_independent(tasks, tmp_path):
    one = tasks[0].test[0]
    questions = tuple(replace(one, id=str(place), instruction=f"{place}?") for place in range(40))
    task = replace(tasks[0], test=questions)
    for name, text in (("a", "wrong"), ("b", one.answers[0])):
        write_answers(tmp_path / name, [Prediction(sample, text, None) for sample in task.test])
    change = change_of(task, tmp_path / "a", tmp_path / "b", best=0.0)
    assert change.difference == 100 and change.interval is None and change.few
    assert change.word == "too few questions"


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((1.0, 5.0), "gained"),
        ((-5.0, -1.0), "lost"),
        ((-1.0, 5.0), "kept"),
        (None, "gained"),
        ((-20.5, 3.0), "too few questions"),
        ((-3.0, 20.5), "too few questions"),
        ((1.0, 60.0), "gained"),
    ],
)
def test_words(interval, word):
    assert Change("t", "exact", 9, 10.0, 12.0, 12.0, interval).word == word
    assert Change("t", "exact", 9, 10.0, 12.0, 12.0, None, few=True).word == "too few questions"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "over 99 %"),
        (0.996, "over 99 %"),
        (0.994, "99 %"),
        (0.5, "50 %"),
        (0.004, "under 1 %"),
        (0.0, "under 1 %"),
    ],
)
def test_a_probability_is_never_said_to_be_certain(share, text):
    assert percent(share) == text
    assert lead_of([("a", share), ("b", 1 - share)]) == f"{text} sure" and lead_of([("a", 1.0)]) == ""


def test_measures():
    old = (Change("a", "exact", 9, 90.0, 80.0, 95.0, None), Change("b", "exact", 9, 50.0, 60.0, 60.0, None))
    new = Change("c", "exact", 9, 10.0, 70.0, 70.0, None)
    measures = RegressionReport(new, old).measures()
    assert measures == {"forgetting": 7.5, "worst": 15.0, "gain": 60.0, "average": 70.0}
    assert service.parsed("forgetting<8 and worst<=15").broken_by(measures) == []
    assert service.parsed("gain>60").broken_by(measures) == ["gain 60.0 is not > 60"]


@pytest.mark.parametrize(
    "text", ["", "forgetting", "forgetting<", "forgetting<two", "forgetting<2 or gain>1", "__import__('os')<1"]
)
def test_a_condition_that_is_none(text):
    with pytest.raises(UserError, match="write it like 'forgetting<2 and gain>5'"):
        service.parsed(text)


def test_an_unknown_measure():
    with pytest.raises(UserError, match="unknown measure 'forgeting'.*forgetting"):
        service.parsed("forgeting<2")


@pytest.mark.slow
def test_a_question_in_an_unknown_language_is_noted(tmp_path):
    """The answer was as sure as any, to words that all look alike to the model."""
    folder = tmp_path / "model"
    service.new(folder, model="tiny-instruct", method="sequential", settings=["dtype=float32"])
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    ask = ["ask", str(folder), str(tmp_path / "red.png")]
    odd = CliRunner().invoke(app, [*ask, "这是什么颜色?"])
    (line,) = (line for line in odd.stderr.splitlines() if line.startswith("note"))
    assert "'这是什么颜色?'" in line and "unknown to the tokenizer of 'tiny-instruct'" in line and "rows" not in line
    assert odd.exit_code == 0 and "note" not in odd.stdout
    found = json.loads(CliRunner().invoke(app, [*ask, "这是什么颜色?", "--json"]).stdout)
    assert found["warnings"] == [line.removeprefix("note  ")]
    short = CliRunner().invoke(app, [*ask, "谁?"])
    assert "note  the question: '谁?': 100 % of the tokens" in short.stderr, "blanks and marks are no words"
    known = CliRunner().invoke(app, [*ask, "what color is the 红?"])
    assert known.exit_code == 0 and "note" not in known.stderr, "a word among many"


def test_the_commands(data, tmp_path):
    run, folder = CliRunner().invoke, str(tmp_path / "model")
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    assert "next  evertune learn" in run(app, ["new", folder, "--model", "random", "--method", "eproj", *sets]).stdout
    assert "accepted  as stage 1" in run(app, ["learn", folder, data[0], "--accept-if", "gain>=-100"]).stdout
    refused = run(app, ["learn", folder, data[1], "--accept-if", "average>1000", "--json"])
    assert refused.exit_code == 1 and json.loads(refused.stdout)["accepted"] is False
    assert "task-0" in run(app, ["check", folder]).stdout
    image = str(kept_task(tmp_path / "model", "task-0").test[0].images[0])
    assert json.loads(run(app, ["ask", folder, image, "colour?", "--json"]).stdout)["expert"] == "task-0"
    silent = run(app, ["ask", folder, image])
    assert isinstance(silent.exception, UserError) and "Put it last" in str(silent.exception)
    assert "learned task-0" in run(app, ["log", folder]).stdout
    assert "delete task-0 for good?" in run(app, ["rollback", folder, "--to", "0"], input="n\n").stdout
    assert "is at stage 0 again" in run(app, ["rollback", folder, "--to", "0", "--yes"]).stdout


def curves(folder):
    """Steps of training in order, and the rows of scores as (step, task learned last, names of tasks)."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = [
        (r["step"], r["after"], [n.removeprefix("score/") for n in r if n.startswith("score/")])
        for r in rows
        if "after" in r
    ]
    return [row["step"] for row in rows if "after" not in row], scores


def test_learning_is_tracked_and_what_is_taken_back_is_gone(data, tasks, tmp_path):
    folder = made(tmp_path / "model")
    first, second = service.learn(folder, data[0], accept_if=ANYHOW), service.learn(folder, data[1], accept_if=ANYHOW)
    steps, rows = curves(folder)
    assert steps == list(range(1, len(steps) + 1)), "steps go on from task to task"
    names, half = [task.name for task in tasks], next(step for step, after, _ in rows if after == tasks[0].name)
    assert rows[0] == (0, "base", names[:1]) and rows[1] == (half, names[0], names[:1])
    assert (len(steps), names[1], names[:2]) in rows and half < len(steps)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["stream/forgetting"] == second.verdict.measures()["forgetting"] and first.verdict.new is not None
    before = (folder / "metrics.jsonl").read_text()
    refused = service.learn(folder, data[2], accept_if=service.parsed("gain>1000"))
    assert refused.broken
    kept = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if names[2] not in line]
    assert kept == before.splitlines(), "the discarded stage has left no step"
    service.rollback(folder, 1)
    assert curves(folder)[0] == list(range(1, half + 1))


def test_a_rollback_takes_the_cells_of_later_stages_and_no_others():
    """Those of the stage that it goes back to stay: nothing is asked again there."""
    rows = [{"event": "cell", "cell": {"stage": stage, "task": "a"}} for stage in (0, 1, 2)]
    again = {"event": "cell", "cell": {"stage": 2, "task": "b"}}
    assert set(cells_of([*rows, {"event": "rollback", "to": 1}, again])) == {(0, "a"), (1, "a"), (2, "b")}
