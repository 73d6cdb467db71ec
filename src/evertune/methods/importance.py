"""What importance-based penalties share: importance per sample, the closed-form gradient, rules that merge tasks.

`ewc`, `online-ewc` and `mas` differ in the measure of importance and in the merging rule; the rest is shared here. A
modifier such as `tir` replaces the merging rule and keeps the measure.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evertune.data.task import Sample, Task, drawn
from evertune.methods.base import Context, Method
from evertune.methods.per_sample_gradients import gradients_of, samples_at_once
from evertune.models.modes import evaluating
from evertune.models.protocol import Batch, Output
from evertune.models.weights import add_gradient
from evertune.utils.errors import UserError
from evertune.utils.files import digest

Tensors = dict[str, Tensor]
"""{name of a trained parameter: tensor of its shape}."""


class MergeRule(ABC):
    """How the importances of many tasks become one penalty, in memory that does not grow with their number.

    The penalty and its gradient are those for a strength of 1.
    """

    def __init__(self) -> None:
        self.importance: Tensors = {}

    @abstractmethod
    def merge(self, new: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, task: str) -> None:
        """Add the importance of the task that was just learned; `parameters` are the weights after it."""

    def before_task(self, task: Task, parameters: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Prepare to protect the earlier tasks while `task` is learned."""

    @abstractmethod
    def gradient(self, name: str, theta: Tensor) -> Tensor:
        """Gradient of the penalty with respect to the parameter `name`, which is at `theta`."""

    def add_gradient(self, parameters: Mapping[str, nn.Parameter], *, strength: float) -> None:
        """Add the gradient of `strength` times the penalty to that of each parameter."""
        for name, parameter in parameters.items():
            add_gradient(parameter, strength * self.gradient(name, parameter.detach()))

    def state_dict(self) -> dict[str, Any]:
        """The permanent state."""
        return {"importance": self.importance}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take back what `state_dict` gave."""
        self.importance = _on(device, state["importance"])


class Summed(MergeRule):
    """Each task keeps its own spring, exactly: 1/2 Σ_k Σ_i F_k,i (θ_i - θ_k,i)².

    A sum of quadratics is one quadratic, A θ² - 2 B θ + const with A = Σ F_k and B = Σ F_k θ_k: two tensors per
    parameter hold all tasks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pull: Tensors = {}

    def merge(self, new: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, task: str) -> None:
        """Add to both sums."""
        for name, importance in new.items():
            zero = torch.zeros_like(importance)
            self.importance[name] = self.importance.get(name, zero) + importance
            self._pull[name] = self._pull.get(name, zero) + importance * parameters[name].detach()

    def gradient(self, name: str, theta: Tensor) -> Tensor:
        """A θ - B."""
        return self.importance[name] * theta - self._pull[name]

    def state_dict(self) -> dict[str, Any]:
        """The two sums."""
        return {**super().state_dict(), "pull": self._pull}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore the sums."""
        super().load_state_dict(state, device)
        self._pull = _on(device, state["pull"])


class Latest(MergeRule):
    """One importance, every spring fixed at the weights that the task to come starts from: scale Σ_i I_i (θ_i - a_i)².

    The anchor needs no place in the state: the weights at the beginning of a task are those of the last stage.

    Args:
        decay: I <- decay · I + new; 1 is the plain sum.
        scale: 1/2 or 1, as the paper of the penalty writes it.
    """

    def __init__(self, *, decay: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        self._decay, self._scale = decay, scale
        self._anchor: Tensors = {}

    def merge(self, new: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, task: str) -> None:
        """Add to the decayed sum."""
        for name, importance in new.items():
            earlier = self.importance.get(name, torch.zeros_like(importance))
            self.importance[name] = self._decay * earlier + importance

    def before_task(self, task: Task, parameters: Mapping[str, Tensor]) -> None:
        """Fix the springs here."""
        self._anchor = {name: p.detach().clone() for name, p in parameters.items()}

    def held(self) -> Mapping[str, Tensor]:
        """The importance in force during the current task."""
        return self.importance

    def gradient(self, name: str, theta: Tensor) -> Tensor:
        """2 scale I (θ - a)."""
        return 2 * self._scale * self.held()[name] * (theta - self._anchor[name])


class ImportancePenalty(Method, ABC):
    """A quadratic penalty on changing weights that are important for earlier tasks; subclasses define the importance.

    Args:
        strength: λ; None is the default of the method, or of the modifier that exchanges its merging rule: a rule that
            normalises importances needs a λ of another size.
        samples: training samples per task that the importance is estimated from.
    """

    default_strength: ClassVar[float]
    sequential_equivalent: ClassVar[Mapping[str, Any]] = {"strength": 0.0}
    rule: MergeRule

    def __init__(self, *, strength: float | None = None, samples: int = 128) -> None:
        if not (strength is None or strength >= 0) or samples < 1:
            raise UserError(f"{self.name}.strength must be 0 or more and {self.name}.samples at least 1")
        self._given = strength
        self.strength = self.default_strength if strength is None else strength
        self.samples = samples
        self._make_rule: Callable[[], MergeRule] = self.merging

    @abstractmethod
    def measure(self, samples: Sequence[Sample]) -> Tensors:
        """How much each trained scalar matters to `samples`, at the model's present weights."""

    @abstractmethod
    def merging(self) -> MergeRule:
        """A fresh merging rule of this method."""

    def merge_by(self, make_rule: Callable[[], MergeRule], *, strength: float) -> None:
        """Merge by another rule from the next `setup` on, with its own default strength."""
        self._make_rule = make_rule
        self.strength = strength if self._given is None else self._given

    def setup(self, context: Context) -> None:
        """Start without importance."""
        super().setup(context)
        self.rule = self._make_rule()

    def on_known_task(self, task: Task) -> None:
        """Protect a task that the model knew before the stream."""
        self._protect(task)

    def before_task(self, task: Task) -> None:
        """Notify the merging rule that a task starts."""
        self.rule.before_task(task, self.context.parameters)

    def adds_to_loss(self) -> bool:
        """Only once there is an earlier task to protect."""
        return self.strength > 0 and bool(self.rule.importance)

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add the penalty's gradient, once per optimizer step however the batch was split."""
        if self.adds_to_loss():
            self.rule.add_gradient(parameters, strength=self.strength)

    def after_task(self, task: Task) -> None:
        """Compute the importance for `task` and merge it with the earlier ones."""
        self._protect(task)

    def _protect(self, task: Task) -> None:
        choose = random.Random(digest(self.name, str(self.context.seed), task.name))
        chosen = drawn(task.train, min(self.samples, len(task.train)), choose)
        self.rule.merge(self.measure(chosen), self.context.parameters, task=task.name)

    def state_dict(self) -> dict[str, Any]:
        """The state of the merging rule."""
        return self.rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it, on the parameters' device."""
        self.rule.load_state_dict(state, self.context.device)


def mean_over_samples(
    context: Context,
    samples: Sequence[Sample],
    *,
    of: Callable[[Output], Tensor],
    size: Callable[[Tensor], Tensor],
) -> Tensors:
    """Mean over `samples` of `size(∂ of(output) / ∂θ)`, float32.

    Of each sample's own gradient: squares and absolute values of a batch's mean gradient would shrink with the batch.

    Args:
        context: the model at its present weights, and its features.
        samples: at least one.
        of: (B,) what is differentiated, of each sample's output.
        size: elementwise, of the gradient.

    Raises:
        UserError: a gradient is not finite; the message names the sample and the parameter.
    """
    parameters = context.parameters
    module = context.lmm.module()
    context.features.ensure(samples)
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    with evaluating(module):
        for some in _alike(samples, at_once=samples_at_once(parameters)):
            for part, gradients in _gradients(context, parameters, some, of):
                for name, each in gradients.items():
                    total[name] += _summed(size(each), name, part)
    return {name: value / len(samples) for name, value in total.items()}


def _alike(samples: Sequence[Sample], *, at_once: int) -> Iterator[list[Sample]]:
    """Groups of samples with the same number of images, `at_once` at most.

    In a group of 2 and 0 images the connector also has two rows, but they are not the two samples.
    """
    by_images: dict[int, list[Sample]] = {}
    for sample in samples:
        by_images.setdefault(len(sample.images), []).append(sample)
    for alike in by_images.values():
        for start in range(0, len(alike), at_once):
            yield alike[start : start + at_once]


def _gradients(
    context: Context, parameters: Mapping[str, nn.Parameter], samples: Sequence[Sample], of: Callable[[Output], Tensor]
) -> Iterator[tuple[Sequence[Sample], Tensors]]:
    """Samples and {name: (samples, ...) gradients of each}: all at once where the model allows it, else one by one.

    The first and the last sample are compared with their gradients alone: parts that add up may still be exchanged.
    """
    module = context.lmm.module()

    def batch_of(some: Sequence[Sample]) -> Batch:
        return context.lmm.collate(some, context.features.get(some))

    def alone(sample: Sample) -> Tensors:
        value = of(module(batch_of([sample])))
        if not value.requires_grad:  # a text-only sample has no gradient if only the visual tokens are trained
            return {}
        found = torch.autograd.grad(value.sum(), list(parameters.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}

    if len(samples) > 1:
        together = gradients_of(module, parameters, batch_of(samples), of, count=len(samples))
        if together is not None and all(
            _equal({name: each[at] for name, each in together.items()}, alone(samples[at]), context.lmm.dtype)
            for at in (0, -1)
        ):
            yield samples, together
            return
    for sample in samples:
        yield [sample], {name: gradient[None] for name, gradient in alone(sample).items()}


def _equal(ours: Tensors, right: Tensors, dtype: torch.dtype) -> bool:
    """Whether two gradients of one sample are equal but for rounding in `dtype`, parameter by parameter.

    Some are zero but for rounding (a bias of attention's keys): so they are measured by the whole gradient too.
    """
    tolerance, zero = max(1e-3, torch.finfo(dtype).eps ** 0.5), torch.zeros(())
    scale = 1e-2 * torch.stack([gradient.norm() for gradient in right.values()] or [zero]).norm()
    pairs = [(ours.get(name, zero), right.get(name, zero)) for name in ours.keys() | right.keys()]
    return all(bool((one - other).norm() <= tolerance * (other.norm() + scale)) for one, other in pairs)


def _summed(values: Tensor, name: str, samples: Sequence[Sample]) -> Tensor:
    """The sum over samples of (samples, ...) values, which are finite."""
    total = values.sum(0)
    if not torch.isfinite(total.sum()):
        whole = torch.isfinite(values).flatten(1).all(1)
        sample = samples[int(whole.float().argmin())]
        raise UserError(
            f"the gradient of {name} is not finite at the sample {sample.id} ({sample.origin}), so no importance can "
            "be estimated from it. Look at this sample, or lower train.learning_rate"
        )
    return total


def _on(device: torch.device, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: t.to(device) for name, t in tensors.items()}
