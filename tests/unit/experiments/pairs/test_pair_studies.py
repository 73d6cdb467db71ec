"""Pairs of tasks with the model `random`: interrupted equals undisturbed, and looking on changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from reading_rows import colour, write_lines

from evertune.experiments.pairs import run as run_module
from evertune.experiments.pairs import worker
from evertune.experiments.pairs.run import run_pairs
from evertune.experiments.pairs.study import begin_study, study_of
from evertune.experiments.pairs.worker import TrainingDynamics, learn_pairs, learner_of, looked_at
from evertune.methods import Method, Sequential
from evertune.models import load_lmm
from evertune.models.weights import copy_of, fingerprint_of, restore
from evertune.runs.api import configure
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import DataError, RunFolderError, UserError

SETTINGS = ["train.epochs=3", "train.learning_rate=0.01", "dtype=float32", "reuse=false"]


def study(stream, out, *, points=0, seeds=(0,), settings=(), **given):
    config = configure(str(stream), model="random", out=str(out), settings=[*SETTINGS, *settings], **given)
    made = study_of(config, seeds=seeds, points=points)
    begin_study(made)
    return made


def learn(made, *, first="task-0"):
    """What the process of one first task does, here."""
    learner, made = learner_of(made, first, seed=0, dtype="float32")
    task = next(task for task in made.tasks if task.name == first)
    learn_pairs(made, learner, task, seed=0)


def files(made):
    place = made.folder / "s0" / "task-0"
    found = {p.name: p.read_bytes() for p in place.glob("*.json") if p.name != "provenance.json"}
    found |= {str(p.relative_to(place)): p.read_bytes() for p in place.glob("answers/**/*.jsonl")}
    return found | {str(p.relative_to(place)): p.read_bytes() for p in place.glob("stages/**/*.safetensors")}


@pytest.mark.slow
def test_rows_that_the_model_can_not_read_are_refused_or_left_out(tmp_path):
    """A control token in an answer of a task that is the second of a pair."""
    entries = []
    for number, name in enumerate(("task-0", "task-1")):
        for side, count in (("train", 4), ("test", 2)):
            names = [colour(tmp_path, f"{name}-{side}-{n}.png", (40 * n, 99 * number, len(side))) for n in range(count)]
            rows = [{"image": image, "instruction": "which?", "answer": "ab"[number]} for image in names]
            if (name, side) == ("task-1", "train"):
                rows[2]["answer"] = "b<|im_end|>"
            write_lines(tmp_path / f"{name}-{side}.jsonl", *rows)
        entries.append({"name": name, "train": f"{name}-train.jsonl", "test": f"{name}-test.jsonl"})
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": entries}))
    with pytest.raises(DataError, match="task-1-train.jsonl:3: the answer holds '<|im_end|>'"):
        learn(study(tmp_path / "s.yaml", tmp_path / "refused"))
    made = study(tmp_path / "s.yaml", tmp_path / "kept", skip_invalid=True)
    _, read = learner_of(made, "task-0", seed=0, dtype="float32")
    assert [len(task.train) for task in read.tasks] == [4, 3]


@pytest.fixture(scope="module")
def undisturbed(toy_stream, tmp_path_factory):
    made = study(toy_stream, tmp_path_factory.mktemp("pairs") / "whole", points=2)
    learn(made)
    return made


def test_a_pair_holds_four_scores_and_the_curve(undisturbed):
    row = json.loads(undisturbed.pair_file("task-0", "task-1", seed=0).read_text())
    assert (row["seed"], row["first"], row["second"]) == (0, "task-0", "task-1")
    place = undisturbed.place("task-0", seed=0) / "answers"
    for when, which, path in (
        ("after_first", "first", "alone.jsonl"),
        ("after_first", "second", "before-task-1/task-1.jsonl"),
        ("after_second", "first", "after-task-1/task-0.jsonl"),
        ("after_second", "second", "after-task-1/task-1.jsonl"),
    ):
        rows = [json.loads(line) for line in (place / path).read_text().splitlines()]
        right = sum(answer["answer"] == answer["gold"][0] for answer in rows)
        assert row[when][which]["strict"] == 100 * right / len(rows) and row[when][which]["n"] == len(rows) == 4
    assert [point["share"] for point in row["dynamics"]] == [0.0, 0.5, 1.0]
    ends = [row[when]["first"]["strict"] for when in ("after_first", "after_second")]
    assert [row["dynamics"][0]["strict"], row["dynamics"][-1]["strict"]] == ends
    stages = sorted(p.name for p in (undisturbed.place("task-0", seed=0) / "stages").iterdir())
    assert stages == ["01-task-0"], "what the second task left behind is rolled back"


def test_every_other_task_is_a_second_one_and_itself_is_not(undisturbed):
    assert undisturbed.seconds_of("task-1") == ["task-0", "task-2"]
    assert undisturbed.missing("task-0", seed=0) == [] and undisturbed.missing("task-1", seed=0) == ["task-0", "task-2"]


@pytest.mark.parametrize("after", [0, 1, 2, 4, 6])
def test_interrupted_and_resumed_equals_undisturbed(undisturbed, toy_stream, tmp_path, monkeypatch, after):
    """Torn apart before the first score, between pairs, while a second task is learned and after it."""
    made, scored, calls = study(toy_stream, tmp_path / "torn", points=2), worker.scored, []

    def torn(*arguments):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(arguments)
        return scored(*arguments)

    monkeypatch.setattr(worker, "scored", torn)
    with pytest.raises(KeyboardInterrupt):
        learn(made)
    monkeypatch.setattr(worker, "scored", scored)
    assert files(made) != files(undisturbed)
    learn(made)
    assert files(made) == files(undisturbed)


def test_a_finished_pair_is_not_learned_again(undisturbed, monkeypatch):
    before = files(undisturbed)
    monkeypatch.setattr(Learner, "learn", None)
    learn(undisturbed)
    assert files(undisturbed) == before


class Shaken(Method):
    """Its loss depends on the random generator: whoever draws from it in between changes the training."""

    name = "shaken"
    about = Sequential.about

    def loss_terms(self, batch, output):
        return {"noise": torch.rand(()) * output.loss}


def trained(tasks, folder, *, points, fork=True, monkeypatch=None):
    """Weights after learning task-0, then task-1, looked at `points` times; answering draws from the generator."""
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    generate = lmm.generate

    def generate_with_a_draw(*arguments, **more):
        torch.rand(3)
        return generate(*arguments, **more)

    monkeypatch.setattr(lmm, "generate", generate_with_a_draw, raising=False)
    if not fork:
        monkeypatch.setattr(torch.random, "fork_rng", torch.no_grad)
    learner = Learner(lmm, [Shaken()], folder=folder, training=Training(epochs=3, learning_rate=1e-2), reuse=False)
    learner.learn(tasks[0])
    watched, kept = TrainingDynamics(learner, tasks[0], points=points, place="during"), {}

    def on_step(step):
        watched(step)
        kept[step.step] = copy_of(lmm.trainable())

    learner.learn(tasks[1], on_step=on_step)
    return learner, watched.curve, kept


def test_looking_on_leaves_the_training_bit_for_bit(tasks, tmp_path, monkeypatch):
    plain, nothing, _ = trained(tasks, tmp_path / "a", points=0, monkeypatch=monkeypatch)
    watched, curve, _ = trained(tasks, tmp_path / "b", points=3, monkeypatch=monkeypatch)
    assert nothing == [] and [point["share"] for point in curve] == [2 / 6, 4 / 6]
    assert fingerprint_of(plain.lmm.trainable()) == fingerprint_of(watched.lmm.trainable())
    log = "stages/02-task-1/training.jsonl"
    assert (tmp_path / "a" / log).read_bytes() == (tmp_path / "b" / log).read_bytes()
    careless, *_ = trained(tasks, tmp_path / "c", points=3, fork=False, monkeypatch=monkeypatch)
    assert fingerprint_of(plain.lmm.trainable()) != fingerprint_of(careless.lmm.trainable()), "this test can fail"


def test_the_curve_is_what_the_weights_say_at_that_step(tasks, tmp_path, monkeypatch):
    learner, curve, kept = trained(tasks, tmp_path, points=3, monkeypatch=monkeypatch)
    rows = []
    for step, point in zip((2, 4), curve, strict=True):
        restore(learner.lmm.trainable(), kept[step])
        assert point["strict"] == worker.scored(learner, tasks[0], f"again-{step}")["strict"]
        rows.append((tmp_path / "answers" / "during" / f"step-{step:06d}.jsonl").read_bytes())
        assert rows[-1] == (tmp_path / "answers" / f"again-{step}.jsonl").read_bytes()
    assert rows[0] != rows[1], "the answers change while the second task is learned"


def test_the_steps_that_are_looked_at():
    assert looked_at(100, 4) == {25, 50, 75}
    assert looked_at(3, 10) == {1, 2}, "no step twice, not the last: it is evaluated anyway"
    assert looked_at(10, 1) == looked_at(10, 0) == set()


def test_put_together(toy_stream, tmp_path, monkeypatch):
    """Processes replaced by calls, for speed; the real ones are in the end-to-end test."""
    made = study(toy_stream, tmp_path / "all")

    def here(self, callback):
        for name in self._open:
            learn(made, first=name.removeprefix("s0/"))

    monkeypatch.setattr(run_module.PairRuns, "run", here)
    result = run_pairs(made)
    assert json.loads((made.folder / "pairs.json").read_text()) == json.loads(json.dumps(result))
    assert (made.folder / "index.html").exists()
    assert len(result["pairs"]) == 6 and result["tasks"] == ["task-0", "task-1", "task-2"]
    alone = {p["second"]: p["alone"] for p in result["pairs"]}
    for pair in result["pairs"]:
        assert pair["alone"] == alone[pair["second"]]
        own = json.loads((made.place(pair["second"], seed=0) / "alone.json").read_text())
        assert own == pair["alone"], "the cold start of a task is the first stage of its own pairs"
    monkeypatch.setattr("evertune.models.load_lmm", None)
    assert run_pairs(made) == result, "a finished study loads no model"


def test_the_cache_keeps_the_first_task_and_no_second_one(toy_stream, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    made = study(toy_stream, tmp_path / "out", settings=["reuse=true"])
    learn(made)
    assert len(list((tmp_path / "cache" / "trained").iterdir())) == 1
    again = study(toy_stream, tmp_path / "again", settings=["reuse=true"])
    learn(again)
    done = json.loads((again.place("task-0", seed=0) / "stages" / "01-task-0" / "done.json").read_text())
    assert done["reused"] and files(again) == files(made)


def test_another_study_or_a_foreign_folder_is_refused(undisturbed, toy_stream, tmp_path):
    with pytest.raises(RunFolderError, match="holds a run started with dynamics=2; requested dynamics=0"):
        study(toy_stream, undisturbed.folder)
    with pytest.raises(
        RunFolderError, match=r"holds a run started with train\.epochs=3.0; requested train\.epochs=4.0"
    ):
        study(toy_stream, undisturbed.folder, points=2, settings=["train.epochs=4"])
    assert study(toy_stream, undisturbed.folder, points=2, seeds=(0, 5)).seeds == (0, 5), "more seeds may follow"
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and not a study of pairs"):
        study(toy_stream, tmp_path)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"method": "direct"}, "'direct' is a bound: it does not learn one task after another"),
        ({"method": "sequential,replay"}, "pairs are learned with one method"),
        ({"seeds": (1, 1)}, "seeds 1, 1: give different numbers from 0 on"),
        ({"seeds": (-1,)}, "seeds -1: give different numbers from 0 on"),
        ({"seeds": ()}, r"seeds \(none\)"),
        ({"settings": ["evaluation.cells=final"]}, r"evaluation\.cells and stages\.keep are for evertune run"),
        ({"settings": ["stages.keep=last"]}, r"evaluation\.cells and stages\.keep are for evertune run"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(toy_stream, tmp_path, given, complaint):
    with pytest.raises(UserError, match=complaint):
        study(toy_stream, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
