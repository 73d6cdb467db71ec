"""python -m pytest: DER++ keeps evertune's contract for methods, and its terms are what the paper says."""

from pathlib import Path

import torch
from derpp import DerPP

import evertune
from evertune.training.method_contract import toy_tasks


def test_contract():
    evertune.check_method(lambda: [DerPP(buffer=9, batch=2)])


def test_terms(tmp_path: Path) -> None:
    first, second, _ = toy_tasks(tmp_path / "tasks")
    method = DerPP(buffer=8, batch=2, alpha=3.0, beta=0.25, top=10**6)
    lmm = evertune.load_lmm("random", dtype="float32", device="cpu")
    learner = evertune.Learner(lmm, method, folder=tmp_path / "model", progress=False)
    learner.learn(first)
    method = learner.methods[0]
    assert len(method._rows) == 8 and method._seen == len(first.train)
    at_rest = method.loss_terms(None, None)
    assert at_rest["distillation"].item() < 1e-8, "nothing has changed yet"
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.manual_seed(1)
    terms = method.loss_terms(None, None)
    torch.manual_seed(1)
    places = torch.randint(8, (2,)).tolist()
    samples = [evertune.Sample.from_row(method._rows[str(p)], origin="here") for p in places]
    by_hand = []
    for place, sample in zip(places, map(method.context.kept, samples), strict=True):
        logits = method.context.logits([sample])
        then = torch.zeros_like(logits).scatter(1, method._indices[str(place)], method._values[str(place)])
        by_hand.append(((logits - then) ** 2).mean())
    torch.testing.assert_close(terms["distillation"], 3.0 * (by_hand[0] + by_hand[1]) / 2)
    kept = [method.context.kept(sample) for sample in samples]
    torch.testing.assert_close(terms["buffer"], 0.25 * method.context.loss(kept))
    learner.learn(second)
    assert len(method._rows) == 8 and method._seen == len(first.train) + len(second.train)
