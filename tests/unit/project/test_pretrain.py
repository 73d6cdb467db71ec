"""Pretraining: phases that resume to the bit, label masks, targets of the tower, an ordinary checkpoint at the end."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from pretraining import corpus, instruct, phases
from pretraining.align import CaptionBank, caption_loss, slot_loss
from pretraining.corpus import PLAIN, SLOTS, document, lookup
from pretraining.instruct import KNOWN, instruct_loss, known_accuracy, known_samples
from pretraining.language import _tokens
from pretraining.parts import make_tokenizer
from pretraining.phases import Phase, run_phase
from pretraining.recipes import Recipe
from pretraining.tiny import pretrain_tiny
from pretraining.tower import HUES, WHATS, WORDS, _present, _targets, pixels_of, place_of_patch
from torch import nn

from evertune.data.pocket.draw import draw
from evertune.data.pocket.questions import ROLES, describe
from evertune.data.pocket.world import PLACES, Cell, Scene
from evertune.models import load_lmm
from evertune.models.decoder import IGNORE

PHASE = Phase("toy", steps=12, learning_rate=1e-2, save_every=5)
SCENE = Scene((Cell("red", "cat"), None, Cell("blue", "sign", "EXIT"), Cell("green", "car")))


class StoppedError(Exception):
    """The process was killed."""


def phase(folder, *, stop_at=None, settings=PHASE):
    """Train a small network on noise; returns its weights, or raises at a step."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss_at(choose):
        rows = torch.tensor([[choose.random() for _ in range(3)] for _ in range(4)])
        return (net(rows).squeeze(1) - rows.sum(1)).square().mean() + 0.01 * torch.rand(())

    def on_step(name, step, steps, loss):
        if step == stop_at:
            raise StoppedError

    run_phase(settings, dict(net.named_parameters()), loss_at, folder=folder, on_step=on_step)
    assert not any(p.requires_grad for p in net.parameters()), "frozen from now on"
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [(3,), (5,), (8,), (7, 11)])
def test_a_killed_phase_ends_with_the_same_bits(tmp_path, killed):
    whole = phase(tmp_path / "whole")
    for step in killed:
        with pytest.raises(StoppedError):
            phase(tmp_path / "killed", stop_at=step)
    again = phase(tmp_path / "killed")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_finished_phase_is_taken_over(tmp_path):
    whole = phase(tmp_path)
    assert all(torch.equal(v, whole[n]) for n, v in phase(tmp_path, stop_at=1).items()), "no step was taken"


@pytest.mark.slow
def test_a_phase_that_is_killed_between_two_files_ends_with_the_same_bits(tmp_path, monkeypatch):
    """At every write: what is there then is of one step, weights and number."""
    whole = phase(tmp_path / "whole")
    honest = phases.write_atomically
    for number in range(1, 7):
        folder, written = tmp_path / f"{number}", []

        def write(path, content, written=written, number=number):
            written.append(path)
            if len(written) == number:
                raise StoppedError
            honest(path, content)

        monkeypatch.setattr(phases, "write_atomically", write)
        with suppress(StoppedError):
            phase(folder)
        monkeypatch.setattr(phases, "write_atomically", honest)
        assert all(torch.equal(value, whole[name]) for name, value in phase(folder).items()), written


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [{"steps": 11}, {"learning_rate": 2e-2}, {"weight_decay": 0.3}, {"warmup_ratio": 0.5}]
)
def test_a_phase_of_another_recipe_begins_anew(tmp_path, other):
    """Neither what a longer or a faster phase has made is reused, nor is one gone on with."""
    settings = replace(PHASE, **other)
    alone = phase(tmp_path / "alone", settings=settings)
    phase(tmp_path / "whole")
    with pytest.raises(StoppedError):
        phase(tmp_path / "begun", stop_at=7)
    for folder in ("whole", "begun"):
        found = phase(tmp_path / folder, settings=settings)
        assert all(torch.equal(value, alone[name]) for name, value in found.items())


def by_hand(settings):
    """AdamW and its schedule written out: decay on matrices alone, clipping to 1, betas 0.9 and 0.98."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in net.parameters()]
    rise = max(1, round(settings.warmup_ratio * settings.steps))
    for step in range(settings.steps):
        torch.manual_seed(step)
        choose = random.Random(f"{settings.name} {step}")
        rows = torch.tensor([[choose.random() for _ in range(3)] for _ in range(4)])
        loss = (net(rows.double()).squeeze(1) - rows.double().sum(1)).square().mean()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        wave = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))
        rate = settings.learning_rate * ((step + 1) / rise if step < rise else wave)
        clipped = [gradient * min(1.0, 1 / (norm.item() + 1e-6)) for gradient in gradients]
        for parameter, gradient, (first, second) in zip(net.parameters(), clipped, moments, strict=True):
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.98).add_(0.02 * gradient**2)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            root = (second / (1 - 0.98 ** (step + 1))).sqrt() + 1e-8
            parameter.data.sub_(rate * (decay * parameter.data + first / (1 - 0.9 ** (step + 1)) / root))
    return {name: p.detach() for name, p in net.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"weight_decay": 2.0}, {"warmup_ratio": 0.5}, {"learning_rate": 0.1}], ids=str)
def test_a_phase_by_hand(tmp_path, settings):
    settings = replace(PHASE, **settings)
    found = phase(tmp_path, settings=settings)
    for name, wanted in by_hand(settings).items():
        torch.testing.assert_close(found[name].double(), wanted, rtol=2e-3, atol=1e-4)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(documents=300)


@pytest.mark.parametrize("write", [document, lookup])
def test_labels_stand_on_the_answers_alone(tokenizer, write):
    choose = random.Random(2)
    for _ in range(30):
        text = write(choose)
        ids, labels = _tokens(tokenizer, text)
        assert len(ids) == len(labels)
        answered = tokenizer.decode([i for i in labels if i != IGNORE])
        assert answered.replace("</s>", "|").replace(" ", "") == "".join(f"{a}|" for _, a in text.questions).replace(
            " ", ""
        )


def test_pretraining_draws_scenes_of_its_own_split_alone(monkeypatch):
    """None that a task is trained or tested on: what is learned before the stream would be scored in it."""
    drawn, honest = [], corpus.draw_scene

    def draw_scene(choose, **options):
        drawn.append(options)
        return honest(choose, **options)

    monkeypatch.setattr(corpus, "draw_scene", draw_scene)
    choose = random.Random(1)
    for write in (document, lookup, corpus.caption_scene):
        for _ in range(100):
            write(choose)
    assert len(drawn) == 300 and {options["split"] for options in drawn} == {"pretrain"}
    assert not any(options["blurred"] for options in drawn[100:]), "what can't be seen is not captioned"
    assert any(options["blurred"] for options in drawn[:100])


def test_looking_up_answers_what_the_prefix_says():
    choose = random.Random(3)
    for _ in range(100):
        text = lookup(choose)
        words = text.prefix.split()
        for question, answer in text.questions:
            place = next(p for p in PLACES if p in question)
            colour, what = words[words.index(place.replace(" ", "")) + 1 :][:2]
            if colour == "nothing":
                assert answer == "nothing"
            else:
                assert answer == (what if "what is in" in question else colour)


def test_every_form_of_question_is_written_both_ways():
    choose = random.Random(0)
    styles = {document(choose).prefix.split()[0] for _ in range(500)}
    assert styles == {PLAIN, *(role.style for role in ROLES.values())}


def test_targets_of_the_tower():
    what, word, colour = _targets([SCENE])
    assert [WHATS[i] for i in what[0]] == ["cat", "nothing", "sign", "car"]
    assert [WORDS[i] for i in word[0]] == ["", "", "EXIT", ""]
    assert [HUES[i] for i in colour[0]] == ["red", "", "blue", "green"]
    assert {WHATS[i] for i in _present([SCENE])[0].nonzero().flatten()} == {"cat", "sign", "car"}


def test_each_patch_is_in_one_place():
    rows = place_of_patch(4).view(4, 4).tolist()
    assert rows == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


@pytest.fixture(scope="module")
def blip(mini_blip):
    return load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))


@pytest.mark.slow
def test_pixels_are_those_of_the_processor(blip):
    images = [draw(SCENE, random.Random(n)) for n in range(3)]
    processor = blip.processor.image_processor
    assert torch.equal(pixels_of(images, processor), processor(images, return_tensors="pt").pixel_values)


def test_slot_loss_is_lowest_where_each_soft_token_is_its_word(blip, monkeypatch):
    bank = CaptionBank(blip, images=8, name="test")
    table = blip.blip.language_model.get_input_embeddings().weight.detach()

    def loss_of(words):
        ids = torch.tensor(blip.processor.tokenizer(words).input_ids)
        monkeypatch.setattr(type(blip), "soft_tokens", lambda self, batch: table[ids])
        return float(slot_loss(blip, bank, random.Random(1), batch=4))

    rows = random.Random(1).sample(range(8), 4)
    right = [f"{PLAIN} {bank.captions[row]}" for row in rows]
    assert all(len(text.split()) == SLOTS for text in right)
    assert loss_of(right) < 0.5 * loss_of(right[::-1])


def test_alignment_and_instruction_have_gradients_on_what_trains(blip):
    bank = CaptionBank(blip, images=8, name="test")
    samples, features = known_samples(blip, count=4)
    assert {s.id for s in samples} == set(KNOWN)
    for loss in (
        slot_loss(blip, bank, random.Random(1), batch=4),
        caption_loss(blip, bank, random.Random(1), batch=4),
        instruct_loss(blip, samples, features, random.Random(1), batch=4),
    ):
        gradients = torch.autograd.grad(loss, list(blip.trainable().values()), allow_unused=True)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)
        assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


def test_known_tasks_are_checked_on_scenes_that_are_not_trained_on(blip, monkeypatch):
    """Each split draws its own scenes, of the known tasks' layouts, with a choice of its own."""
    drawn = []
    honest = instruct.draw_scene

    def draw_scene(choose, **options):
        drawn.append(options["split"])
        return honest(choose, **options)

    monkeypatch.setattr(instruct, "draw_scene", draw_scene)
    sides = {split: known_samples(blip, count=2, split=split)[0] for split in ("train", "test")}
    assert drawn == ["train"] * 10 + ["test"] * 10
    known_accuracy(blip, count=1)
    assert drawn[20:] == ["test"] * 5
    pairs = {split: [(s.instruction, s.answers) for s in samples] for split, samples in sides.items()}
    assert pairs["train"] != pairs["test"]
    assert pairs["train"] == [(s.instruction, s.answers) for s in known_samples(blip, count=2)[0]]


def test_captions_of_the_bank_are_of_its_images(blip):
    bank = CaptionBank(blip, images=5, name="test")
    assert len(bank.captions) == len(bank.features) == 5
    assert describe(SCENE).split()[4:8] == ["topright", "nothing", "-", "-"]
    assert "exit" not in describe(SCENE)


@pytest.mark.slow
def test_the_whole_recipe_in_few_steps(tmp_path):
    """Every phase for two steps: two checkpoints that load, and a second call that trains nothing."""
    phases = ("tower", "lookup", "language", "slots", "captions", "instruct")
    short = {name: Phase(name, steps=2, learning_rate=1e-3) for name in phases}
    recipe = Recipe(**short, batch=4, texts=4, images=8, per_task=4, checked=4, documents=300)
    seen = []
    scores = pretrain_tiny(tmp_path, on_step=lambda phase, step, steps, loss: seen.append(phase), recipe=recipe)
    assert tuple(dict.fromkeys(seen)) == phases
    assert set(scores) == {"tower", "language", "aligned", "instruct"}
    assert set(scores["instruct"]) == set(KNOWN)
    models = [load_lmm(str(tmp_path / name), dtype="float32") for name in ("tiny-aligned", "tiny-instruct")]
    assert models[0].encoder_fingerprint == models[1].encoder_fingerprint
    assert models[0].fingerprint != models[1].fingerprint
    assert "| tower | 2 |" in (tmp_path / "tiny-aligned" / "README.md").read_text()
    count = len(seen)
    assert pretrain_tiny(tmp_path, on_step=lambda *step: seen.append(step), recipe=recipe) == scores
    assert len(seen) == count, "the second call trains nothing"
