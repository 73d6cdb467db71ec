"""Our walk through the library's decoder: the same values, gradients and answers, and where the library's is taken."""

from __future__ import annotations

import pytest
import torch
from test_smol import shaken

from evertune.lmm import llama
from evertune.loop import _checkpointing


@pytest.fixture(params=["with groups of heads", "with as many keys as queries"])
def decoder(request):
    """A Llama with random weights, norms included: ones would hide a missing factor."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = 2 if request.param == "with groups of heads" else 4
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(**shape, num_key_value_heads=heads, vocab_size=40, attn_implementation="eager")
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model


@pytest.fixture
def prompts():
    """(B, S, width) embeddings and the attention of 12 rows of different lengths, padded on the right."""
    attention = torch.ones(12, 9, dtype=torch.long)
    attention[0, 5:] = attention[2, 7:] = 0
    return torch.randn(12, 9, 32, generator=torch.Generator().manual_seed(4)), attention


def gradients(run, embeds):
    """Values and gradient of the embeddings, of which every value has another weight."""
    embeds = embeds.clone().requires_grad_()
    values = run(embeds)
    (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
    return values.detach(), embeds.grad


@pytest.mark.parametrize("enough", [True, False])
def test_values_and_gradients_are_the_librarys(decoder, prompts, enough):
    """At as many places as let the last layer be computed there alone, and at fewer."""
    embeds, attention = prompts
    places = attention[:, 1:].nonzero(as_tuple=True) if enough else (torch.tensor([0, 2, 5]), torch.tensor([3, 1, 8]))
    assert llama.walks(decoder.model)
    assert llama._only_there(embeds, places) == enough

    def theirs(e):
        return decoder.model(inputs_embeds=e, attention_mask=attention, use_cache=False).last_hidden_state[places]

    expected = gradients(theirs, embeds)
    found = gradients(lambda e: llama.hidden_states(decoder.model, e, attention, places), embeds)
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        if not enough:  # that a row of a product is the same among fewer rows is so on the machines that were tried
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("ends", [False, True])
def test_answers_are_those_of_generate(decoder, prompts, ends):
    """`end` is a token that some rows say early, so that rows are dropped on the way, or one that none says."""
    embeds, attention = prompts[0], prompts[1].flip(1)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 39}
    free = decoder.generate(inputs_embeds=embeds, attention_mask=attention, **options, eos_token_id=None)
    unsaid = next(token for token in range(40) if token not in free)
    end = int(free[0, 2]) if ends else unsaid
    theirs = [row.tolist() for row in free]
    theirs = [row[: row.index(end) + 1] if end in row else row for row in theirs]
    assert llama.greedy_tokens(decoder, embeds, attention, max_new_tokens=8, end=end) == theirs
    assert len({len(row) for row in theirs}) > 1 if ends else len(theirs[0]) == 8


def test_both_families_take_this_way(lmm, mini_blip):
    from evertune.lmm import load_lmm

    blip = load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))
    assert llama.says_plainly(lmm.lm.get_base_model())
    assert llama.says_plainly(blip.blip.language_model)


def test_trained_models_answer_as_through_generate(lmm, tasks, features, monkeypatch):
    shaken(lmm)
    samples = [sample for task in tasks for sample in task.test]
    asked = [sample.instruction for sample in samples]
    ours = lmm.answer(features.get(samples), asked, max_new_tokens=8)
    monkeypatch.setattr(llama, "says_plainly", lambda lm: False)
    assert lmm.answer(features.get(samples), asked, max_new_tokens=8) == ours
    assert len(set(ours)) > 1


def test_the_librarys_forward_is_used_where_ours_promises_nothing(lmm):
    decoder = lmm.lm.get_base_model().model
    with _checkpointing(lmm, wanted=True):
        assert not llama.walks(decoder)
    assert llama.walks(decoder)
    decoder.norm.weight.requires_grad_(True)
    assert not llama.walks(decoder)
    decoder.norm.weight.requires_grad_(False)
    handle = decoder.layers[0].register_forward_hook(lambda *_: None)
    assert not llama.walks(decoder)
    handle.remove()
    lm = lmm.lm.get_base_model()
    lm.generation_config.repetition_penalty = 1.5
    assert not llama.says_plainly(lm)
    assert not llama.walks(lmm.to(torch.bfloat16).lm.get_base_model().model)
