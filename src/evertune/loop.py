"""The one training loop, on accelerate. Methods hang their hooks into it; none of them brings its own.

Per micro-batch: loss of the answers plus the methods' loss terms. Per optimizer step: `after_backward` (closed-form
gradients, once however the batch was split), clipping, AdamW, cosine schedule, `after_step`. Several processes share
every micro-batch and average their gradients, so that their number decides no loss.
"""

from __future__ import annotations

import math
import random
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evertune import processes
from evertune.errors import UserError
from evertune.lmm.features import FeatureStore
from evertune.lmm.protocol import LMM, Batch
from evertune.methods import Method
from evertune.tasks.task import Picked, Sample


@dataclass(frozen=True, slots=True)
class Training:
    """How a task is trained. `batch_size` counts samples per micro-batch, `epochs` passes over the data plan.

    `checkpointing` keeps no activations inside the blocks of the LM and computes them again on the way back: less
    memory, more time, the same numbers.
    """

    epochs: float = 1.0
    batch_size: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.03
    clip: float = 1.0
    checkpointing: bool = False

    def steps(self, samples: int) -> int:
        """Optimizer steps for a data plan of `samples` samples."""
        seen = max(1, round(self.epochs * samples))
        return math.ceil(math.ceil(seen / self.batch_size) / self.accumulate)

    def as_dict(self) -> dict[str, float]:
        """For keys: what decides the numbers."""
        return {name: value for name, value in asdict(self).items() if name != "checkpointing"}


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, as the progress line and the log see it."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    samples_per_second: float
    gradient_norm: float | None = None
    """Before clipping; None in what an earlier evertune has kept."""

    def full(self) -> dict[str, float]:
        """Every field, to be made again from."""
        return asdict(self)

    def as_dict(self) -> dict[str, float]:
        """For the log: what does not depend on the machine's speed."""
        norm = {} if self.gradient_norm is None else {"gradient_norm": self.gradient_norm}
        return {"step": self.step, "loss": self.loss, "learning_rate": self.learning_rate, **norm}


OnStep = Callable[[Step], None]


def sample_order(samples: Sequence[Sample], *, epochs: float, seed: int) -> Sequence[Sample]:
    """`epochs` passes over `samples`, each in its own random order; a fraction takes the beginning of its pass."""
    choose = random.Random(seed)
    order = array("q")  # places, not samples: there may be a million of them
    wanted = max(1, round(epochs * len(samples)))
    while len(order) < wanted:
        order.extend(choose.sample(range(len(samples)), len(samples)))
    return Picked(samples, order[:wanted])


def train(
    lmm: LMM,
    methods: Sequence[Method],
    samples: Sequence[Sample],
    features: FeatureStore,
    *,
    training: Training,
    seed: int,
    on_step: OnStep | None = None,
) -> list[Step]:
    """Train what is trainable in `lmm` on `samples` and return the log, one entry per optimizer step.

    Args:
        lmm: the model; changed in place.
        methods: their hooks are called in order.
        samples: one epoch's data plan; its order here does not matter, `seed` decides it.
        features: has seen every sample (`ensure`).
        training: the hyper-parameters.
        seed: of the order of samples and of everything random in the step.
        on_step: called after each optimizer step.

    Raises:
        UserError: nothing trains; or a loss or a gradient is not finite: the message names the samples, and the weights
            are those before that step.
    """
    torch.manual_seed(seed)
    parameters = trained_parameters(lmm, methods)
    if not parameters:
        names = "+".join(method.name for method in methods)
        raise UserError(f"method '{names}' leaves nothing of {lmm.name} to train: change its options")
    order = sample_order(samples, epochs=training.epochs, seed=seed)
    with _training(lmm, parameters), _checkpointing(lmm, wanted=training.checkpointing):
        return _steps(lmm, methods, parameters, order, features, training, training.steps(len(samples)), on_step)


@contextmanager
def _training(lmm: LMM, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Training mode with gradients on `parameters` only; undone at the end, also when a step fails."""
    module, trainable = lmm.module(), lmm.trainable()
    try:
        module.train()
        for name, parameter in trainable.items():
            parameter.requires_grad_(name in parameters)
        yield
    finally:
        module.eval()
        for parameter in trainable.values():
            parameter.requires_grad_(True)
            parameter.grad = None


@contextmanager
def _checkpointing(lmm: LMM, *, wanted: bool) -> Iterator[None]:
    """Activations of the library's blocks are computed again in the backward pass, for as long as this is entered."""
    able = [m for m in lmm.module().modules() if wanted and getattr(m, "supports_gradient_checkpointing", False)]
    if wanted and not able:
        raise UserError(f"{lmm.name} has no part that can do without its activations: leave out train.checkpointing")
    try:
        for part in able:
            part.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        yield
    finally:
        for part in able:
            part.gradient_checkpointing_disable()  # type: ignore[operator]


def _steps(
    lmm: LMM,
    methods: Sequence[Method],
    parameters: Mapping[str, nn.Parameter],
    order: Sequence[Sample],
    features: FeatureStore,
    training: Training,
    steps: int,
    on_step: OnStep | None,
) -> list[Step]:
    module = lmm.module()
    accelerator, optimizer, loader, schedule = _prepared(lmm, parameters, order, features, training, steps)
    log: list[Step] = []
    losses: list[float] = []
    started, seen = time.perf_counter(), 0
    for batch, whole in zip(loader, micro_batches(len(order), training.batch_size), strict=True):
        with accelerator.accumulate(module):
            loss = _weight(whole) * _loss(module, methods, batch)
            mean = processes.mean(loss.detach())
            _refuse_not_finite("loss", mean, order, whole)
            accelerator.backward(reaching(loss, parameters))
            if accelerator.sync_gradients:
                processes.average_gradients(parameters)
                for method in methods:
                    method.after_backward(parameters)
                norm = accelerator.clip_grad_norm_(list(parameters.values()), training.clip)
                _refuse_not_finite("gradient", norm, order, whole)
            rate = max(schedule.get_last_lr())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(mean.item())
        seen += len(whole)
        if accelerator.sync_gradients:
            for method in methods:
                method.after_step(parameters)
            pace = seen / (time.perf_counter() - started)
            log.append(Step(len(log) + 1, steps, sum(losses) / len(losses), rate, pace, norm.item()))
            losses = []
            if on_step:
                on_step(log[-1])
    return log


def trained_parameters(lmm: LMM, methods: Sequence[Method]) -> dict[str, nn.Parameter]:
    """What trains: everything that no method holds still."""
    return {name: p for name, p in lmm.trainable().items() if all(method.trains(name) for method in methods)}


def _prepared(
    lmm: LMM,
    parameters: Mapping[str, nn.Parameter],
    order: Sequence[Sample],
    features: FeatureStore,
    training: Training,
    steps: int,
) -> tuple[Any, Any, Any, Any]:
    """Accelerator, and what it has prepared: optimizer, loader, schedule.

    The model is not wrapped for several processes: every method may call it in ways that a wrapper would not see. What
    a wrapper would do, averaging gradients, is done once per optimizer step.
    """
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader
    from accelerate.utils import DataLoaderConfiguration

    shared = DataLoaderConfiguration(split_batches=True)  # one step of the schedule is one step of all processes
    on_cpu = lmm.device.type == "cpu"
    accelerator = Accelerator(gradient_accumulation_steps=training.accumulate, cpu=on_cpu, dataloader_config=shared)
    optimizer = torch.optim.AdamW(_groups(lmm, parameters, training))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(steps, training.warmup))
    loader = prepare_data_loader(
        _loader(lmm, order, features, training.batch_size), accelerator.device, num_processes=1, put_on_device=True
    )
    return accelerator, accelerator.prepare_optimizer(optimizer), loader, accelerator.prepare_scheduler(schedule)


def cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise over `warmup` of the steps, then half a cosine to 0."""
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def micro_batches(samples: int, size: int) -> list[range]:
    """Places of the samples of each micro-batch, of all processes together."""
    return [range(start, min(start + size, samples)) for start in range(0, samples, size)]


def _own(whole: range) -> range:
    """The part of a micro-batch that this process takes; where none is left for it the first, which counts nothing."""
    return processes.share(whole) or whole[:1]  # type: ignore[return-value]


def _weight(whole: range) -> float:
    """What the mean over this process's part counts, so that the mean over processes is that over all samples."""
    return processes.count() * len(processes.share(whole)) / len(whole)


def _loader(lmm: LMM, order: Sequence[Sample], features: FeatureStore, batch_size: int) -> Any:
    def collate(rows: Sequence[Sample]) -> Batch:
        return lmm.collate(rows, features.get(rows))

    places = [_own(whole) for whole in micro_batches(len(order), batch_size)]
    return DataLoader(order, batch_sampler=places, collate_fn=collate)  # type: ignore[arg-type]


def _loss(module: nn.Module, methods: Sequence[Method], batch: Batch) -> Tensor:
    output = module(batch)
    total: Tensor = output.loss
    for method in methods:
        for term in method.loss_terms(batch, output).values():
            total = total + term
    return total


def reaching(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The loss, which a batch without a picture may leave without a way back to what trains: its gradient is 0 then."""
    return loss if loss.requires_grad else loss + sum((0 * p).sum() for p in parameters.values())


def _refuse_not_finite(what: str, value: Tensor, order: Sequence[Sample], whole: range) -> None:
    if not torch.isfinite(value):
        names = ", ".join(order[place].id for place in whole)
        raise UserError(
            f"the {what} is {value.item()} at the samples {names}; no step was taken. Lower train.learning_rate, "
            "or look at these samples"
        )


def _groups(lmm: LMM, parameters: Mapping[str, nn.Parameter], training: Training) -> list[dict[str, Any]]:
    """Weight decay on matrices, none on biases and norms; the learning rate times the model's factor."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = training.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((training.learning_rate * lmm.rate(name), decay), []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]
