"""A causal LM in miniature, two tasks of token ids, and the same training by a Trainer and by evertune's own loop.

As a program, in two processes: both trainings there, and their weights after each step written to a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from evertune.data.task import Task
from evertune.integrations.bare_model import BareModel, NoFeatures
from evertune.integrations.rows import Rows
from evertune.integrations.transformers import ContinualCallback
from evertune.methods import Context, make_methods
from evertune.training import loop
from evertune.training.states import split_state
from evertune.utils import distributed

WORDS, ROWS = 40, 20
OPTIONS = {
    "ewc": {"strength": 3.0, "samples": 7},
    "online-ewc": {"strength": 30.0, "samples": 7},
    "mas": {"strength": 0.5, "samples": 7},
    "lwf": {"strength": 2.0},
    "replay": {"ratio": 0.4},
    "agem": {"ratio": 0.4, "samples": 5},
    "gem": {"ratio": 0.4, "samples": 5},
    "der": {"buffer": 8, "samples": 3, "top": 4},
    "dgg": {"p": 1.0},
}
UNDER_TIR = {"ewc": {"strength": 3e4, "samples": 7}, "mas": {"strength": 3e4, "samples": 7}}


def options_for(spec):
    names = spec.split("+")
    found = {**OPTIONS, **(UNDER_TIR if "tir" in names else {})}
    return {name: found[name] for name in names if name in found}


def tiny_lm(seed=0, **sizes):
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": WORDS,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            **sizes,
        }
    )
    return LlamaForCausalLM(config)


def token_rows(task, count=ROWS):
    """Prompts and answers of different lengths; of each task in its own part of the vocabulary."""
    generator = torch.Generator().manual_seed(task)
    low = 2 + 16 * task
    rows = []
    for _ in range(count):
        prompt, answer = torch.randint(2, 6, (2,), generator=generator).tolist()
        ids = torch.randint(low, low + 20, (prompt + answer,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:], "note": "not read by the model"})
    return rows


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([[*row[name], *[value] * (longest - len(row[name]))] for row in rows])

    ids, labels = padded("input_ids", 0), padded("labels", -100)
    mask = torch.tensor([[int(at < len(row["input_ids"])) for at in range(longest)] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Recorder(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(copied(model))


def copied(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def hyper_parameters(accumulation, clip):
    """Of the loop, whose micro-batches are those of all processes together."""
    return loop.Training(
        batch_size=4,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        weight_decay=0.01,
        max_grad_norm=clip or 1e9,
        loss_mean="token",
    )


def optimizers(bare, training, samples):
    optimizer = torch.optim.AdamW(loop._groups(bare, bare.trainable(), training))
    factor = loop.cosine(training.steps(samples), training.warmup_ratio)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def arguments(folder, accumulation=1, clip=0.0, **more):
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 4 // distributed.world_size(),
            "gradient_accumulation_steps": accumulation,
            "max_grad_norm": clip,
            "num_train_epochs": 1,
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **more,
        }
    )


def by_trainer(spec, folder, *, accumulation=1, clip=0.0, data=(0, 1), callback=None, kind=Trainer, **more):
    """Weights after each step of the tasks, one after another, with a callback."""
    continual = callback or ContinualCallback(spec, options=options_for(spec), seed=3)
    model, recorder = tiny_lm(), Recorder()
    training = hyper_parameters(accumulation, clip)
    for number in data:
        rows = token_rows(number)
        bare = BareModel(model, Rows(rows, {}), collate)
        trainer = kind(
            model=model,
            args=arguments(folder, accumulation, clip, **more),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[recorder],
            optimizers=optimizers(bare, training, _planned(continual, number)),
        )
        continual.attach(trainer, task=f"t{number}")
        trainer.train()
    return recorder.weights, continual


def _planned(continual, number):
    """How many rows an epoch has: 8 of 20 are replayed in the second task."""
    return ROWS + (8 if number and "replay" in [method.name for method in continual.methods] else 0)


def by_loop(spec, *, accumulation=1, clip=0.0, data=(0, 1)):
    """The same by evertune's own loop, over the same model and rows."""
    model, weights, kept, states = tiny_lm(), [], {}, {}
    methods = make_methods(spec, options_for(spec))
    for number in data:
        rows = Rows(token_rows(number), kept)
        bare = BareModel(model, rows, collate)
        task = Task(f"t{number}", rows.samples, ())
        for method in methods:
            method.setup(Context(lmm=bare, features=NoFeatures(), seed=3, start={}, keep=rows.keep))
            if states:
                method.load_state_dict(states[method.name])
        plan = rows.samples
        for method in methods:
            method.before_task(task)
            plan = method.data_plan(task, plan)
        training = hyper_parameters(accumulation, clip)
        loop.train(
            bare,
            methods,
            plan,
            NoFeatures(),
            training=training,
            seed=3,
            on_step=lambda _: weights.append(copied(model)),
        )
        for method in methods:
            method.after_task(task)
        states = {method.name: method.state_dict() for method in methods}
    return weights


def furthest(ours, theirs):
    """The largest difference of any weight after any step; the steps must be as many."""
    assert len(ours) == len(theirs)
    return max(float((a[n] - b[n]).abs().max()) for a, b in zip(ours, theirs, strict=True) for n in a)


class Gentle(torch.optim.AdamW):
    """AdamW with a larger epsilon, for both.

    With 1e-8 a weight whose gradient is nothing but rounding moves by the learning rate, to one side or the other: two
    plain trainings, which round differently, are 1.5e-6 apart after four steps.
    """

    def __init__(self, parameters, eps=1e-4, **options):
        super().__init__(parameters, eps=eps, **options)


def comparable(setattr=setattr):
    """The loop takes samples as they come, like a Trainer with sequential sampling, and rounding is not magnified."""
    setattr(loop, "sample_order", lambda samples, **_: samples)
    setattr(torch.optim, "AdamW", Gentle)


if __name__ == "__main__":
    out, *cases = sys.argv[1:]
    distributed.init()
    comparable()
    found = {}
    for case in cases:
        spec, accumulation, clip = case.split(",")
        how = {"accumulation": int(accumulation), "clip": float(clip)}
        folder = Path(out).parent / case
        weights, continual = by_trainer(spec, folder, **how, save_strategy="epoch")
        saved = ContinualCallback.from_checkpoint(get_last_checkpoint(str(folder)))
        states = [split_state(each._saved.states).fingerprint for each in (continual, saved)]
        everywhere = {state for each in distributed.all_gather(states) for state in each}
        found[case] = {"trainer": weights, "loop": by_loop(spec, **how), "states": len(everywhere)}
    if distributed.is_main_process():
        torch.save(found, out)
    distributed.shutdown()
