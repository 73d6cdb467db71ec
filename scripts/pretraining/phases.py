"""One phase of pretraining: a plain AdamW loop that can be killed at any moment and resumed.

The data of a step depend on the phase's name and the step's number only, so a resumed phase is bit-identical to
one that was never interrupted. A checkpoint is one safetensors file: weights, the optimizer's two moments, and in its
metadata the step and the phase.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from evertune.training.loop import cosine
from evertune.utils.files import make_folder, write_atomically
from evertune.utils.safetensors_header import read_header

LossAt = Callable[[random.Random], Tensor]
OnStep = Callable[[str, int, int, float], None]
"""Called with (phase, step, steps, recent mean loss)."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps and learning rate of a phase."""

    name: str
    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_ratio: float = 0.05
    save_every: int = 200

    @property
    def recipe(self) -> str:
        """The settings that determine the weights: a checkpoint with other settings is not used."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "save_every"})


def run_phase(
    phase: Phase, parameters: Mapping[str, nn.Parameter], loss_at: LossAt, *, folder: Path, on_step: OnStep
) -> None:
    """Train `parameters` on `loss_at(generator of the step)`; the last checkpoint in `folder` is resumed.

    Args:
        phase: length and learning rate.
        parameters: what trains; changed in place, and frozen afterwards.
        loss_at: draws one batch with the given generator and returns its loss.
        folder: where checkpoints are kept.
        on_step: called after each step.
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
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(phase.steps, phase.warmup_ratio))
    done, late = _resume(path, phase, parameters, optimizer, schedule), 0.0
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
            _save(path, phase, step + 1, parameters, optimizer)
    for parameter in parameters.values():
        parameter.requires_grad_(False)


def _save(
    path: Path, phase: Phase, step: int, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"weight/{n}": p.detach() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    of = {"phase": json.dumps({"step": step, "recipe": phase.recipe})}
    write_atomically(path, save({n: t.contiguous() for n, t in tensors.items()}, metadata=of))


def _resume(
    path: Path,
    phase: Phase,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> int:
    """Load the last checkpoint of this phase; returns the number of finished steps."""
    if not path.exists():
        return 0
    read_header(path)
    with safe_open(path, framework="pt") as content:
        of = json.loads((content.metadata() or {}).get("phase", "{}"))
        if of.get("recipe") != phase.recipe:
            return 0
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    step = int(of["step"])
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
