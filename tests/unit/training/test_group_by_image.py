"""Training with one copy of an image's tokens: batches of whole images, and the losses of a training without it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from evertune.data.task import Task
from evertune.methods import make_methods
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.smol import Smol
from evertune.models.weights import copy_of, fingerprint_of
from evertune.runs.config import RunConfig
from evertune.training.evaluator import _in_order
from evertune.training.learner import Learner
from evertune.training.loop import Training, train
from evertune.training.sample_order import sample_order
from evertune.utils import distributed
from evertune.utils.config_io import validated
from evertune.utils.errors import UserError

TRAINING = Training(epochs=2, batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3)


def about(tasks, sizes):
    """Samples: so many about each image, one image after another."""
    images = [sample.images for task in tasks for sample in task.train]
    one = tasks[0].train[0]
    return [
        replace(one, id=f"{image}-{n}", images=images[image], instruction="which " + "one " * n, answers=(f"red {n}",))
        for image, size in enumerate(sizes)
        for n in range(size)
    ]


def batches(samples, size, **how):
    order = list(sample_order(samples, seed=3, whole_images=size, **{"epochs": 1, **how}))
    return [order[start : start + size] for start in range(0, len(order), size)]


@pytest.mark.parametrize("sizes", [(4,) * 6, (1, 2, 3) * 4, (1,) * 9, (13, 4, 1), (5,) * 5], ids=str)
def test_a_pass_has_every_sample_once(tasks, sizes):
    samples = about(tasks, sizes)
    found = [sample.id for batch in batches(samples, 4) for sample in batch]
    assert sorted(found) == sorted(sample.id for sample in samples)
    assert found != [sample.id for sample in samples] or len(set(sizes)) == 1 < sizes[0]
    twice = [sample.id for batch in batches(samples, 4, epochs=2) for sample in batch]
    assert Counter(twice) == Counter({sample.id: 2 for sample in samples})
    assert len(batches(samples, 4, epochs=0.5)[0]) == 4


@pytest.mark.parametrize(
    ("sizes", "size"), [((4,) * 6, 4), ((2, 1, 1) * 6, 4), ((3, 5, 2, 6, 1, 1, 1) * 3, 6)], ids=str
)
def test_a_batch_holds_whole_images(tasks, sizes, size):
    samples = about(tasks, sizes)
    whole = Counter(sample.images for sample in samples)
    for batch in batches(samples, size)[:-3]:
        assert all(count == whole[images] for images, count in Counter(s.images for s in batch).items())


def test_an_image_with_more_samples_than_a_batch_is_divided(tasks):
    found = batches(about(tasks, (13,)), 4)
    assert [len(batch) for batch in found] == [4, 4, 4, 1]


def test_the_order_is_random_and_that_of_its_seed(tasks):
    samples = about(tasks, (2,) * 10)
    one, same, other = (list(sample_order(samples, epochs=1, seed=seed, whole_images=4)) for seed in (0, 0, 1))
    assert one == same != other


def test_samples_without_images_are_no_group(tasks):
    samples = [replace(sample, images=()) for sample in about(tasks, (6,))]
    assert len({batch[0].id for batch in batches(samples, 2)}) == 3


def learned(folder, tasks, spec, monkeypatch, *, shared, training=TRAINING):
    """How far two tasks move the weights, and their losses, of the same batches with shared images or without."""
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    kept, rows = Smol.collate, []

    def collate(self, samples, features, **how):
        batch = kept(self, samples, features, shared=how.get("shared", False) and shared)
        rows.append((batch.prefix is not None, bool(how)))
        return batch

    monkeypatch.setattr(Smol, "collate", collate)
    options = {"replay": {"ratio": 0.5}, "ewc": {"samples": 4, "strength": 10.0}, "mas": {"samples": 4}}
    options = {name: value for name, value in options.items() if name in spec}
    learner = Learner(
        lmm,
        make_methods(spec, options),
        folder=folder,
        training=replace(training, group_by_image=True),
        reuse=False,
    )
    start = copy_of(learner.lmm.trainable())
    for number, sizes in enumerate(((3, 2, 3), (4, 1, 2, 3))):
        learner.learn(Task(f"task-{number}", about(tasks[number:], sizes), ()))
    monkeypatch.setattr(Smol, "collate", kept)
    logs = [path.read_text() for path in sorted(folder.glob("stages/*/training.jsonl"))]
    losses = [json.loads(line)["loss"] for text in logs for line in text.splitlines()]
    moved = [(value - start[name]).flatten() for name, value in learner.lmm.trainable().items()]
    return torch.cat(moved).detach(), losses, rows


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["sequential", "replay+ewc", "lwf", "tir+mas", "agem", "moelora"])
def test_a_training_is_that_of_separate_passes(spec, tasks, tmp_path, monkeypatch):
    """With penalties, their importances, distillation and replayed samples on top."""
    ours, losses, rows = learned(tmp_path / "shared", tasks, spec, monkeypatch, shared=True)
    right, others, plain = learned(tmp_path / "plain", tasks, spec, monkeypatch, shared=False)
    assert any(prefix for prefix, _ in rows) and not any(prefix for prefix, _ in plain)
    assert all(wanted for prefix, wanted in rows if prefix), "only training shares"
    assert len(losses) == len(others) >= 5
    assert losses == pytest.approx(others, rel=1e-4)
    assert (ours - right).norm() < 0.01 * right.norm(), "AdamW amplifies rounding where a gradient is nearly zero"


def test_a_batch_that_does_not_fit_into_memory_is_divided(tasks, lmm, store_of, monkeypatch):
    samples = about(tasks, (4, 3, 1))
    start = copy_of(lmm.trainable())
    features = store_of(lmm, [])
    features.ensure(samples)
    training = Training(batch_size=8, group_by_image=True)
    rows, forward = [], Smol.forward

    def small(self, batch):
        rows.append((len(batch.samples), batch.prefix is not None))
        if len(batch.samples) > 4:
            raise torch.OutOfMemoryError("no memory")
        return forward(self, batch)

    whole = train(lmm, make_methods("sequential"), samples, features, training=training, seed=1)
    for name, parameter in lmm.trainable().items():
        parameter.data.copy_(start[name])
    monkeypatch.setattr(Smol, "forward", small)
    parts = train(lmm, make_methods("sequential"), samples, features, training=training, seed=1)
    assert rows == [(8, True), (4, True), (4, True)]
    assert parts[0].loss == pytest.approx(whole[0].loss, rel=1e-5)
    assert parts[0].gradient_norm == pytest.approx(whole[0].gradient_norm, rel=1e-4)


def test_a_model_that_can_not_share_trains_as_before(mini_blip, tasks):
    samples = about(tasks, (3, 3))
    ends = []
    for wanted in (False, True):
        lmm = load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))
        store = FeatureStore(lmm)
        store.ensure(samples)
        training = Training(batch_size=2, group_by_image=wanted)
        methods = make_methods("sequential")
        if wanted:
            with pytest.warns(UserWarning, match="group_by_image changes nothing .*Q-Former reads the question"):
                train(lmm, methods, samples, store, training=training, seed=1)
        else:
            train(lmm, methods, samples, store, training=training, seed=1)
        ends.append(fingerprint_of(lmm.trainable()))
    assert ends[0] == ends[1]


def test_with_fsdp_there_is_no_sharing(lmm, tasks, features, monkeypatch):
    """A process whose samples share no image would pass once through the sharded blocks, and others twice."""
    monkeypatch.setattr(distributed, "uses_fsdp", lambda: True)
    with pytest.warns(UserWarning, match="changes nothing .*use_fsdp"):
        train(lmm, make_methods("sequential"), tasks[0].train, features, training=Training(group_by_image=True), seed=1)


def test_not_together_with_activations_that_are_computed_again():
    with pytest.raises(UserError, match="leave out one of them"):
        Training(group_by_image=True, gradient_checkpointing=True)
    content = {"stream": "parcel", "train": {"group_by_image": True, "gradient_checkpointing": True}}
    with pytest.raises(UserError, match="leave out one of them"):
        validated(RunConfig, content, where="the command")


def test_questions_about_one_image_are_neighbours_in_evaluation(tasks):
    samples = about(tasks, (3, 2, 1))[::-1]
    found = _in_order(samples, by_image=True)
    assert [sample.id for sample in found] == ["2-0", "1-0", "1-1", "0-0", "0-1", "0-2"]
    lengths = [len(sample.instruction) for sample in _in_order(samples, by_image=False)]
    assert lengths == sorted(lengths)
