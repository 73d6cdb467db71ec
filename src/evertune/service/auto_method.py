"""`--method auto`: the rule that chooses the method of a model in service, and its reasons.

The rule is `eproj` with the calibrated router: one expert per kind of data, but none that the router could not
identify. Each expert starts from the most similar one; for data of a known kind an existing expert is trained further.
The method is fixed when the model is made; the router decides the rest for every task. Measurements are in
docs/service.md.
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
"""Of the ratios 0.01, 0.03, 0.1 and 0.3 the one that lost least on held-out seeds (docs/study.md)."""


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
    """The method and the settings of a new model: `auto` sets ours, and the user's own settings take precedence."""
    if method != AUTO:
        return method, list(settings)
    return METHOD, [*SETTINGS, *settings]


def refuse_other(method: str | None, own: str) -> None:
    """A model keeps its method: its experts or penalties mean nothing to another method.

    Raises:
        UserError: `method` is another than the model's own, and not `auto`.
    """
    if method not in (None, AUTO, own):
        raise UserError(
            f"this model was made with {own}, and what that keeps means nothing to {method}: leave out --method, "
            f"or make another model with evertune new --method {method}"
        )


def chosen(method: str, foreseen: TaskPreview | None, *, task: str, earlier: int) -> MethodChoice:
    """The method for `task` in a model that has `method` and knows `earlier` tasks."""
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
    own = 1 - sum(foreseen.taken.values())
    return f"an expert of its own, which the router would choose for {100 * own:.0f} % of its questions"
