"""Chat LMMs: what is remembered of images and texts, by what; and dropout, which no answer may see."""

from __future__ import annotations

import pytest
import torch
from chat_models import load
from PIL import Image
from tiny_chat import FAMILIES
from tokenizers import processors

from evertune.data.task import Sample
from evertune.models.chat import rows_in, sizes_in
from evertune.models.decoder import IGNORE
from evertune.models.feature_policy import FeaturePolicy
from evertune.models.features import FeatureStore
from evertune.models.processors import alike

BY_SIZE = [name for name in FAMILIES if name not in ("llava", "paligemma", "gemma3")]
"""Families whose images take more tokens when they are larger."""
SIZES = [(28, 28), (112, 84), (28, 112), (300, 259)]


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SIZE)
def test_token_ids_are_those_of_the_sizes(name, tiny_chat):
    """The same question about images of other sizes, in any order: each time as a model that was never asked before."""
    lmm, fresh = load(tiny_chat(name)), [load(tiny_chat(name)) for _ in SIZES]
    found = [lmm.prompts.ids("which?", "red", [size]) for size in SIZES]
    assert found == [other.prompts.ids("which?", "red", [size]) for other, size in zip(fresh, SIZES, strict=True)]
    assert found == [lmm.prompts.ids("which?", "red", [size]) for size in SIZES]
    assert len({len(prompt) for prompt, _ in found}) > 1
    assert [len(p) + len(a) for p, a in found] == [lmm.lengths("which?", "red", [size])[0].tokens for size in SIZES]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_question_with_other_answers_and_without(name, tiny_chat):
    lmm = load(tiny_chat(name))
    decode = lmm.prompts.tokenizer.decode
    for answer in ("red", None, "blue", "red"):
        prompt, answered = lmm.prompts.ids("which?", answer, [(28, 28)])
        assert (decode(answered[:-1]).strip() if answered else None) == answer
        assert prompt == lmm.prompts.ids("which?", None, [(28, 28)])[0]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_sizes_beyond_a_byte_are_kept(name, tiny_chat):
    """Height, width and rows of an image are read back from its features, below and above 256 and 65,536."""
    lmm = load(tiny_chat(name))
    sizes = [(255, 256), (257, 700), (1, 1), (4, 70_000 if name == "internvl" else 400)]
    made = lmm.encode([Image.new("RGB", (width, height)) for height, width in sizes])
    features = torch.nn.utils.rnn.pad_sequence(made, batch_first=True)
    assert sizes_in(features) == sizes
    assert [len(rows) for rows in rows_in(features)] == [len(rows) - 1 for rows in made]


def test_many_rows_are_kept(tiny_chat):
    """More rows than a byte counts: 27 x 24 tokens."""
    lmm = load(tiny_chat("qwen2_vl"))
    lmm.prompts.inner.image_processor.size = {"shortest_edge": 196, "longest_edge": 1_000_000}
    (made,) = lmm.encode([Image.new("RGB", (14 * 24, 14 * 27))])
    (rows,) = rows_in(torch.nn.functional.pad(made, (0, 0, 0, 5))[None])
    assert len(rows) == 27 * 24 and torch.equal(rows, made[1:])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_answers_in_the_middle_of_training_have_no_dropout(name, tiny_chat, tmp_path):
    lmm = load(tiny_chat(name))
    dropped = [module for module in lmm.modules() if hasattr(module, "attention_dropout")]
    for module in dropped:
        module.attention_dropout = 0.9
    samples = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 40), (40 * number, 0, 200)).save(path)
        samples.append(Sample(str(number), (path,), f"what is {number}?", ("red",), str(path)))
    store = FeatureStore(lmm, folder=tmp_path / "features")
    store.ensure(samples)
    ask = [sample.instruction for sample in samples]
    expected = lmm.eval().generate(store.get(samples), ask, max_new_tokens=6)
    lmm.train()
    assert lmm.generate(store.get(samples), ask, max_new_tokens=6) == expected
    assert lmm.training, "the model trains on"
    batch = lmm.collate(samples, store.get(samples))
    with torch.no_grad():
        assert not torch.equal(lmm(batch).nll, lmm(batch).nll), "without dropout this says nothing"
    assert (batch.labels != IGNORE).any()


@pytest.mark.parametrize("name", ["gemma3", "llava", "paligemma", "qwen2_vl"])
def test_a_prompt_begins_with_one_mark(name, tiny_chat):
    """By the template or by the tokenizer, which writes it by itself as Gemma's and Llama's do."""
    lmm = load(tiny_chat(name))
    tokenizer = lmm.prompts.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    prompt, answer = lmm.prompts.ids("which?", "red", [(28, 28)])
    assert prompt.count(tokenizer.bos_token_id) == 1 and tokenizer.bos_token_id not in answer
    if name != "paligemma":  # its images stand before the mark
        assert prompt[0] == tokenizer.bos_token_id


def test_token_ids_outlive_what_another_thread_clears(tiny_chat):
    """A server counts a request's tokens in one thread while another answers: KeyError, a reply of 500."""
    prompts = load(tiny_chat("llava")).prompts

    class ClearedMeanwhile(dict):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            self.clear()

    prompts._ids = ClearedMeanwhile()
    assert prompts.ids("which?", "red", [(28, 28)]) == prompts.ids("which?", "red", [(28, 28)])
    assert prompts.count("which?", "red", [(28, 28)]) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_images_of_equal_shape_are_encoded_together(name, tiny_chat, monkeypatch):
    """Six images of three sizes in a mixed order: each has the features that it has alone."""
    lmm, drawn = load(tiny_chat(name)), torch.Generator().manual_seed(0)
    sizes = [(28, 28), (84, 56), (28, 28), (56, 84), (84, 56), (28, 28)]
    noise = [torch.randint(256, (*size, 3), generator=drawn, dtype=torch.uint8).numpy() for size in sizes]
    images = [Image.fromarray(pixels) for pixels in noise]
    alone = [lmm.encode([image])[0] for image in images]
    calls, original = [], lmm.model.model.get_image_features

    def counted(**pixels):
        calls.append(len(pixels["pixel_values"]))
        return original(**pixels)

    monkeypatch.setattr(lmm.model.model, "get_image_features", counted)
    together = lmm.encode(images)
    assert len(calls) < len(images)
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape and torch.equal(one[0], other[0]), "size and number of rows"
        assert torch.allclose(one[1:].float(), other[1:].float(), atol=2e-3, rtol=2e-3)
    assert len({tuple(map(float, part[1])) for part in together}) == len(images), "no two images are taken for one"


def test_images_in_the_middle_of_training_are_encoded_without_dropout(tiny_chat):
    lmm = load(tiny_chat("llava"))
    for module in lmm.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.9
    image = Image.new("RGB", (28, 28), "red")
    before = lmm.eval().encode([image])[0]
    lmm.train()
    assert torch.equal(lmm.encode([image])[0], before) and lmm.training and lmm.model.model.vision_tower.training


def test_few_images_of_many_pixels_are_encoded_at_once(tiny_chat, monkeypatch):
    lmm = load(tiny_chat("llava"))
    monkeypatch.setattr("evertune.models.processors.MOST_VALUES", 2 * 3 * 28 * 28)
    prepared = [lmm.prepare(Image.new("RGB", (28, 28))) for _ in range(5)]
    assert alike(prepared) == [[0, 1], [2, 3], [4]]
    monkeypatch.setattr("evertune.models.processors.MOST_VALUES", 1)
    assert alike(prepared) == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_data_workers_prepare_images(name, tiny_chat, tmp_path):
    """Sizes came back from the workers as lists, for which there is no layout: TypeError."""
    lmm, samples = load(tiny_chat(name)), []
    for number in range(70):
        path = tmp_path / f"{number}.png"
        Image.linear_gradient("L").resize((30 + number, 40)).convert("RGB").save(path)
        samples.append(Sample(str(number), (path,), "what?", ("red",), str(path)))
    store = FeatureStore(lmm, folder=tmp_path / "features", policy=FeaturePolicy("disk", workers=2))
    store.ensure(samples)
    images = [Image.open(sample.images[0]).convert("RGB") for sample in samples[60:]]
    for found, alone in zip(store.get(samples[60:]), lmm.encode(images), strict=True):
        assert torch.allclose(found[: len(alone)].float(), alone.float(), atol=2e-3, rtol=2e-3)
