"""The text probe: the loss per token on a fixed text of the public domain."""

from __future__ import annotations

import json

import pytest
import torch

from evertune.data import Sample, Stream
from evertune.methods import METHODS, make_methods
from evertune.models.features import FeatureStore
from evertune.models.weights import fingerprint_of
from evertune.runs.callback import Callback
from evertune.runs.probing import NO_PROBES, NO_TEXT, finished_texts
from evertune.runs.runner import run_stream
from evertune.training import text_probe
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.text_probe import passages, text_losses, why_not

HEADER = {"model": "random", "stream": "s", "method": "sequential", "seed": 0, "settings": {}}


@pytest.fixture
def two_passages(monkeypatch):
    """The text in short, for what does not depend on it."""
    short = tuple(Sample(s.id, (), s.instruction, (s.answers[0][:20],)) for s in passages()[:8])
    monkeypatch.setattr(text_probe, "passages", lambda: short)
    return short


def test_the_text_names_its_source_and_is_short():
    from importlib import resources

    text = (resources.files("evertune.training") / "text_probe.txt").read_text(encoding="utf-8")
    assert "In the public domain" in text and len(text) < 5000
    assert len(passages()) == 16 and len({s.answers for s in passages()}) == 16
    assert not any(s.images for s in passages())


def test_losses_are_those_of_the_model_and_leave_it_as_it_was(lmm, two_passages):
    before, store = fingerprint_of(lmm.trainable()), FeatureStore(lmm)
    lmm.module().train()
    found = text_losses(lmm, [], store, reuse=False)
    assert fingerprint_of(lmm.trainable()) == before and lmm.module().training
    lmm.module().eval()
    for sample, (nll, tokens) in zip(two_passages, found, strict=True):
        with torch.no_grad():
            output = lmm.module()(lmm.collate([sample], store.get([sample])).to(lmm.device))
        assert tokens == lmm.answer_tokens(sample.answers[0]) == int(output.tokens)
        assert nll == pytest.approx(float(output.nll), rel=1e-5)


def test_unchanged_weights_are_not_asked_again(lmm, two_passages, monkeypatch):
    first = text_losses(lmm, [], FeatureStore(lmm))
    monkeypatch.setattr(lmm, "collate", None)
    assert text_losses(lmm, [], FeatureStore(lmm)) == first


def test_a_model_without_text_alone_says_so_once(lmm, tasks, tmp_path, monkeypatch):
    warned = []

    class Warned(Callback):
        def on_warning(self, text):
            warned.append(text)

    monkeypatch.setattr(lmm, "images_per_sample", range(1, 2))
    assert why_not(lmm) == "random reads no text without an image"
    learner = Learner(lmm, [], folder=tmp_path, training=Training(epochs=1, batch_size=8))
    stream = Stream("s", tuple(tasks[:2]))
    made = run_stream(learner, stream, folder=tmp_path, header=HEADER, callback=Warned(), text_probe=True)
    assert sum("no text probe" in text for text in warned) == 1
    assert made.metrics["text_loss_change"] is None and made.held_out.text is None
    assert made.not_computed["text_loss_change"] == "random reads no text without an image"
    assert made.not_computed["held_out_change"] == NO_PROBES


def test_a_text_that_is_too_long_for_the_model_is_none(lmm, monkeypatch):
    monkeypatch.setattr(lmm, "lengths", lambda *_: [("language model", 70, 64)])
    assert why_not(lmm) == "a passage has 70 tokens, and the language model of random reads 64"


def test_a_run_measures_it_before_and_after(lmm, tasks, two_passages, tmp_path):
    """Only then: two rows of three; a rolled back row does not count; a damaged line neither."""
    learner = Learner(lmm, [], folder=tmp_path, training=Training(epochs=4, batch_size=8, learning_rate=0.01))
    stream = Stream("s", tuple(tasks[:2]))
    about = {"folder": tmp_path, "header": HEADER, "callback": Callback()}
    made = run_stream(learner, stream, **about, text_probe=True)
    texts = finished_texts(tmp_path)
    assert sorted(texts) == [0, 2]
    loss = {row: sum(nll for nll, _ in texts[row]) / sum(n for _, n in texts[row]) for row in texts}
    text = made.held_out.text
    assert (text.base, text.last) == (pytest.approx(loss[0]), pytest.approx(loss[2])) and loss[0] != loss[2]
    assert made.metrics["text_loss_change"] == pytest.approx(loss[2] - loss[0])
    low, high = text.change.interval
    assert low < text.change.value < high
    lines = (tmp_path / "ledger.jsonl").read_text()
    assert run_stream(learner, stream, **about, text_probe=True) == made
    assert (tmp_path / "ledger.jsonl").read_text() == lines
    off = run_stream(learner, stream, **about)
    assert off.held_out is None and "text_loss_change" not in off.metrics and NO_TEXT
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(json.dumps({"event": "rollback", "to": 1}) + "\n")
        file.write(json.dumps({"event": "text", "stage": 0, "losses": [["x", 1]], "text": "other"}) + "\n")
    assert sorted(finished_texts(tmp_path)) == [0]


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["eproj", "lora-router", "olora", "hide", "disco", "moelora", "reglora"])
def test_methods_route_a_text_like_a_question_of_an_unknown_task(spec, lmm, tasks, two_passages, tmp_path):
    assert spec in METHODS
    learner = Learner(lmm, make_methods(spec, {}), folder=tmp_path, training=Training(epochs=1, batch_size=8))
    learner.learn(tasks[0])
    learner.learn(tasks[1])
    found = learner.text_losses()
    assert len(found) == len(two_passages) and all(nll > 0 for nll, _ in found)
