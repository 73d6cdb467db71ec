"""Chat LMMs: how long a sample is for the LM, and the text of its tokens."""

from __future__ import annotations

import pytest
import torch
from chat_models import load
from PIL import Image
from tiny_chat import FAMILIES

from evertune.data.task import Sample
from evertune.models.chat import TYPICAL


@pytest.mark.parametrize("name", FAMILIES)
def test_length_is_that_of_the_sequence(tiny_chat, tmp_path, name):
    lmm = load(tiny_chat(name))
    features = lmm.encode([Image.new("RGB", TYPICAL, "grey")])
    sample = Sample("0", (tmp_path / "none.png",), "what is it?", ("red 1",))
    batch = lmm.collate([sample], torch.stack(list(features)))
    (length,) = lmm.lengths("what is it?", "red 1")
    assert length.tokens == int(batch.attention.sum())
    assert length.limit == lmm.model.config.get_text_config().max_position_embeddings


def test_tokens_join_to_the_text(tiny_chat):
    lmm = load(tiny_chat("llava"))
    ids = lmm.prompts.tokenizer("what is it?", add_special_tokens=False).input_ids
    assert "".join(lmm.token_texts(ids)).strip() == "what is it?"
