"""Samples with no image, one, or several, in one batch, in every family: as each of them alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from evertune.data.task import Task
from evertune.methods import make_methods
from evertune.methods.similarity import embed_task
from evertune.models import load_lmm
from evertune.models.features import FeatureStore, embed_images
from evertune.models.weights import copy_of
from evertune.training.loop import Training, train

CHAT_ONE = ["llava", "llava_next", "llava_onevision", "paligemma"]
CHAT_SEVERAL = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "internvl", "gemma3"]
OURS = ["random", "mini_blip", "blip-2 opt", "blip-2 t5", "instructblip t5"]


@pytest.fixture
def loaded(request, mini_blip, tiny_blip, tiny_chat):
    def made(name, **options):
        if name in CHAT_ONE + CHAT_SEVERAL:
            folder = str(tiny_chat(name))
        elif name == "mini_blip":
            folder = str(mini_blip)
        else:
            folder = str(tiny_blip(*name.split())) if " " in name else name
        lmm = load_lmm(folder, dtype="float32", device=torch.device("cpu"), options=options)
        for parameter in lmm.trainable().values():  # LoRA starts without effect: here everything has one
            nn.init.normal_(parameter, std=0.05)
        return lmm

    return made


@pytest.fixture
def mixed(tasks):
    """One image, none, one, two, none: with instructions and answers of different lengths."""
    one, two, three, four, five = tasks[0].train[:5]
    return [
        one,
        replace(two, images=(), instruction="what is the answer to this long question?", answers=("green",)),
        replace(three, instruction="which?"),
        replace(four, images=four.images + five.images, answers=("red blue",)),
        replace(five, images=(), instruction="name a word"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS + CHAT_ONE + CHAT_SEVERAL)
def test_whatever_else_is_in_the_batch(name, loaded, mixed):
    lmm = loaded(name)
    samples = [sample for sample in mixed if len(sample.images) in lmm.images_per_sample]
    assert len(samples) == (4 if name in CHAT_ONE else 5)
    store = FeatureStore(lmm)
    store.ensure(samples)
    counts = [len(sample.images) for sample in samples]
    instructions = [sample.instruction for sample in samples]
    together = lmm.generate(store.get(samples), instructions, max_new_tokens=6, images=counts)
    nll = lmm.module()(lmm.collate(samples, store.get(samples))).nll
    for sample, answer, loss in zip(samples, together, nll, strict=True):
        count = [len(sample.images)]
        assert lmm.generate(store.get([sample]), [sample.instruction], max_new_tokens=6, images=count) == [answer]
        alone = lmm.module()(lmm.collate([sample], store.get([sample]))).nll[0]
        torch.testing.assert_close(alone, loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["random", "mini_blip", "qwen2_5_vl"])
def test_the_prompt_has_a_place_for_each(name, loaded):
    lmm = loaded(name)
    for number in (0, 1, 3):
        text = lmm.prompt("which {image} is it?", images=number)
        assert text.count("{image}") == number + 1 and "which {image} is it?" in text


def test_without_a_image_the_lm_reads_the_text_alone(loaded, mixed):
    """Against the library's LM on the token ids, which knows of no image."""
    lmm, sample = loaded("mini_blip"), mixed[1]
    batch = lmm.collate([sample], FeatureStore(lmm).get([sample]))
    logits = lmm.blip.language_model(input_ids=batch.input_ids).logits[0, :-1]
    labels = batch.labels[0, 1:]
    wanted = nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0], reduction="sum")
    torch.testing.assert_close(lmm(batch).nll[0], wanted, rtol=1e-5, atol=1e-5)


def test_the_order_of_a_samples_images_counts(loaded, mixed):
    lmm, sample = loaded("mini_blip"), mixed[3]
    turned = replace(sample, images=sample.images[::-1])
    store = FeatureStore(lmm)
    store.ensure([sample, turned])
    one, other = (lmm(lmm.collate([s], store.get([s]))).nll[0] for s in (sample, turned))
    assert abs(one - other) > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "learns"),
    [("mini_blip", {}, False), ("random", {}, True), ("llava", {"scope": "projection"}, False), ("llava", {}, True)],
)
def test_text_alone_trains_what_reads_it(name, options, learns, loaded, mixed):
    """LoRA learns from text; a projection can't, and stays as it is instead of failing."""
    lmm = loaded(name, **options)
    store, before = FeatureStore(lmm), copy_of(lmm.trainable())
    texts = [mixed[1], mixed[4]]
    store.ensure(texts)
    log = train(lmm, make_methods("sequential"), texts, store, training=Training(batch_size=1), seed=0)
    assert len(log) == 2 and all(step.loss > 0 for step in log)
    moved = {name for name, p in lmm.trainable().items() if not torch.equal(p.detach().cpu(), before[name])}
    assert bool(moved) == learns
    assert not {name for name in moved if "project" in name or "query" in name}


def test_embeddings_of_a_task_without_images(loaded, mixed):
    lmm = loaded("random")
    store = FeatureStore(lmm)
    store.ensure(mixed)
    rows = embed_images(lmm, store, mixed)
    assert [bool(row.any()) for row in rows] == [True, False, True, True, False]
    both = mixed[3]
    apart = [replace(both, images=(image,)) for image in both.images]
    torch.testing.assert_close(rows[3], embed_images(lmm, store, apart).mean(0))
    texts = [mixed[1], mixed[4]]
    embedding = embed_task(lmm, FeatureStore(lmm), texts)
    assert not embedding["image"].any() and embedding["instruction"].norm() == pytest.approx(1)


@pytest.mark.parametrize("spec", ["eproj", "replay+ewc", "tir+mas", "lwf"])
def test_a_method_learns_text_after_images(spec, loaded, tasks, mixed, tmp_path):
    from evertune.training.learner import Learner

    lmm = loaded("mini_blip")
    options = {"ewc": {"samples": 4}, "mas": {"samples": 4}}
    learner = Learner(lmm, make_methods(spec, options), folder=tmp_path, training=Training(batch_size=4))
    text = [replace(sample, images=(), instruction=f"say {sample.answers[0]}") for sample in tasks[1].train]
    learner.learn(Task("images", tasks[0].train, tasks[0].test, "exact"))
    learner.learn(Task("text", text, text[:3], "exact"))
    answers = learner.answers(Task("text", text, text[:3], "exact"))
    assert len(answers) == 3
    if spec == "eproj":
        assert {answer.expert for answer in answers} == {"text"}
