"""BLIP-2, and Flan-T5 as the LM of both BLIPs, in miniature: against the library's own forward and generate."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image

from evertune.models import load_lmm
from evertune.models.decoder import IGNORE
from evertune.utils.errors import UserError

KINDS = [("blip-2", "opt"), ("blip-2", "t5"), ("instructblip", "t5")]


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request):
    return request.param


@pytest.fixture
def blip(kind, tiny_blip):
    return load_lmm(str(tiny_blip(*kind)), dtype="float32", device=torch.device("cpu"))


@pytest.fixture
def store(blip, tasks, store_of):
    return store_of(blip, tasks)


@pytest.fixture
def theirs(kind, tiny_blip):
    name = {"blip-2": "Blip2", "instructblip": "InstructBlip"}[kind[0]]
    model = getattr(transformers, f"{name}ForConditionalGeneration").from_pretrained(tiny_blip(*kind))
    return model.eval(), getattr(transformers, f"{name}Processor").from_pretrained(tiny_blip(*kind))


def inputs_of(processor, sample):
    image = Image.open(sample.images[0]).convert("RGB")
    return processor(images=image, text=sample.instruction, return_tensors="pt")


def test_the_label_mask_decodes_to_the_answer(blip, tasks, store):
    samples = [task.train[0] for task in tasks]
    batch = blip.collate(samples, store.get(samples))
    for row, sample in enumerate(samples):
        labelled = batch.labels[row][batch.labels[row] != IGNORE]
        assert blip.processor.tokenizer.decode(labelled) == sample.answers[0] + "</s>"


def test_the_loss_is_that_of_the_library(blip, kind, theirs, tasks, store):
    model, processor = theirs
    sample = tasks[0].train[0]
    inputs = inputs_of(processor, sample)
    labels = torch.tensor([blip._answer_ids(sample.answers[0])])
    if kind[1] == "opt":
        prompt = inputs["input_ids"]
        inputs["input_ids"] = torch.cat([prompt, labels], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        labels = torch.cat([torch.full_like(prompt, IGNORE), labels], 1)
    with torch.no_grad():
        expected = model(**inputs, labels=labels).loss
        ours = blip(blip.collate([sample], store.get([sample]))).loss
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=1e-4)  # features are kept in half precision


def test_answers_are_those_of_the_library(blip, kind, theirs, tasks, store):
    model, processor = theirs
    samples = [task.test[0] for task in tasks]
    ours = blip.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=6)
    warnings = []
    for sample in samples:
        inputs = inputs_of(processor, sample)
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
        new = tokens[1:] if kind[1] == "t5" else tokens[inputs["input_ids"].shape[1] :]
        warnings.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert ours == warnings
    assert any(ours)


def test_batch_size_never_changes_an_answer_or_a_loss(blip, tasks, store):
    samples = [s for task in tasks for s in task.test]
    ask = [s.instruction for s in samples]
    together = blip.generate(store.get(samples), ask, max_new_tokens=6)
    assert together == [blip.generate(store.get([s]), [s.instruction], max_new_tokens=6)[0] for s in samples]
    nll = blip(blip.collate(samples, store.get(samples))).nll
    for row, sample in enumerate(samples):
        one = blip(blip.collate([sample], store.get([sample]))).nll[0]
        torch.testing.assert_close(one, nll[row], rtol=1e-4, atol=1e-4)


def test_what_trains(blip):
    assert blip.scopes()["projection"] == ["blip.language_projection.weight", "blip.language_projection.bias"]
    assert {n for n, p in blip.named_parameters() if p.requires_grad} == set(blip.trainable())


def test_a_pickle_is_refused(tiny_blip, tmp_path):
    folder = shutil.copytree(tiny_blip("blip-2", "opt"), tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        load_lmm(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="no weights as safetensors"):
        load_lmm(str(folder))
    assert json.loads((folder / "config.json").read_text())["model_type"] == "blip-2"
