"""`scripts/pretrain.py smol` on `random` and toy captions: only the projector learns; resumed, to the same bits."""

from __future__ import annotations

import random

import pretrain
import pytest
import torch
from pretraining import smol as recipes
from pretraining.phases import Phase
from pretraining.recipes import SmolRecipe
from pretraining.smol import caption_loss, caption_scores, pretrain_smol, train_projector
from safetensors.torch import load_file

from evertune.data import load_stream
from evertune.models import load_lmm, model_folder
from evertune.models.features import FeatureStore
from evertune.models.weights import copy_of
from evertune.utils.files import read_json

PHASE = Phase("captions", steps=8, learning_rate=1e-2, weight_decay=0.0, save_every=3)


class StoppedError(Exception):
    """The process was killed."""


@pytest.fixture
def recipe(toy_stream):
    return SmolRecipe(captions=PHASE, batch=4, corpus=str(toy_stream), checked=5, model="random")


def made(folder, recipe, *, stop_at=None):
    """The projector's file after the recipe, or after it was stopped at a step."""

    def on_step(phase, step, steps, loss):
        if step == stop_at:
            raise StoppedError

    pretrain_smol(folder, on_step=on_step, recipe=recipe)
    return (folder / "projector/projector.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [(2,), (3, 7)])
def test_an_interrupted_recipe_ends_with_the_same_bits(tmp_path, recipe, killed):
    whole = made(tmp_path / "whole", recipe)
    for step in killed:
        with pytest.raises(StoppedError):
            made(tmp_path / "killed", recipe, stop_at=step)
    assert made(tmp_path / "killed", recipe) == whole
    assert made(tmp_path / "killed", recipe, stop_at=1) == whole, "a finished recipe takes no step"


def test_only_the_projector_learns_and_lora_stays_without_effect(tmp_path, recipe, lmm, tasks, features):
    """LoRA at its start leaves the LM exactly the frozen one: compared with the library's own, without adapters."""
    before = {**copy_of(lmm.trainable()), **{f"lm {n}": p.clone() for n, p in lmm.lm.named_parameters()}}
    train_projector(lmm, list(tasks[0].train), features, recipe, folder=tmp_path, on_step=lambda *step: None)
    after = {**copy_of(lmm.trainable()), **{f"lm {n}": p for n, p in lmm.lm.named_parameters()}}
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == set(lmm.scopes()["projection"])
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model_folder("random") / "lm", dtype=torch.float32)
    plain.set_attn_implementation("eager")
    words = torch.tensor([[5, 17, 42, 99]])
    assert torch.equal(plain(words).logits, lmm.lm(words).logits)


@pytest.mark.slow
def test_captions_are_learned(tmp_path, toy_stream):
    """Enough steps tell held-out images better, as the scores say and as the loss itself says."""
    longer = Phase("captions", steps=60, learning_rate=1e-2, weight_decay=0.0)
    recipe = SmolRecipe(captions=longer, batch=8, corpus=str(toy_stream), checked=12, model="random")
    scores = pretrain_smol(tmp_path, on_step=lambda *step: None, recipe=recipe)
    assert scores["smol-aligned"]["loss"] < scores["smol"]["loss"] - 0.3
    assert scores == read_json(tmp_path / "scores.json")
    aligned = load_lmm(str(tmp_path / "smol-aligned"), dtype="float32", device=torch.device("cpu"))
    held_out = load_stream(str(toy_stream)).tasks[0].test[:12]
    store = FeatureStore(aligned)
    store.ensure(held_out)
    tokens = [aligned.answer_tokens(s.answers[0]) for s in held_out]
    alone = [caption_scores(aligned, [s], store)["loss"] for s in held_out]
    wanted = sum(n * loss for n, loss in zip(tokens, alone, strict=True)) / sum(tokens)
    assert scores["smol-aligned"]["loss"] == pytest.approx(wanted, rel=1e-4)


def test_what_is_written(tmp_path, recipe):
    """Half precision, below 5 MB, with the LM that it was trained with; the checkpoint beside it holds these values."""
    made(tmp_path, recipe)
    tensors = load_file(tmp_path / "projector/projector.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    about = read_json(tmp_path / "projector/projector.json")
    config = read_json(model_folder("random") / "config.json")
    assert config["origin"] in about["projector_origin"] and config["lm_sha256"][:12] in about["projector_origin"]
    card = (tmp_path / "projector/README.md").read_text()
    assert "| captions | 8 | 0.01 | 0 |" in card and "scripts/pretrain.py smol" in card and "CC BY-SA 4.0" in card
    aligned = load_lmm(str(tmp_path / "smol-aligned"), dtype="float32", device=torch.device("cpu"))
    assert all(torch.equal(aligned.projector.state_dict()[name], t.float()) for name, t in tensors.items())


def test_a_batch_has_captions_of_about_one_length(lmm, tasks, features, monkeypatch):
    """Against all batches of four drawn without looking at lengths: less spread; and nothing is left out."""
    samples = [s for task in tasks for s in task.train]
    seen, spreads = set(), []

    def collate(rows, features):
        lengths = [recipes._length(s) for s in rows]
        seen.update(s.fingerprint for s in rows)
        spreads.append(max(lengths) - min(lengths))
        return original(rows, features)

    original = lmm.collate
    monkeypatch.setattr(lmm, "collate", collate)
    with torch.no_grad():
        for step in range(40):
            caption_loss(lmm, samples, features, random.Random(step), batch=4)
    whole = [recipes._length(s) for s in samples]
    assert sum(spreads) / len(spreads) < (max(whole) - min(whole)) / 2
    assert len(seen) > 0.6 * len({s.fingerprint for s in samples})


def test_the_command(tmp_path, recipe, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "SmolRecipe", lambda: recipe)
    fetched = []
    monkeypatch.setattr(pretrain, "fetch_parts", fetched.append)
    pretrain.main(["smol", "--out", str(tmp_path / "out")])
    output = capsys.readouterr().out
    assert "smol-aligned" in output and "whole" in output and len(fetched) == 1
    with pytest.raises(SystemExit):
        pretrain.main(["smoll"])
    assert "invalid choice: 'smoll'" in capsys.readouterr().err
