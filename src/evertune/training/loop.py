"""The training loop, on accelerate. It calls the hooks of the methods; no method has a loop of its own.

Per micro-batch: loss of the answers plus the methods' loss terms. Per optimizer step: `after_backward` (closed-form
gradients, once, regardless of how the batch was split), clipping, AdamW, cosine schedule, `after_step`. Several
processes share every micro-batch and average their gradients, so that the loss does not depend on their number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from evertune.data.task import Sample
from evertune.methods import Method
from evertune.models.features import FeatureStore
from evertune.models.protocol import Batch, LossMean, Trainable
from evertune.models.weights import restore
from evertune.training.compiled import compiled_blocks
from evertune.training.gradients import Gradients
from evertune.training.sample_order import micro_batches, own_part, sample_order, shares_images, window_of
from evertune.utils import distributed
from evertune.utils.arguments import named_arguments
from evertune.utils.errors import UserError

SMALLEST_BATCH = 8
"""The smallest batch size that `min_steps` may lead to (docs/service.md)."""
NOT_BOTH = (
    "train.group_by_image keeps keys and values of images, and train.gradient_checkpointing keeps nothing: leave out "
    "one of them (the first needs less memory, too, where several questions are about one image)"
)
MOST_SAMPLES = 2**31
"""Most samples of one training over all epochs: their order is kept in memory, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a task is trained. `batch_size` counts samples per micro-batch, `epochs` passes over the data plan.

    `gradient_checkpointing` stores no activations inside the blocks of the LM and recomputes them in the backward
    pass: less memory, more time, the same numbers. `save_every` is the number of optimizer steps between two mid-task
    checkpoints: 0 is never, None as often as costs little. It changes no number. `loss_mean` sets the weights in the
    loss of a step: equal for every sample, whose loss is the mean over its answer's tokens, or for every answer token.
    `min_steps` is a floor of optimizer steps: few samples give smaller batches and more epochs (`fitted`).
    `group_by_image` composes batches of whole images, whose tokens are computed once for all samples about them; the
    loss of each sample is the same. `compile` compiles the LM's blocks (`compiled_blocks`).
    """

    epochs: float = 1.0
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    loss_mean: LossMean = "sample"
    gradient_checkpointing: bool = False
    save_every: int | None = None
    min_steps: int = 0
    group_by_image: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.group_by_image and self.gradient_checkpointing:
            raise UserError(NOT_BOTH)
        if self.compile and (self.gradient_checkpointing or self.group_by_image):
            raise UserError("compile can't be combined with gradient_checkpointing or group_by_image: leave one out")

    def fitted(self, samples: int) -> Training:
        """A copy with at least `min_steps` optimizer steps for a task of `samples` samples.

        First the batch size is reduced until `epochs` give enough steps, but not below `SMALLEST_BATCH`; then `epochs`
        grows.
        """
        whole = self.batch_size * self.gradient_accumulation_steps
        if self.steps(samples) >= self.min_steps:
            return self
        batch = min(whole, max(SMALLEST_BATCH, round(self.epochs * samples / self.min_steps)))
        gradient_accumulation_steps = math.ceil(batch / self.batch_size)
        micro = batch // gradient_accumulation_steps
        epochs = max(self.epochs, self.min_steps * micro * gradient_accumulation_steps / samples)
        return replace(self, batch_size=micro, gradient_accumulation_steps=gradient_accumulation_steps, epochs=epochs)

    def steps(self, samples: int) -> int:
        """Optimizer steps for a data plan of `samples` samples.

        Raises:
            UserError: there are too many to be held in memory.
        """
        seen = max(1, round(self.epochs * samples))
        if seen > MOST_SAMPLES:
            raise UserError(
                f"a training over {seen:,} samples is too long (at most {MOST_SAMPLES:,}): "
                "lower train.epochs or train.min_steps"
            )
        return math.ceil(math.ceil(seen / self.batch_size) / self.gradient_accumulation_steps)

    def as_dict(self) -> dict[str, Any]:
        """The settings that decide the numbers, for cache keys."""
        without = {"gradient_checkpointing", "save_every", "min_steps", *([] if self.compile else ["compile"])}
        return {name: value for name, value in asdict(self).items() if name not in without}


Training.__init__ = named_arguments(Training.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, for the progress line and the log; `pieces`: splits of a micro-batch if memory was short."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    samples_per_second: float
    gradient_norm: float | None = None
    """Before clipping; None in logs of an earlier evertune."""
    pieces: int = 1
    logged: Mapping[str, float] = field(default_factory=dict)
    """Loss terms of methods, and the values that they logged, by `METHOD/NAME`."""

    def full(self) -> dict[str, Any]:
        """Every field, for `Step(**...)`."""
        return asdict(self)

    def as_dict(self) -> dict[str, float]:
        """For the log: the fields that do not depend on the machine's speed."""
        norm = {} if self.gradient_norm is None else {"gradient_norm": self.gradient_norm}
        cut = {"pieces": self.pieces} if self.pieces > 1 else {}
        return {"step": self.step, "loss": self.loss, "learning_rate": self.learning_rate, **norm, **cut, **self.logged}


OnStep = Callable[[Step], None]


class MidTaskSaver(Protocol):
    """Saves a training mid-task, so that it resumes bit-identically."""

    def found(self) -> Mapping[str, Any] | None:
        """The saved state of this training; None if there is none."""

    def after_step(self, step: Step, state: Callable[[], dict[str, Any]]) -> None:
        """Called after each optimizer step but the last; `state` returns the state to save."""


def train(
    lmm: Trainable,
    methods: Sequence[Method],
    samples: Sequence[Sample],
    features: FeatureStore,
    *,
    training: Training,
    seed: int,
    on_step: OnStep | None = None,
    mid_task: MidTaskSaver | None = None,
) -> list[Step]:
    """Train the trainable parameters of `lmm` on `samples` and return the log, one entry per optimizer step.

    Args:
        lmm: the model; changed in place.
        methods: their hooks are called in order.
        samples: one epoch's data plan; its order here does not matter, `seed` decides it.
        features: has seen every sample (`ensure`).
        training: the hyper-parameters.
        seed: of the order of samples and of everything random in the step.
        on_step: called after each optimizer step.
        mid_task: mid-task checkpoints: training resumes from one when it was interrupted.

    Raises:
        UserError: no parameter is trainable. NotFiniteError: a loss or a gradient is not finite: the message names the
            samples,
            and the weights are those before that step.
    """
    torch.manual_seed(seed)
    parameters = trained_parameters(lmm, methods)
    if not parameters:
        names = "+".join(method.name for method in methods)
        raise UserError(f"method '{names}' leaves nothing of {lmm.name} to train: change its options")
    shared = training.group_by_image and shares_images(lmm)
    whole = training.batch_size if shared else None
    order = sample_order(samples, epochs=training.epochs, seed=seed, whole_images=whole)
    checkpointing = _checkpointing(lmm, wanted=training.gradient_checkpointing)
    with _training(lmm, parameters), checkpointing, compiled_blocks(lmm, wanted=training.compile):
        run = _Run(lmm, methods, parameters, order, training, training.steps(len(samples)), shared)
        return _steps(run, features, on_step, mid_task)


@contextmanager
def _training(lmm: Trainable, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
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
def _checkpointing(lmm: Trainable, *, wanted: bool) -> Iterator[None]:
    """Inside this context, activations of the library's blocks are recomputed in the backward pass."""
    able = [m for m in lmm.module().modules() if wanted and getattr(m, "supports_gradient_checkpointing", False)]
    if wanted and not able:
        raise UserError(
            f"{lmm.name} has no part that can do without its activations: leave out train.gradient_checkpointing"
        )
    try:
        for part in able:
            part.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        yield
    finally:
        for part in able:
            part.gradient_checkpointing_disable()  # type: ignore[operator]


class _Run(NamedTuple):
    """The inputs of one training."""

    lmm: Trainable
    methods: Sequence[Method]
    parameters: Mapping[str, nn.Parameter]
    order: Sequence[Sample]
    training: Training
    steps: int
    shared: bool
    """Whether samples about the same images share a copy of their tokens."""


def _steps(run: _Run, features: FeatureStore, on_step: OnStep | None, mid_task: MidTaskSaver | None) -> list[Step]:
    parameters = run.parameters
    kept = mid_task.found() if mid_task else None
    place = kept["place"] if kept else 0
    accelerator, optimizer, loader, schedule = _prepared(run, features, place)
    gradients = Gradients(
        run.lmm,
        run.methods,
        parameters,
        run.order,
        accelerator,
        partial(_batch, run, features),
        loss_mean=run.training.loss_mean,
    )
    log: list[Step] = []
    started, seen = time.perf_counter(), 0
    for batch, whole in zip(loader, micro_batches(len(run.order), run.training.batch_size)[place:], strict=True):
        if kept:  # not earlier: starting a loader draws random numbers
            log = _go_on(run, kept, optimizer, schedule, gradients)
            kept = None
        window = window_of(whole, len(run.order), run.training.batch_size * run.training.gradient_accumulation_steps)
        gradients.add(batch, whole, window)
        seen += len(whole)
        place += 1
        if whole.stop < window.stop:
            continue
        terms = gradients.terms()
        loss = gradients.finish(window)
        for method in run.methods:
            method.after_backward(parameters)
        norm = accelerator.clip_grad_norm_(list(parameters.values()), run.training.max_grad_norm)
        gradients.refuse_not_finite(norm)
        rate = max(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for method in run.methods:
            method.after_step(parameters)
        log.append(
            Step(
                step=len(log) + 1,
                steps=run.steps,
                loss=loss,
                learning_rate=rate,
                samples_per_second=seen / (time.perf_counter() - started),
                gradient_norm=norm.item(),
                pieces=gradients.pieces,
                logged=terms | logged_by(run.methods),
            )
        )
        if on_step:
            on_step(log[-1])
        if mid_task and len(log) < run.steps:
            mid_task.after_step(log[-1], partial(_state, run, optimizer, schedule, place, log))
    return log


def logged_by(methods: Sequence[Method]) -> dict[str, float]:
    """What methods have logged since the last step."""
    return {name: value for method in methods for name, value in method.take_logged().items()}


def _state(run: _Run, optimizer: Any, schedule: Any, place: int, log: Sequence[Step]) -> dict[str, Any]:
    """The complete state of a training between two steps: tensors and JSON values."""
    states = optimizer.state_dict()
    devices = [run.lmm.device] if run.lmm.device.type == "cuda" else []
    return {
        "place": place,
        "log": [step.full() for step in log],
        "parameters": dict(run.parameters),
        "optimizer": {**states, "state": {str(index): state for index, state in states["state"].items()}},
        "schedule": schedule.state_dict(),
        "random": {
            str(number): {"cpu": cpu, **dict(zip(("device",), of_device, strict=False))}
            for number, (cpu, of_device) in enumerate(
                distributed.all_gather(
                    (torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices])
                )
            )
        },
        "methods": {method.name: method.progress_dict() for method in run.methods},
    }


def _go_on(run: _Run, kept: Mapping[str, Any], optimizer: Any, schedule: Any, gradients: Gradients) -> list[Step]:
    """Restore a state of `_state`; returns the log so far."""
    restore(run.parameters, kept["parameters"])
    states = {int(index): state for index, state in kept["optimizer"]["state"].items()}
    optimizer.load_state_dict({**kept["optimizer"], "state": states})
    schedule.load_state_dict(dict(kept["schedule"]))
    for method in run.methods:
        method.load_progress_dict(kept["methods"][method.name])
    random_numbers = kept["random"][str(distributed.rank())]
    torch.set_rng_state(random_numbers["cpu"])
    if "device" in random_numbers:
        torch.cuda.set_rng_state(random_numbers["device"], run.lmm.device)
    log = [Step(**step) for step in kept["log"]]
    gradients.pieces = log[-1].pieces
    return log


def trained_parameters(lmm: Trainable, methods: Sequence[Method]) -> dict[str, nn.Parameter]:
    """The trained parameters: those that no method freezes."""
    return {name: p for name, p in lmm.trainable().items() if all(method.is_trainable(name) for method in methods)}


def _prepared(run: _Run, features: FeatureStore, place: int) -> tuple[Any, Any, Any, Any]:
    """The accelerator and its prepared optimizer, loader (from the micro-batch `place` on) and schedule.

    The model is not wrapped in DDP, since methods may call it in ways that DDP does not see. Gradients are averaged
    explicitly, once per optimizer step.
    """
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader
    from accelerate.utils import DataLoaderConfiguration

    shared = DataLoaderConfiguration(split_batches=True)  # one step of the schedule is one step of all processes
    on_cpu, training = run.lmm.device.type == "cpu", run.training
    accelerator = Accelerator(cpu=on_cpu, dataloader_config=shared)  # `_window` decides which micro-batches are a step
    optimizer = torch.optim.AdamW(_groups(run.lmm, run.parameters, training))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(run.steps, training.warmup_ratio))
    places = [own_part(whole) for whole in micro_batches(len(run.order), training.batch_size)[place:]]
    rows: Any = DataLoader(run.order, batch_sampler=places, collate_fn=partial(_batch, run, features))  # type: ignore[arg-type]
    batches = prepare_data_loader(rows, accelerator.device, num_processes=1, put_on_device=True)
    loader = features.ahead_of(batches, ([run.order[place] for place in own] for own in places))
    return accelerator, accelerator.prepare_optimizer(optimizer), loader, accelerator.prepare_scheduler(schedule)


def cosine(steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise over `warmup_ratio` of the steps, then a cosine to 0."""
    rise = max(1, round(warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def _batch(run: _Run, features: FeatureStore, rows: Sequence[Sample]) -> Batch:
    shared = {"shared": True} if run.shared else {}
    return run.lmm.collate(rows, features.get(rows), **shared)


def _groups(lmm: Trainable, parameters: Mapping[str, nn.Parameter], training: Training) -> list[dict[str, Any]]:
    """Weight decay on matrices, none on biases and norms; the learning rate times the model's factor."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = training.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((training.learning_rate * lmm.lr_scale(name), decay), []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]
