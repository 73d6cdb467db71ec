"""One phase of pretraining: a plain AdamW loop that can be killed at any moment and goes on where it was.

What a step sees depends on the phase's name and the step's number only, so a resumed phase ends with the same bits as
one that was never interrupted. Checkpoints are safetensors: weights and the optimizer's two moments.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from evertune.files import make_folder, read_json, write_atomically
from evertune.loop import cosine
from evertune.tensors import read_header

LossAt = Callable[[random.Random], Tensor]
OnStep = Callable[[str, int, int, float], None]
"""Told (phase, step, steps, mean loss of late)."""


@dataclass(frozen=True, slots=True)
class Phase:
    """How long and how fast a phase trains."""

    name: str
    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    save_every: int = 200


def run_phase(
    phase: Phase, parameters: Mapping[str, nn.Parameter], loss_at: LossAt, *, folder: Path, on_step: OnStep
) -> None:
    """Train `parameters` on `loss_at(random numbers of the step)`; what stays in `folder` is loaded next time.

    Args:
        phase: its length and learning rate.
        parameters: what trains; changed in place, and frozen afterwards.
        loss_at: gives the loss of one batch that it draws with the generator it gets.
        folder: where checkpoints are kept.
        on_step: told about progress.
    """
    path = make_folder(folder) / f"{phase.name}.safetensors"
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": phase.weight_decay},
            {"params": [p for p in parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=phase.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(phase.steps, phase.warmup))
    done, late = _resume(path, parameters, optimizer, schedule), 0.0
    for step in range(done, phase.steps):
        torch.manual_seed(step)
        loss = loss_at(random.Random(f"{phase.name} {step}"))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        late = loss.item() if step == done else 0.98 * late + 0.02 * loss.item()
        on_step(phase.name, step + 1, phase.steps, late)
        if (step + 1) % phase.save_every == 0 or step + 1 == phase.steps:
            _save(path, step + 1, parameters, optimizer)
    for parameter in parameters.values():
        parameter.requires_grad_(False)


def _save(path: Path, step: int, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"weight/{n}": p.detach() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    write_atomically(path, save({n: t.contiguous() for n, t in tensors.items()}, metadata={"step": str(step)}))
    write_atomically(path.with_suffix(".json"), json.dumps({"step": step}))


def _resume(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> int:
    """Take the last checkpoint; returns how many steps were done."""
    if not path.exists() or not path.with_suffix(".json").exists():
        return 0
    step = int(read_json(path.with_suffix(".json"))["step"])
    read_header(path)
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg/{name}"],
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"],
            }
    schedule.last_epoch = step
    for group, base in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base * schedule.lr_lambdas[0](step)
    return step
