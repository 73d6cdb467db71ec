"""The family `smol` on its random miniature: label mask, padding, batches, images, damaged files."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from evertune.models import load_lmm
from evertune.models.decoder import IGNORE
from evertune.models.features import FeatureStore
from evertune.models.random_smol import random_folder
from evertune.models.smol import _prepared, damaged_files
from evertune.utils.errors import UserError


def shaken(lmm):
    """Random weights everywhere, so that images and words make a difference to what is said."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)


def test_the_label_mask_decodes_to_the_answer(lmm, tasks, features):
    samples = [task.train[0] for task in tasks]
    batch = lmm.collate(samples, features.get(samples))
    for row, sample in enumerate(samples):
        labelled = batch.labels[row][batch.labels[row] != IGNORE]
        assert lmm.tokenizer.decode(labelled) == sample.answers[0] + "<|im_end|>"
        text = lmm.tokenizer.decode(batch.input_ids[row][batch.attention[row] == 1])
        assert lmm.prompt(sample.instruction) + sample.answers[0] + "<|im_end|>" == "{image}" + text


def test_the_loss_of_a_sample_does_not_depend_on_its_batch(lmm, tasks, features):
    """Samples of different lengths: right padding must be invisible."""
    samples = [task.train[i] for task in tasks for i in range(2)]
    together = lmm(lmm.collate(samples, features.get(samples)))
    for row, sample in enumerate(samples):
        alone = lmm(lmm.collate([sample], features.get([sample])))
        torch.testing.assert_close(alone.nll[0], together.nll[row], rtol=1e-5, atol=1e-5)
        assert alone.tokens[0] == together.tokens[row]


def test_the_loss_is_that_of_the_library(lmm, tasks, features):
    """Against the Hugging Face model's own loss over full-vocabulary logits at every position."""
    sample = tasks[0].train[0]
    batch = lmm.collate([sample], features.get([sample]))
    visual = lmm._visual(batch.features)
    embeds = torch.cat([visual, lmm._words()(batch.input_ids)], 1)
    labels = torch.cat([torch.full(visual.shape[:2], IGNORE), batch.labels], 1)
    theirs = lmm.lm(inputs_embeds=embeds, labels=labels).loss
    torch.testing.assert_close(lmm(batch).loss, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_batch_size_never_changes_an_answer(lmm, tasks, features, size):
    samples = [s for task in tasks for s in task.test]
    ask = [s.instruction for s in samples]
    shaken(lmm)
    reference = lmm.generate(features.get(samples), ask, max_new_tokens=8)
    parts = [range(i, min(i + size, len(samples))) for i in range(0, len(samples), size)]
    batched = [
        text
        for part in parts
        for text in lmm.generate(features.get([samples[i] for i in part]), [ask[i] for i in part], max_new_tokens=8)
    ]
    assert batched == reference
    assert len(set(reference)) > 1, "a model that always says the same proves nothing"


def test_greedy_answers_are_the_argmax_step_by_step(lmm, tasks, features):
    """Against a loop without cache, padding or `generate`."""
    sample = tasks[1].test[0]
    predicted = lmm.generate(features.get([sample]), [sample.instruction], max_new_tokens=5)[0]
    ids = lmm._text_after_image(sample.instruction)
    visual = lmm._visual(features.get([sample]))
    new = []
    with torch.no_grad():
        for _ in range(5):
            embeds = torch.cat([visual, lmm._words()(torch.tensor([ids + new]))], 1)
            token = int(lmm.lm(inputs_embeds=embeds).logits[0, -1].argmax())
            if token == lmm._end:
                break
            new.append(token)
    assert predicted == lmm.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_cached_features_are_the_uncached_ones(lmm, tasks, tmp_path):
    from evertune.data.images import open_image

    sample = tasks[0].train[0]
    store = FeatureStore(lmm, folder=tmp_path)
    store.ensure([sample])
    again = FeatureStore(lmm, folder=tmp_path)
    direct = lmm.encode([open_image(sample.images[0], origin="")])
    assert torch.equal(again.get([sample]), direct)


def test_a_damaged_shard_is_made_again(lmm, tasks, tmp_path):
    sample = tasks[0].train[0]
    store = FeatureStore(lmm, folder=tmp_path)
    store.ensure([sample])
    wanted = store.get([sample])
    (shard,) = store.folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    again = FeatureStore(lmm, folder=tmp_path)
    assert sample not in again
    again.ensure([sample])
    assert torch.equal(again.get([sample]), wanted)


def test_images_are_letterboxed_not_stretched():
    wide = Image.new("RGB", (40, 20), "white")
    prepared = _prepared(wide, 40)
    assert prepared.shape == (3, 40, 40)
    assert prepared[:, 0].max() == pytest.approx(0), "grey above"
    assert prepared[:, 20].min() == pytest.approx(1), "the image in the middle"


def test_the_seed_decides_lora_but_not_the_untouched_model(tasks, features, lmm):
    other = load_lmm("random", seed=2, dtype="float32", device=torch.device("cpu"))
    different = [n for n, p in other.trainable().items() if not torch.equal(p, lmm.trainable()[n])]
    assert different and all("lora_A" in name for name in different)
    samples = tasks[0].test
    ask = [s.instruction for s in samples]
    assert lmm.generate(features.get(samples), ask, max_new_tokens=4) == other.generate(
        features.get(samples), ask, max_new_tokens=4
    )


def test_scopes_cover_what_trains(lmm):
    scopes = lmm.scopes()
    assert sorted(scopes["projection"] + scopes["lora"]) == sorted(lmm.trainable())


@pytest.mark.parametrize("file", ["lm/model.safetensors", "vision.safetensors"])
def test_damaged_checkpoints_name_the_file(tmp_path, file):
    folder = tmp_path / "model"
    shutil.copytree(random_folder(), folder)
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    assert damaged_files(folder) == [folder / file]
    (folder / file).write_bytes(content[:-10])
    with pytest.raises(UserError, match=f"{file}( is truncated|: its tensors take)"):
        load_lmm(str(folder))
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        load_lmm(str(folder))


def test_unknown_models():
    with pytest.raises(UserError, match="unknown model 'smoll'; did you mean 'smol'"):
        load_lmm("smoll")
