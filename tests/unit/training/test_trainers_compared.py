"""The comparisons with other trainers compare the same trainings: tokens, labels, losses and steps are equal."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from evertune.data.task import Task
from evertune.methods import Context, make_methods
from evertune.models import load_lmm
from evertune.training import learner, training_cache
from evertune.training.loop import Training, sample_order, train

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
models, trainers, by_hand, driver = map(
    importlib.import_module, ("peers.models", "peers.trainers", "peers.trainer_stream", "against_trainers")
)

FEATURES_ARE_HALF_PRECISION = 2e-3
TRAINING = Training(batch_size=4, learning_rate=1e-3)


@pytest.fixture(params=["random", "tiny-aligned"])
def model(request):
    return load_lmm(request.param, seed=1, dtype="float32", device=torch.device("cpu"))


@pytest.fixture
def samples(tasks):
    return [sample for task in tasks for sample in task.train[:6]]


def test_a_peer_reads_the_same_tokens_and_is_taught_the_same_labels(model, samples, store_of):
    batch = model.collate(samples, store_of(model, [Task("all", samples, [])]).get(samples))
    inputs = models.peer_of(model).collate(models.rows_of(samples))
    ahead = inputs["input_ids"].shape[1] - batch.input_ids.shape[1]  # the library's tokens for the image
    assert torch.equal(inputs["attention_mask"][:, ahead:], batch.attention)
    assert torch.equal(inputs["labels"][:, ahead:], batch.labels)
    real = batch.attention.bool()
    assert torch.equal(inputs["input_ids"][:, ahead:][real], batch.input_ids[real])


def test_a_peer_has_the_same_loss_and_another_label_changes_it(model, samples, store_of):
    batch = model.collate(samples, store_of(model, [Task("all", samples, [])]).get(samples))
    peer = models.peer_of(model)
    inputs = peer.collate(models.rows_of(samples))
    labels = inputs.pop("labels")
    with torch.no_grad():
        wanted, outputs = model(batch).loss.item(), peer.model(**inputs)
        assert trainers.MeanOverSamples()(outputs, labels).item() == pytest.approx(
            wanted, abs=FEATURES_ARE_HALF_PRECISION
        )
        with_prompt = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], labels)
        assert trainers.MeanOverSamples()(outputs, with_prompt).item() != pytest.approx(wanted, abs=0.01)


def test_the_trainer_takes_the_same_steps(model, samples, store_of, tmp_path):
    features = store_of(model, [Task("all", samples, [])])
    start = {name: p.detach().clone() for name, p in model.trainable().items()}
    ours = [s.loss for s in train(model, make_methods("sequential"), samples, features, training=TRAINING, seed=3)]
    for name, parameter in model.trainable().items():
        parameter.data.copy_(start[name])
    rows = models.rows_of(list(sample_order(samples, epochs=1.0, seed=3)))
    trainer, seen = trainers.make_trainer(
        models.peer_of(model), model, rows, training=TRAINING, workers=0, folder=tmp_path
    )
    trainer.train()
    assert len(ours) > 2
    assert [loss.item() for loss in seen] == pytest.approx(ours, abs=5 * FEATURES_ARE_HALF_PRECISION)


def test_answers_by_hand_are_those_of_evertune(tasks, store_of):
    lmm = load_lmm("tiny-aligned", dtype="float32", device=torch.device("cpu"))
    tested = [sample for task in tasks for sample in task.test[:4]]
    features = store_of(lmm, [Task("all", tested, [])]).get(tested)
    wanted = lmm.generate(features, [s.instruction for s in tested], max_new_tokens=5)
    assert by_hand.ByHand(lmm, TRAINING, workers=0).answers(tested, 5) == wanted
    assert any(wanted)


def test_by_hand_an_expert_starts_untouched_and_its_task_finds_it(tasks):
    lmm = load_lmm("tiny-aligned", dtype="float32", device=torch.device("cpu"))
    hand = by_hand.ByHand(lmm, TRAINING, workers=0)
    taught, tested = [], []
    hand.teach = lambda task: taught.append({n: p.detach().clone() for n, p in lmm.trainable().items()})
    hand.row = lambda tasks, expert_of, experts: tested.append([expert_of(list(t.test)) for t in tasks]) or [0.0]
    by_hand.eproj(hand, tasks[:2], [0.0])
    assert all(torch.equal(weights[n], hand.start[n]) for weights in taught for n in weights)
    assert set(tested[0][1]) == {tasks[0].name}  # all that it knows then
    assert tested[1] == [[task.name] * len(task.test) for task in tasks[:2]]


def test_by_hand_the_same_samples_are_replayed(tasks, store_of):
    """So that R can be compared cell by cell."""
    lmm = load_lmm("tiny-aligned", dtype="float32", device=torch.device("cpu"))
    hand = by_hand.ByHand(lmm, TRAINING, workers=0)
    taught = []
    hand.teach = lambda task, memory=(): taught.append([s.id for s in [*task.train, *memory]])
    hand.row = lambda *_: [0.0]
    assert len(by_hand.replay(hand, tasks, [0.0])) == len(tasks) + 1
    (replay,) = make_methods("replay", {})
    replay.setup(Context(lmm=lmm, features=store_of(lmm, tasks), seed=hand.seed, start=hand.start))
    for task, ids in zip(tasks, taught, strict=True):
        assert ids == [sample.id for sample in replay.data_plan(task, task.train)]
        replay.after_task(task)
    assert [len(ids) - len(task.train) for ids, task in zip(taught, tasks, strict=True)] == list(range(len(tasks)))


def test_by_hand_a_task_is_taught_in_the_same_order(tasks, monkeypatch, tmp_path):
    """As `Learner` draws it from its seed and the task's name."""
    lmm, seeds = load_lmm("tiny-aligned", dtype="float32", device=torch.device("cpu")), []
    monkeypatch.setattr(training_cache, "train", lambda *_, seed, **__: seeds.append(seed) or [])
    learner.Learner(lmm, make_methods("sequential", {}), folder=tmp_path, reuse=False).learn(tasks[1])
    monkeypatch.setattr(by_hand, "sample_order", lambda *_, seed, **__: seeds.append(seed) or list(tasks[1].train))
    monkeypatch.setattr(by_hand, "make_trainer", mock.MagicMock())
    by_hand.ByHand(lmm, TRAINING, workers=0).teach(tasks[1])
    assert seeds[0] == seeds[1]


def test_forgetting_by_hand():
    assert by_hand.forgetting([[0, 0, 0], [80, 5, 10], [60, 70, 12], [75, 72, 65]]) == pytest.approx(1.5)


def test_curves_that_differ_are_noticed():
    same = {"ours": {"losses": [2.0, 1.0]}, "theirs": {"losses": [2.0, 1.001]}}
    assert max(driver.losses_apart([same, same])) == pytest.approx(0.001)
    other = {"ours": {"losses": [2.0, 1.0]}, "theirs": {"losses": [2.0, 1.5]}}
    assert max(driver.losses_apart([same, other])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="zip"):
        driver.losses_apart([{"ours": {"losses": [2.0]}, "theirs": {"losses": [2.0, 1.0]}}])
