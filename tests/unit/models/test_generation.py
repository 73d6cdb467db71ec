"""What every family says of a prediction besides its text: its token ids, and whether the end token was reached."""

from __future__ import annotations

import pytest
import torch
from test_smol import shaken
from tiny_chat import FAMILIES

from evertune.models import load_lmm
from evertune.models.features import FeatureStore

BLIPS = [("blip-2", "opt"), ("blip-2", "t5"), ("instructblip", "t5")]


@pytest.fixture(params=["random", "instructblip-llama", *BLIPS, *FAMILIES], ids=str)
def family(request, tiny_chat, tiny_blip, mini_blip):
    name = request.param
    if name == "random":
        lmm = load_lmm("random", dtype="float32", device=torch.device("cpu"))
        shaken(lmm)
        return lmm
    folder = mini_blip if name == "instructblip-llama" else tiny_blip(*name) if name in BLIPS else tiny_chat(name)
    return load_lmm(str(folder), dtype="float32", device=torch.device("cpu"))


def ends_at(lmm, token):
    """Make `token` the one that ends a prediction."""
    if hasattr(lmm, "prompts"):
        lmm.prompts.end = token
    else:
        lmm._end = token


def test_a_prediction_says_its_tokens_and_whether_it_ended(family, tasks):
    samples = [task.test[0] for task in tasks]
    store = FeatureStore(family)
    store.ensure(samples)

    def predicted(most):
        return family.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=most)

    free = predicted(6)  # no model in miniature generates its own end token
    assert [(len(g.ids), g.finished) for g in free] == [(6, False)] * len(samples)
    image = family.model.config.image_token_id if hasattr(family, "prompts") else None  # fills up what is shorter
    end = next(token for token in free[0].ids[1:] if token != image)
    ends_at(family, end)
    for most in (2, 3, 5):
        for whole, found in zip(free, predicted(most), strict=True):
            length = whole.ids.index(end) + 1 if end in whole.ids[:most] else most
            assert found.ids == whole.ids[:length]
            assert found.finished == (end in whole.ids[:most])
