"""The method protocol: hooks of a continual-learning method around the training loop.

A method is one file. It returns data, loss terms and gradients; it never touches the optimizer, the loader or the
loop. Every hook has a default that does nothing, so a method implements only what it needs. Several methods run as a
list, each hook called in that order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from evertune.data.task import Sample, Task
from evertune.models.features import Features
from evertune.models.protocol import LMM, Batch, Output, TrainableEncoder
from evertune.models.regions import NAMES as REGIONS
from evertune.models.regions import in_region, is_region
from evertune.utils.arguments import plain_number, typed_options
from evertune.utils.errors import UserError, kind_of

Kind = Literal["baseline", "bound", "replay", "regularization", "merging", "adapter", "expansion"]

PROTOCOL = 1
"""Version of the hooks of `Method`; a new one is made when a method written for the old ones would not run."""
BASE = "(base)"
"""Name of the expert that is the base model; not a valid name of a task."""


Route = str | Mapping[str, float]
"""The expert that answers a sample, or several with their weights."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """Text for `evertune show METHOD`."""

    title: str
    kind: Kind
    paper: str = ""
    formula: str = ""
    cost: str = ""
    fails: str = ""


@dataclass(frozen=True, slots=True)
class TaskPreview:
    """The effect of an expansion on a task, computed before it is learned.

    Attributes:
        expert: the expert that would learn it: a new one with the task's name, or an existing one.
        taken: other experts -> the share of the task's questions that they would answer although it was learned.
        lost: other tasks -> the share of their questions that would go to `expert` and do not go there now.
    """

    expert: str
    taken: Mapping[str, float]
    lost: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Context:
    """The resources of a method: the model, its start point, the frozen features and the run's seed.

    In the Trainer of `transformers` (`evertune.integrations.transformers`), `lmm` is a bare module and the rows that it
    reads: it trains, and its loss is there sample by sample. There are no features and no start point then.
    """

    lmm: TrainableEncoder
    features: Features
    seed: int
    start: Mapping[str, Tensor] = field(repr=False)
    keep: Callable[[Sample], Sample] = field(default=lambda sample: sample, repr=False)
    """For a method that stores samples: copies the images into the run folder and names them by content, not place."""
    kept: Callable[[Sample], Sample] = field(default=lambda sample: sample, repr=False)
    """The reverse: a stored sample with the current paths of its images."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""
        return self.lmm.trainable()

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.lmm.device

    def named(self, region: str) -> list[str]:
        """The trained parameters in a region: `attention`, `mlp`, `gate-up`, `last-4` blocks, `one-per-block`, a scope.

        Colons narrow: `attention:last-4`. For `is_trainable`, and for methods that treat some layers otherwise.

        Raises:
            UserError: there is no such region or scope.
        """
        scopes, names = self.lmm.scopes(), list(self.parameters)
        for part in region.split(":"):
            if part in scopes:
                names = [name for name in names if name in set(scopes[part])]
            elif is_region(part):
                names = in_region(names, part)
            else:
                raise UserError(f"there is no region {part!r:.60}: a scope ({', '.join(scopes)}), {REGIONS}")
        return names

    def output(self, samples: Sequence[Sample]) -> Output:
        """The forward pass over the answers of `samples`, with gradients, as training runs it.

        Images of samples that were not seen yet are encoded first. The model stays in the mode that it is in.

        Raises:
            UserError: they are no samples, or none.
        """
        if not isinstance(samples, Sequence) or not len(samples) or not isinstance(samples[0], Sample):
            raise UserError(f"the samples of a loss are {kind_of(samples)}; taken is a list of Samples, one at least")
        self.features.ensure(samples)
        batch = self.lmm.collate(samples, self.features.get(samples)).to(self.lmm.device)
        output: Output = self.lmm.module()(batch)
        return output

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        """The loss of `samples` with its gradient: the mean over samples of the mean over answer tokens."""
        return self.losses(samples).mean()

    def losses(self, samples: Sequence[Sample]) -> Tensor:
        """(B,) the loss of each sample, the mean over its answer tokens, with gradients."""
        output = self.output(samples)
        return output.nll / output.tokens

    def logits(self, samples: Sequence[Sample]) -> Tensor:
        """(N, vocabulary) logits with gradients at the N answer positions, sample after sample (`Output.tokens`)."""
        return self.output(samples).logits


LOGGED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of values that methods log: trackers make paths and keys of them."""


class Method:
    """A method that does nothing; subclasses override the hooks they need.

    Options are keyword-only arguments of `__init__`; their names, types and defaults are what `--set` accepts.
    """

    name: ClassVar[str]
    about: ClassVar[MethodInfo]
    protocol: ClassVar[int] = PROTOCOL
    """The version of the hooks that it is written for: say `protocol = 1`, and a newer evertune can tell."""
    sequential_equivalent: ClassVar[Mapping[str, Any] | None] = None
    """Options under which the method must be bit-identical to `sequential`; None if there are none."""
    in_model_dtype: ClassVar[bool] = False
    """Whether trained weights are converted to the model's dtype after the task; else they stay float32."""
    needs_start: ClassVar[bool] = False
    """Whether it needs the weights of the start point, which a Trainer does not have."""
    acts_from_first_task: bool = False
    """Whether even the first task is trained otherwise than alone: say so, or `check_method` takes it for a mistake."""
    context: Context

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """An unknown option is an error that names the nearest."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = typed_options(cls.__init__)  # type: ignore[method-assign]

    if not TYPE_CHECKING:  # else every attribute would seem to be there

        def __getattr__(self, name: str) -> Any:
            """Only of what is not there: why a method has no context.

            Raises:
                AttributeError: always.
            """
            why = ": it has one after setup, and a setup of its own begins with super().setup(context)"
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}{why if name == 'context' else ''}"
            )

    def combine(self, methods: Sequence[Method]) -> None:
        """Called before `setup` with all methods of the run, this one included, so that a modifier finds the methods it
        modifies.

        May be called again with the same methods.

        Raises:
            UserError: a required method is missing.
        """

    def adapt(self, lmm: LMM, *, seed: int) -> LMM:
        """The model that is trained: `lmm` itself, or one with parameters of the method's own (`models/adapters.py`).

        Called once, before the start point is taken and before `setup`. What `trainable()` of the result holds is
        trained, hashed, saved and put back like the parameters of any family.
        """
        return lmm

    def setup(self, context: Context) -> None:
        """Called once before anything else. The run's seed is set, so parameters may be created from now on."""
        self.context = context

    def on_known_task(self, task: Task) -> None:
        """Called once per task that the model knows before the stream begins, in order, after `setup`.

        Called only at stage 0: later stages have its effect in their `state_dict`. The features of `task.train` are
        available.
        """

    def stages(self, tasks: Sequence[Task]) -> list[Task]:
        """The training tasks in order; default: the tasks of the stream."""
        return list(tasks)

    def is_trainable(self, parameter: str) -> bool:
        """Whether the parameter of this name trains; by default all of `LMM.trainable()` do."""
        return True

    def before_task(self, task: Task) -> None:
        """Called before the first step of `task`."""

    def data_plan(self, task: Task, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The samples of one epoch of `task`; gets the plan of the methods before it, starting with `task.train`."""
        return samples

    def loss_terms(self, batch: Batch, output: Output) -> dict[str, Tensor]:
        """Terms added to the loss of each micro-batch, by name: means over the batch, as `Output.mean` makes them."""
        return {}

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Called once per optimizer step, gradients accumulated: the place for closed-form gradients."""

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Called after each optimizer step."""

    def after_task(self, task: Task) -> None:
        """Called after the last step of `task`, before the stage is saved."""

    def log(self, name: str, value: float | Tensor) -> None:
        """Record a value of this optimizer step as `METHOD/NAME`: in `training.jsonl`, trackers and the report.

        For `loss_terms`, `after_backward` and `after_step`; the mean of several in one step counts. What is logged
        before the first step belongs to the first, after the last step (`after_task`) to the last. A value that is not
        finite is left out. Loss terms are logged by themselves. Of several processes, the first one's values count.

        Raises:
            UserError: the name has other characters than letters, digits, `_`, `.` and `-`, or the value is no number.
        """
        value = plain_number(value)
        if not isinstance(name, str) or not LOGGED.fullmatch(name):
            raise UserError(f"{self.name} logs {name!r:.80}: names have letters, digits, '_', '.' and '-' only")
        if not isinstance(value, int | float) and not (isinstance(value, Tensor) and value.numel() == 1):
            raise UserError(f"{self.name} logs {kind_of(value)} as '{name}': a value is a number, or a tensor of one")
        self.__dict__.setdefault("_logged", {}).setdefault(name, []).append(value)

    def take_logged(self) -> dict[str, float]:
        """What was logged since the last call, by `METHOD/NAME`; the loop calls it after each step."""
        taken: dict[str, list[float | Tensor]] = self.__dict__.pop("_logged", {})
        means = {name: sum(float(value) for value in values) / len(values) for name, values in taken.items()}
        return {f"{self.name}/{name}": mean for name, mean in means.items() if math.isfinite(mean)}

    def route(self, samples: Sequence[Sample]) -> Sequence[Route] | None:
        """The expert of each sample, inferred from image and instruction; None when there are none.

        A name, or the weight of each of several experts: `{"digits": 0.7, "gqa": 0.3}`. Then each adapter adds the
        weighted sum of what it adds with each of them, and what is trained in full is their weighted mean. Samples of
        the same weights are answered in one batch, and the expert of the largest weight counts as theirs.
        """
        return None

    def layer_weights(self, layer: str, weights: Mapping[str, float]) -> Mapping[str, float]:
        """The weight of each expert in one adapted layer, for a sample that is routed with `weights`: by default those.

        A method may name experts here that `route` never does; `activate` gets their names.
        """
        return weights

    def ranking(self, sample: Sample) -> list[tuple[str, float]]:
        """The learned tasks that a sample may be from with the router's probability of each, the likeliest first.

        Empty where nothing is routed. The probabilities sum to 1.
        """
        return []

    def preview_task(self, task: Task, others: Sequence[Task]) -> TaskPreview | None:
        """The effect of learning `task` on its routing and on that of the test questions of `others`.

        Nothing is changed. None for a method without experts, whose effect is unknown before training.
        """
        return None

    def needs_task_id(self) -> bool:
        """Whether it needs the task of a question: then `expert_of` decides, and not `route`.

        Results state it (`"task_id": "given"`), and `check_method` rejects a method that uses the task without
        declaring it.
        """
        return False

    def expert_of(self, task: str) -> str | None:
        """Name of the expert that serves the task of this name; None when there is none (yet)."""
        return None

    def activate(self, expert: str) -> None:
        """Put the weights of `expert` into the model."""

    def adds_to_loss(self) -> bool:
        """Whether training the next task differs from plain training on the data plan."""
        cls = type(self)
        return any(
            getattr(cls, hook) is not getattr(Method, hook) for hook in ("loss_terms", "after_backward", "after_step")
        )

    def grows_by(self) -> int:
        """Most bytes that the state grows by with each task: 0, or the size of a key or an embedding.

        Only an expansion may grow by more, and need not declare it.
        """
        return 0

    def holds_at_most(self) -> int | None:
        """Bytes of tensors that the state never exceeds, for a bounded buffer, which grows until it is full; else None.

        `check_method` then allows the state to grow up to this instead of by `grows_by`.
        """
        return None

    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Take what was learned on `task` out of the state, as if it had never been learned.

        By default there is nothing to take out where the method keeps nothing and trains no task otherwise than alone.

        Args:
            task: one that has an expert of its own.
            before: the state of `state_dict` at the stage before it.
            after: the state at its stage.

        Raises:
            UserError: other tasks rest on it; the message says how. The state is unchanged then.
        """
        if self.state_dict() or self.adds_to_loss() or type(self).data_plan is not Method.data_plan:
            raise UserError(f"'{self.name}' has carried '{task}' into the training of later tasks")

    def progress_dict(self) -> dict[str, Any]:
        """The state that has changed since `before_task`, beside the parameters, for resuming mid-task.

        To resume, the learner loads the last stage and calls `before_task` first. So a method needs this only if it
        collects something step by step (`loss_terms`, `after_backward`, `after_step`). Tensors, and JSON values.
        """
        return {}

    def load_progress_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `progress_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """The permanent state: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`."""
