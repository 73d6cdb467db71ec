"""What the hooks of a method return, checked where they are called: a wrong value would train something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from evertune.data.task import Sample, Task
from evertune.methods.base import LOGGED, Method
from evertune.models.protocol import Batch, Output
from evertune.utils.errors import UserError, kind_of


def terms_of(method: Method, batch: Batch, output: Output) -> dict[str, Tensor]:
    """The loss terms of a method for a micro-batch, each a tensor without dimensions.

    Raises:
        UserError: it returns something else.
    """
    found = method.loss_terms(batch, output)
    what = f"loss_terms of the method '{method.name}' returns"
    if not isinstance(found, Mapping):
        raise UserError(f"{what} {kind_of(found)}; expected a dictionary of terms by name, {{}} where there are none")
    for name, term in found.items():
        if not isinstance(name, str) or not LOGGED.fullmatch(name):
            raise UserError(f"{what} a term named {name!r:.80}: names have letters, digits, '_', '.' and '-' only")
        if not isinstance(term, Tensor) or term.numel() != 1:
            shape = f"a tensor of the shape {tuple(term.shape)}" if isinstance(term, Tensor) else kind_of(term)
            raise UserError(
                f"{what} {shape} for '{name}'; a term is a tensor of one value, the mean over the batch: "
                "output.mean(values) makes it of one value per sample"
            )
    return {name: term.reshape(()) for name, term in found.items()}


def planned_by(method: Method, task: Task, samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples of one epoch of a task.

    Raises:
        UserError: they are no sequence of samples, or there are none.
    """
    if not len(task.train):
        raise UserError(f"the task '{task.name}' has no training samples")
    plan = method.data_plan(task, samples)
    what = f"data_plan of the method '{method.name}' returns"
    if isinstance(plan, Mapping) or not (hasattr(plan, "__len__") and hasattr(plan, "__getitem__")):
        raise UserError(f"{what} {kind_of(plan)}; expected a sequence of samples, such as [*samples, *others]")
    if not len(plan):
        raise UserError(f"{what} no samples for the task '{task.name}', so there is nothing to train on")
    if not isinstance(plan[0], Sample):
        raise UserError(f"{what} {kind_of(plan[0])} in place of a Sample")
    return plan


def stages_by(method: Method, tasks: Sequence[Task]) -> list[Task]:
    """The training tasks in order.

    Raises:
        UserError: they are no list of tasks, or there are none.
    """
    stages = method.stages(tasks)
    if not isinstance(stages, list | tuple) or not stages or not all(isinstance(task, Task) for task in stages):
        raise UserError(f"stages of the method '{method.name}' returns {kind_of(stages)}; expected a list of tasks")
    return list(stages)


def expert_by(method: Method, task: str) -> str | None:
    """The expert of a task.

    Raises:
        UserError: it is no name.
    """
    expert = method.expert_of(task)
    if not isinstance(expert, str | None):
        raise UserError(
            f"expert_of of the method '{method.name}' returns {kind_of(expert)} for the task '{task}'; expected the "
            "name of an expert, or None"
        )
    return expert
