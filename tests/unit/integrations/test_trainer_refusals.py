"""What can't work in a Trainer is refused in one line that says what to do."""

from __future__ import annotations

import pytest
import tiny_trainer as tiny
import torch
from torch.utils.data import IterableDataset
from transformers import Trainer

from evertune.integrations.supported import usable
from evertune.integrations.transformers import ContinualCallback
from evertune.methods import EWC, METHODS, EProj, Replay
from evertune.utils.errors import UserError

USABLE = {"ewc", "lwf", "mas", "online-ewc", "replay", "sequential", "tir"}
REFUSED = {"direct", "eproj", "joint", "lora", "lora-router", "merge", "moelora", "olora", "only", "hide", "osf"}


def test_which_methods_work_in_a_trainer():
    assert set(usable()) >= USABLE and not set(usable()) & REFUSED
    assert set(METHODS) >= USABLE | REFUSED


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ("ewcc", {}, "unknown method 'ewcc'; did you mean 'ewc'"),
        ("tir", {}, "join it with one, as in tir"),
        ("ewc", {"ewc": {"lambda": 1.0}}, "method 'ewc' has no option 'lambda'"),
        (["replay", 3], {}, "a method is an int; taken are names"),
        (None, {}, "a method is None"),
        ([], {}, "no methods are passed"),
        (["ewc", EWC()], {}, "names one method twice"),
        ("ewc", {"strength": 2.0}, "options has 'strength', which is no method of ewc: write options="),
        *(
            (
                name,
                {},
                f"the method '{name}' can't work in a Trainer, .* choose from agem, der, dgg, ewc, gem, lwf, mas",
            )
            for name in sorted(REFUSED)
        ),
        ([Replay(), EProj()], {}, "the method 'eproj' can't work in a Trainer"),
    ],
)
def test_methods_that_do_not_fit(methods, options, message):
    with pytest.raises(UserError, match=message) as problem:
        ContinualCallback(methods, options=options)
    assert "\n" not in str(problem.value)


class Endless(IterableDataset):
    def __iter__(self):
        yield from tiny.token_rows(0)


def made(folder, *, data=None, model=None, callbacks=None, eval_dataset=None, **more):
    return Trainer(
        model=model or tiny.tiny_lm(),
        args=tiny.arguments(folder, **more),
        train_dataset=tiny.token_rows(0) if data is None else data,
        data_collator=tiny.collate,
        callbacks=callbacks,
        eval_dataset=eval_dataset,
    )


@pytest.mark.slow
def test_trainers_that_do_not_fit(tmp_path, monkeypatch):
    continual = ContinualCallback("ewc")

    def refused(trainer, message):
        with pytest.raises(UserError, match=message) as problem:
            continual.attach(trainer)
        assert "\n" not in str(problem.value)

    refused("trainer", "attach takes a transformers.Trainer, not a str")
    with pytest.raises(UserError, match=r"task is an int: attach\(trainer, task='shapes'\)"):
        ContinualCallback("ewc").attach(made(tmp_path), task=3)
    refused(made(tmp_path, data=Endless(), max_steps=3), "the train_dataset is Endless: .* needs a length and an index")
    refused(made(tmp_path, model=tiny.tiny_lm().to(torch.bfloat16)), "trains in half precision, too coarse")
    refused(made(tmp_path, optim="adalomo"), "steps inside the backward pass")
    fp16 = made(tmp_path)
    fp16.args.fp16 = True
    refused(fp16, "fp16 scales the gradients .* bf16=True")
    sharded = made(tmp_path)
    sharded.is_fsdp_enabled = True
    refused(sharded, "weights are sharded")
    two = made(tmp_path)
    two.args._n_gpu = 2
    refused(two, "2 GPUs in one process: start with torchrun")


@pytest.mark.slow
def test_a_callback_that_is_not_attached_says_so(tmp_path):
    with pytest.raises(UserError, match=r"call callback.attach\(trainer, task='...'\) before trainer.train\(\)"):
        made(tmp_path, callbacks=[ContinualCallback("ewc")]).train()


def test_nothing_that_trains(tmp_path):
    model = tiny.tiny_lm()
    trainer = ContinualCallback("lwf").attach(made(tmp_path, model=model.requires_grad_(False)))
    with pytest.raises(UserError, match="no parameter of the model requires a gradient"):
        trainer.train()


@pytest.mark.slow
def test_a_method_of_ones_own_is_taken(tmp_path):
    """Whatever uses the hooks that a Trainer has."""
    seen = []

    class Watch(EWC):
        name = "watch"

        def after_step(self, parameters):
            seen.append(len(parameters))

    model = tiny.tiny_lm()
    continual = ContinualCallback([Watch(samples=2)])
    trainer = continual.attach(made(tmp_path, model=model))
    assert continual.attach(trainer) is trainer, "twice does no harm"
    trainer.train()
    assert seen == [len(list(model.parameters()))] * 5
    assert continual.tasks == ["task-1"]
    assert isinstance(trainer.train_dataset, list), "the data set is the user's again"


@pytest.mark.slow
def test_an_evaluation_has_no_terms(tmp_path):
    """The loss on evaluation data is the model's, also while a term is added in training."""
    model, continual = tiny.tiny_lm(), ContinualCallback("lwf", options={"lwf": {"strength": 100.0}})
    for number in (0, 1):
        each_step = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": tiny.token_rows(0)}
        trainer = made(tmp_path, model=model, data=tiny.token_rows(number), **each_step)
        continual.attach(trainer, task=str(number)).train()
    found = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    plain = made(tmp_path, model=model).evaluate(tiny.token_rows(0))
    assert found[-1] == pytest.approx(plain["eval_loss"], rel=1e-6)
