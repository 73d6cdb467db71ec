"""What works in a Trainer: which methods, and which Trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evertune.integrations.state_file import Recipe
from evertune.methods import METHODS, ImportancePenalty, Method, make_methods, parts_of
from evertune.runs.inputs import methods_of
from evertune.utils.errors import UserError, kind_of

HOOKS = (
    "adapt",
    "stages",
    "is_trainable",
    "route",
    "ranking",
    "preview_task",
    "needs_task_id",
    "expert_of",
    "activate",
)
"""Hooks of methods that decide what a model is made of, what is learned when, or what answers: a Trainer has none."""
STEPS_IN_BACKWARD = ("lomo", "adalomo", "layerwise")


def missing_hooks(method: type[Method]) -> list[str]:
    """Hooks of `method` that a Trainer does not call; a bound of `evertune run` is no method for one."""
    found = [hook for hook in HOOKS if getattr(method, hook) is not getattr(Method, hook)]
    return found or (["start weights"] if method.needs_start else ["stages"] if method.about.kind == "bound" else [])


def usable() -> list[str]:
    """Names of evertune's methods that work in a Trainer; no plug-in is imported."""
    own = [name for name in METHODS if METHODS.plugin_of(name) is None]
    return sorted(name for name in own if not missing_hooks(METHODS[name]))


def chosen_methods(given: Any, options: Mapping[str, Mapping[str, Any]]) -> tuple[list[Method], Recipe]:
    """The methods, after each has met the others, and what they are made from again.

    Args:
        given: `replay+ewc`, a method object or class, or a list of these that work together.
        options: of methods that are given by name.

    Raises:
        UserError: something else was given, a name or an option is unknown, or a method can't work in a Trainer.
    """
    together = list(given) if isinstance(given, list | tuple) else [given]
    spec, own = methods_of([together] if together else [])
    if stray := sorted(set(options) - set(parts_of(spec))):
        raise UserError(
            f"options has '{stray[0]}', which is no method of {spec}: write options={{METHOD: {{OPTION: VALUE}}}}"
        )
    recipe = Recipe(spec, {**options, **own})
    for name in parts_of(spec):
        if missing := missing_hooks(METHODS[name]):
            raise UserError(
                f"the method '{name}' can't work in a Trainer, which has no place for its {missing[0]}: choose from "
                f"{', '.join(usable())}; or use evertune run"
            )
    return make_methods(spec, recipe.options), recipe


def refuse_trainer(trainer: Any, methods: Sequence[Method]) -> None:
    """Stop where the methods' gradients would be wrong.

    Raises:
        UserError: it is no Trainer, or trains in a way that is not supported; the message says what to do.
    """
    from transformers import Trainer

    if not isinstance(trainer, Trainer):
        raise UserError(f"attach takes a transformers.Trainer, not {kind_of(trainer)}: attach(Trainer(...))")
    for wrong, message in _reasons(trainer, methods):
        if wrong:
            raise UserError(f"ContinualCallback: {message}")


def _reasons(trainer: Any, methods: Sequence[Method]) -> list[tuple[Any, str]]:
    args, data = trainer.args, trainer.train_dataset
    half = [n for n, p in trainer.model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.is_distributed_loading_by_transformers
    optimizer = str(getattr(args.optim, "value", args.optim))
    return [
        (
            not (hasattr(data, "__len__") and hasattr(data, "__getitem__")),
            f"the train_dataset is {type(data).__name__}: methods draw rows from it, so it needs a length and an index",
        ),
        (trainer.model_init, "model_init begins each training with a new model: give the Trainer a model instead"),
        (sharded, "weights are sharded (FSDP, DeepSpeed, tensor parallel); several processes by torchrun (DDP) work"),
        (args.n_gpu > 1, f"{args.n_gpu} GPUs in one process: start with torchrun, or set CUDA_VISIBLE_DEVICES=0"),
        (args.fp16, "fp16 scales the gradients that methods change: set bf16=True instead"),
        (
            any(word in optimizer for word in STEPS_IN_BACKWARD),
            f"the optimizer {optimizer} steps inside the backward pass, before methods see it: set optim='adamw_torch'",
        ),
        (
            half and any(isinstance(method, ImportancePenalty) for method in methods),
            f"{half[0] if half else ''} trains in half precision, too coarse for importances: load the model in "
            "float32 and set bf16=True, or train LoRA",
        ),
    ]
