"""`--method auto`: which method a model gets that is taught what comes, month after month. The rule, and why.

One expert per kind of data, and none that the router could not find: `eproj` with the calibrated router, each expert
started from the most similar one, and an expert trained further where new data are of a kind that is known. It is fixed
when the model is made; what is left to decide for every task is decided by its router. Measured in docs/service.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evertune.methods import parts_of
from evertune.methods.base import TaskPreview
from evertune.utils.errors import UserError

AUTO = "auto"
METHOD = "eproj"
SETTINGS = ("eproj.router=calibrated", "eproj.init=similar", "eproj.expand=when-separable")
RATIO = 0.3
"""Of the ratios tried (0.01, 0.03, 0.1, 0.3) the one that lost least on held-out seeds: docs/study.md."""


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A method for a task.

    Attributes:
        replay: share of each earlier task's samples to train again.
    """

    method: str
    replay: float
    why: str


def settled(method: str, settings: Sequence[str]) -> tuple[str, list[str]]:
    """The method and the settings of a new model: `auto` stands for ours, before which the user's own count."""
    if method != AUTO:
        return method, list(settings)
    return METHOD, [*SETTINGS, *settings]


def refuse_other(method: str | None, own: str) -> None:
    """A model keeps one method for life: its experts or penalties mean nothing to another.

    Raises:
        UserError: `method` is another than the model's own, and not `auto`.
    """
    if method not in (None, AUTO, own):
        raise UserError(
            f"this model was made with {own}, and what that keeps means nothing to {method}: leave out --method, "
            f"or make another model with evertune new --method {method}"
        )


def chosen(method: str, foreseen: TaskPreview | None, *, task: str, earlier: int) -> MethodChoice:
    """What to do with `task` in a model that has `method` and knows `earlier` tasks."""
    if foreseen is not None:
        return MethodChoice(method, 0.0, _of_experts(foreseen, task))
    if "replay" in parts_of(method):
        return MethodChoice(method, RATIO, "it replays already; of the shares that were tried this one lost least")
    if not earlier:
        return MethodChoice(method, 0.0, "it knows no task yet that could be forgotten")
    return MethodChoice(
        "replay", RATIO, "all weights are one here: train old samples again, or make a model with --method auto"
    )


def _of_experts(foreseen: TaskPreview, task: str) -> str:
    if foreseen.expert != task:
        share = foreseen.taken.get(foreseen.expert, 0.0)
        return f"train expert {foreseen.expert} further: {100 * share:.0f} % of the questions look like its own"
    known = 1 - sum(foreseen.taken.values())
    return f"an expert of its own: the router knows {100 * known:.0f} % of its questions"
