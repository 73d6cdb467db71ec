"""Samples about one image behind one copy of its tokens: losses, gradients and answers are those of separate passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from evertune.data.task import Sample
from evertune.models import behind_image, chat, load_lmm, shared_prefix
from evertune.models.features import FeatureStore

CHAT = [
    *("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
    *("smolvlm", "idefics3", "internvl", "gemma3"),
]
SHARING = ["random", "blip-2 opt", *CHAT]
UNSHARED = {
    "paligemma": "visual tokens attend to the question",
    "mini_blip": "Q-Former reads the question",
    "instructblip t5": "encodes image and question together",
    "blip-2 t5": "encodes image and question together",
}
EXACT = 1e-5


@pytest.fixture
def loaded(mini_blip, tiny_blip, tiny_chat):
    def made(name, *, changed=True, std=0.05):
        if name == "mini_blip":
            folder = str(mini_blip)
        elif " " in name:
            folder = str(tiny_blip(*name.split()))
        else:
            folder = name if name == "random" else str(tiny_chat(name))
        options = {"scope": "projection+lora"} if name in CHAT else {}
        lmm = load_lmm(folder, dtype="float32", device=torch.device("cpu"), options=options)
        generator = torch.Generator().manual_seed(4)
        for parameter in lmm.trainable().values() if changed else ():  # LoRA starts without effect: here all has one
            nn.init.normal_(parameter, std=std, generator=generator)
        return lmm

    return made


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    """Three images of different sizes with four, three and one questions, in no order; one question without image."""
    folder = tmp_path_factory.mktemp("shared")
    generator = torch.Generator().manual_seed(0)
    images = []
    for number, (width, height) in enumerate(((48, 48), (90, 40), (33, 70))):
        noise = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        images.append(folder / f"{number}.png")
        Image.fromarray(noise.numpy()).save(images[-1])
    made = [
        Sample(str(n), (images[image],), "what is " + "it " * n + "?", (f"red {n}",), str(n))
        for n, image in enumerate((0, 1, 0, 2, 1, 0, 1, 0))
    ]
    return [*made[:5], Sample("text", (), "which colour?", ("blue",), "text"), *made[5:]]


def stored(lmm, samples):
    store = FeatureStore(lmm)
    store.ensure(samples)
    return store


def losses(lmm, samples, *, shared):
    batch = lmm.collate(samples, stored(lmm, samples).get(samples), shared=shared)
    assert (batch.prefix is not None) == shared
    return lmm.module()(batch).nll


def gradient(value, lmm):
    found = torch.autograd.grad(
        value, list(lmm.trainable().values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in found])


def apart(lmm, samples):
    """The largest relative distances of losses, and of gradients, of one shared pass and of a pass per sample."""
    together = losses(lmm, samples, shared=True)
    distances = []
    for row, sample in enumerate(samples):
        alone = losses(lmm, [sample], shared=False)[0]
        ours, right = gradient(together[row], lmm), gradient(alone, lmm)
        distances.append((abs(together[row] / alone - 1).item(), ((ours - right).norm() / right.norm()).item()))
    return [max(column) for column in zip(*distances, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARING)
def test_losses_and_gradients_of_each_sample_are_those_of_a_pass_of_its_own(name, loaded, questions):
    lmm = loaded(name)
    assert lmm.unshared is None
    samples = [sample for sample in questions if sample.images]
    assert max(apart(lmm, samples)) < EXACT
    if name in ("random", "qwen2_5_vl"):  # and beside one without an image
        loss = losses(lmm, questions, shared=True)
        torch.testing.assert_close(loss, losses(lmm, questions, shared=False), rtol=EXACT, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "qwen2_5_vl", "gemma3"])
def test_several_images_per_sample(name, loaded, questions):
    """Only the same images in the same order are shared."""
    lmm = loaded(name)
    one, two = questions[0].images[0], questions[1].images[0]
    samples = [
        replace(sample, images=images)
        for sample, images in zip(questions, ((one, two), (two, one), (one, two), (one,)), strict=False)
    ]
    batch = lmm.collate(samples, stored(lmm, samples).get(samples), shared=True)
    assert batch.prefix.groups == (0, 1, 0, 2)
    assert max(apart(lmm, samples)) < EXACT


@pytest.mark.parametrize("name", ["random", "llava"])
def test_the_prefix_goes_through_the_model_once(name, loaded, questions):
    """Each image's visual tokens are in one row of the first pass, and in no row of the second."""
    lmm = loaded(name)
    samples = [sample for sample in questions if sample.images]
    rows = []
    layer = next(m for n, m in lmm.module().named_modules() if n.endswith("layers.0") and "vision" not in n)
    layer.register_forward_hook(lambda _module, inputs, _output: rows.append(tuple(inputs[0].shape[:2])))
    losses(lmm, samples, shared=True)
    (images, ahead), (count, behind) = rows
    assert (images, count) == (3, len(samples))
    rows.clear()
    losses(lmm, samples, shared=False)
    assert rows[0][0] == len(samples) and rows[0][1] >= ahead + behind - 8


@pytest.mark.parametrize("name", ["random", "llava", "qwen2_5_vl"])
def test_wrong_positions_are_noticed(name, loaded, questions, monkeypatch):
    lmm, right = loaded(name), shared_prefix._next
    monkeypatch.setattr(shared_prefix, "_next", lambda *arguments: right(*arguments) + 1)
    assert max(apart(lmm, [questions[0], questions[2]])) > 100 * EXACT


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_question_that_others_can_see_is_noticed(name, loaded, questions, monkeypatch):
    """A prefix that reaches into the first question."""
    lmm, right = loaded(name), chat.groups_of
    monkeypatch.setattr(chat, "groups_of", lambda *a: [(rows, length + 2) for rows, length in right(*a)])
    assert max(apart(lmm, [questions[2], questions[0]])) > 100 * EXACT


def test_a_prefix_of_another_image_is_noticed(loaded, questions, monkeypatch):
    lmm, right = loaded("random"), behind_image.rows_by_images
    monkeypatch.setattr(behind_image, "rows_by_images", lambda same: right(["one"] * len(same)))
    assert max(apart(lmm, questions[:2])) > 100 * EXACT


@pytest.mark.parametrize("name", UNSHARED)
def test_families_that_can_not_share_give_the_reason(name, loaded, questions):
    lmm = loaded(name)
    samples = [sample for sample in questions if sample.images]
    assert UNSHARED[name] in lmm.unshared
    features = stored(lmm, samples).get(samples)
    assert lmm.collate(samples, features, shared=True).prefix is None


def test_in_paligemma_sharing_would_change_the_loss(loaded, questions):
    """Its visual tokens attend to the question: keys and values of an image depend on it."""
    lmm = loaded("paligemma")
    lmm._kind = lmm._kind._replace(unshared=None)
    assert max(apart(lmm, [questions[0], questions[2]])) > 100 * EXACT


def test_a_template_with_the_question_before_the_image(loaded, questions):
    lmm = loaded("llava")
    template = lmm.prompts.inner.chat_template
    parts = [part + "{% endfor %}" for part in template.split("{% endfor %}")[:2]]
    assert "<image>" in parts[0] and "text" in parts[1]
    head = parts[0][: parts[0].index("{% for c in")]
    lmm.prompts.inner.chat_template = template.replace("".join(parts), head + parts[1] + parts[0][len(head) :])
    assert lmm.prompt("red?").index("red?") < lmm.prompt("red?").index("{image}")
    assert "puts the question before the image" in lmm.unshared
    samples = [questions[0], questions[2]]
    features = stored(lmm, samples).get(samples)
    assert lmm.collate(samples, features, shared=True).prefix is None
    assert len(lmm.generate(features, [s.instruction for s in samples], max_new_tokens=2)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARING)
def test_answers_are_the_same_however_many_questions_share_an_image(name, loaded, questions, monkeypatch):
    lmm = loaded(name, changed=name == "random", std=0.3)
    samples = sorted(questions, key=lambda sample: sample.images)
    store = stored(lmm, samples)
    passes = []
    for module in (chat, behind_image):
        run = module.run_behind
        monkeypatch.setattr(module, "run_behind", lambda *a, run=run: passes.append(len(a[1].attention)) or run(*a))

    def answered(some):
        counts = [len(sample.images) for sample in some]
        asked = [sample.instruction for sample in some]
        return [one.ids for one in lmm.generate(store.get(some), asked, max_new_tokens=6, images=counts)]

    together = answered(samples)
    assert passes == [4], "three images and one question without an image"
    assert together == [answered([sample])[0] for sample in samples]
    assert len(set(together)) > 2, "a model that always answers the same proves nothing"
    assert passes == [4]


def test_equal_questions_about_one_image_share_all_but_the_last_token(loaded, questions):
    """As captions have them; the last token of the prompt predicts the first one of each answer."""
    lmm = loaded("llava")
    samples = [replace(questions[0], answers=(answer,)) for answer in ("a cat", "a dog")]
    batch = lmm.collate(samples, stored(lmm, samples).get(samples), shared=True)
    assert (batch.labels[:, 0] == -100).all() and (batch.labels[:, 1] != -100).all()
    assert max(apart(lmm, samples)) < EXACT


def test_a_batch_without_a_second_question_is_as_before(loaded, questions):
    lmm = loaded("llava")
    samples = [questions[0], questions[1], questions[3]]
    features = stored(lmm, samples).get(samples)
    shared, plain = (lmm.collate(samples, features, shared=shared) for shared in (True, False))
    assert shared.prefix is None and torch.equal(shared.input_ids, plain.input_ids)
