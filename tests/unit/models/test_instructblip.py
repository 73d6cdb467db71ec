"""The family InstructBLIP on a random miniature: against the library's own forward and generate."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from evertune.models import load_lmm
from evertune.models.decoder import IGNORE
from evertune.utils.errors import UserError


@pytest.fixture
def blip(mini_blip):
    return load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))


@pytest.fixture
def store(blip, tasks, store_of):
    return store_of(blip, tasks)


@pytest.fixture
def theirs(mini_blip):
    model = InstructBlipForConditionalGeneration.from_pretrained(mini_blip, dtype=torch.float32)
    return model.eval(), InstructBlipProcessor.from_pretrained(mini_blip)


def test_what_trains_is_the_query_tokens_the_qformer_and_the_projection(blip):
    names = set(blip.trainable())
    assert names == {n for n, p in blip.named_parameters() if p.requires_grad}
    assert {n.split(".")[1] for n in names} == {"query_tokens", "qformer", "language_projection"}
    scopes = blip.scopes()
    assert set(scopes["projection"]) | set(scopes["qformer"]) == names
    assert all(p.dtype == torch.float32 for p in blip.trainable().values())


def test_the_label_mask_decodes_to_the_answer(blip, tasks, store):
    samples = [task.train[0] for task in tasks]
    batch = blip.collate(samples, store.get(samples))
    decode = blip.processor.tokenizer.decode
    for row, sample in enumerate(samples):
        labelled = batch.labels[row][batch.labels[row] != IGNORE]
        assert decode(labelled) == sample.answers[0] + "</s>"
        text = decode(batch.input_ids[row][batch.attention[row] == 1])
        assert text == f"{sample.instruction} {sample.answers[0]}</s>"


def test_the_loss_is_that_of_the_library(blip, theirs, tasks, store):
    """Their forward from pixels, with their processor's inputs, against ours from cached features."""
    model, processor = theirs
    sample = tasks[0].train[0]
    inputs = processor(images=Image.open(sample.images[0]).convert("RGB"), text=sample.instruction, return_tensors="pt")
    answer = torch.tensor([blip._answer_ids(sample.answers[0])])
    labels = torch.cat([torch.full_like(inputs.input_ids, IGNORE), answer], 1)
    inputs["input_ids"] = torch.cat([inputs.input_ids, answer], 1)
    inputs["attention_mask"] = torch.ones_like(inputs.input_ids)
    loss = model(**inputs, labels=labels).loss
    ours = blip(blip.collate([sample], store.get([sample]))).loss
    torch.testing.assert_close(ours, loss, rtol=2e-3, atol=1e-4)  # features are kept in half precision


def test_answers_are_those_of_the_library(blip, theirs, tasks, store):
    model, processor = theirs
    samples = [task.test[0] for task in tasks]
    ours = blip.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=6)
    warnings = []
    for sample in samples:
        image = Image.open(sample.images[0]).convert("RGB")
        inputs = processor(images=image, text=sample.instruction, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
        new = tokens[inputs.input_ids.shape[1] :] if len(tokens) > 6 else tokens
        warnings.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert ours == warnings
    assert len(set(ours)) > 1, "a model that always says the same proves nothing"


def test_batch_size_never_changes_an_answer_or_a_loss(blip, tasks, store):
    samples = [s for task in tasks for s in task.test]
    ask = [s.instruction for s in samples]
    together = blip.generate(store.get(samples), ask, max_new_tokens=6)
    alone = [blip.generate(store.get([s]), [s.instruction], max_new_tokens=6)[0] for s in samples]
    assert together == alone
    nll = blip(blip.collate(samples, store.get(samples))).nll
    for row, sample in enumerate(samples):
        one = blip(blip.collate([sample], store.get([sample]))).nll[0]
        torch.testing.assert_close(one, nll[row], rtol=1e-4, atol=1e-4)


def test_the_instruction_changes_the_soft_tokens(blip, tasks, store):
    """The Q-Former is instruction-aware: the same image, another question, other visual tokens."""
    sample = tasks[0].train[0]
    other = tasks[1].train[0].instruction
    one = blip.collate([sample], store.get([sample]))
    assert not torch.allclose(blip.soft_tokens(one), blip._visual(one.features, blip._qformer_text([other]), [1]))


def test_siblings_share_features_but_not_answers(blip, mini_blip, tmp_path):
    sibling = shutil.copytree(mini_blip, tmp_path / "sibling")
    model = InstructBlipForConditionalGeneration.from_pretrained(sibling)
    model.query_tokens.data.add_(0.1)
    model.half().save_pretrained(sibling)
    other = load_lmm(str(sibling), dtype="float32", device=torch.device("cpu"))
    assert other.encoder_fingerprint == blip.encoder_fingerprint
    assert other.fingerprint != blip.fingerprint


def test_embeddings_are_the_cls_and_the_words(blip, tasks, store):
    sample = tasks[0].train[0]
    features = store.get([sample])
    assert torch.equal(blip.embed_images(features)[0], features[0, 0].float())
    assert blip.embed_texts(["red", "red blue"]).shape == (2, 32)


def test_bad_folders(mini_blip, tmp_path):
    with pytest.raises(UserError, match="no family 'gpt9'.*instructblip"):
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / "config.json").write_text(json.dumps({"model_type": "gpt9"}))
        load_lmm(str(tmp_path / "odd"))
    cut = shutil.copytree(mini_blip, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut/model.safetensors: its header would take .* it is cut off or damaged"):
        load_lmm(str(cut))
