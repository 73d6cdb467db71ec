"""A model of the library is to a method what an LMM is: parameters, and the loss of each sample."""

from __future__ import annotations

import pytest
import tiny_trainer as tiny
import torch
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from evertune.data.task import Task
from evertune.integrations.bare_model import BareModel, NoFeatures, batch_of
from evertune.integrations.rows import Rows
from evertune.methods import EWC, MAS, Context
from evertune.methods.similarity import embed_task
from evertune.utils.errors import UserError


def lora_lm():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.tiny_lm(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def t5():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=tiny.WORDS, decoder_start_token_id=0, **sizes))


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=tiny.WORDS, num_labels=3, **sizes))


def of_classes(rows):
    made = tiny.collate(rows)
    return {**made, "labels": made["labels"].clamp(min=0).sum(1) % 3}


MODELS = {"causal": (tiny.tiny_lm, tiny.collate), "lora": (lora_lm, tiny.collate)}
MODELS |= {"encoder-decoder": (t5, tiny.collate), "classifier": (bert, of_classes)}


@pytest.fixture(params=MODELS)
def bare(request):
    model, collate = MODELS[request.param]
    return BareModel(model().eval(), Rows(tiny.token_rows(0, 6), {}), collate)


def samples_of(bare):
    return list(bare._rows.samples)


def loss_alone(bare, sample):
    """The library's own loss of one row, whose mean is over answer tokens."""
    inputs = bare._collate([bare._rows.of(sample.id)])
    return bare.model(**inputs).loss


def test_the_loss_of_each_sample_is_the_librarys(bare):
    samples = samples_of(bare)
    output = bare(bare.collate(samples, NoFeatures().get(samples)))
    wanted = torch.stack([loss_alone(bare, sample) for sample in samples])
    torch.testing.assert_close(output.nll / output.tokens, wanted)
    assert output.loss_mean == "token"


@pytest.mark.slow
def test_fisher_information_is_that_of_each_sample(bare):
    samples, method = samples_of(bare), EWC()
    method.setup(Context(lmm=bare, features=NoFeatures(), seed=0, start={}))
    ours, trained = method.measure(samples), bare.trainable()
    right = {name: torch.zeros_like(p) for name, p in trained.items()}
    for sample in samples:
        tokens = int(bare(bare.collate([sample], torch.zeros(0))).tokens)
        found = torch.autograd.grad(tokens * loss_alone(bare, sample), list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, found, strict=True):
            right[name] += 0 if gradient is None else gradient.square() / len(samples)
    level = max(float(value.max()) for value in right.values())
    assert level > 0
    for name, value in right.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-6 * level)


@pytest.mark.parametrize("mode", [True, False])
def test_measuring_leaves_the_model_in_its_mode(bare, mode):
    bare.model.train(mode)
    method = EWC()
    method.setup(Context(lmm=bare, features=NoFeatures(), seed=0, start={}))
    method.measure(samples_of(bare)[:1])
    assert bare.model.training == bare.training == mode


def test_mas_measures_too(bare):
    method = MAS()
    method.setup(Context(lmm=bare, features=NoFeatures(), seed=0, start={}))
    assert any(value.any() for value in method.measure(samples_of(bare)).values())


def test_lora_trains_alone():
    bare = BareModel(lora_lm(), Rows(tiny.token_rows(0), {}), tiny.collate)
    assert bare.trainable() and all("lora_" in name for name in bare.trainable())


def test_tasks_are_compared_by_their_tokens():
    """Prompt and answer apart; a table that trains is copied, and stays what it was at the first call."""
    model = tiny.tiny_lm()
    bare = BareModel(model, Rows(tiny.token_rows(0), {}), tiny.collate)
    task = Task("t", bare._rows.samples, ())
    before = embed_task(bare, NoFeatures(), task.train)
    row = bare._rows.of("4")
    answer = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    table = model.get_input_embeddings().weight
    torch.testing.assert_close(bare.embed_texts(["answer 4"])[0], table[answer].sum(0).detach())
    prompt = row["input_ids"][: len(row["input_ids"]) - len(answer)]
    torch.testing.assert_close(bare.embed_texts(["prompt 4"])[0], table[prompt].sum(0).detach())
    assert not before["image"].any() and before["answer"].norm() == pytest.approx(1.0)
    with torch.no_grad():
        table.add_(torch.randn_like(table))
    after = embed_task(bare, NoFeatures(), task.train)
    assert all(torch.equal(before[name], after[name]) for name in before)
    frozen = tiny.tiny_lm()
    frozen.get_input_embeddings().weight.requires_grad_(False)
    bare = BareModel(frozen, Rows(tiny.token_rows(0), {}), tiny.collate)
    bare.embed_texts(["prompt 0"])
    assert bare.words is None, "nothing is copied where nothing moves"


def test_batches_without_labels_are_refused():
    for labels in ({}, {"labels": torch.rand(3)}):
        with pytest.raises(UserError, match="have no `labels` of token ids or classes"):
            batch_of({"input_ids": torch.ones(3, 2, dtype=torch.long), **labels})


def test_a_tuple_of_outputs_and_a_model_without_logits():
    model = tiny.tiny_lm()
    bare = BareModel(model, Rows(tiny.token_rows(0, 2), {}), tiny.collate)
    batch = bare.collate(list(bare._rows.samples), torch.zeros(0))
    outputs = model(**batch.extras)
    assert torch.equal(bare.output_of(batch, (torch.tensor(1.0), outputs.logits)).nll, bare(batch).nll)
    with pytest.raises(UserError, match="returns no logits"):
        bare.output_of(batch, {"loss": torch.tensor(1.0)})
