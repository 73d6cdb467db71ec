"""Merging: after each task the weights become a combination of those of all tasks, in the space of weights.

The rules (`merge_rules.py`) differ in the combination. Where LoRA trains, its product B A is merged, not A and B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from evertune.data.task import Task
from evertune.methods.base import Context, Method, MethodInfo
from evertune.methods.low_rank import fresh
from evertune.methods.merge_rules import Average, MagMax, Rule, TaskArithmetic, WiSE
from evertune.methods.merge_steps import MovingAverage, PerturbAndMerge
from evertune.models.points import Pair, Point, WeightSpace
from evertune.models.weights import bytes_of, copy_of, restore
from evertune.utils.errors import UserError

RULES: dict[str, type[Rule]] = {
    "average": Average,
    "arithmetic": TaskArithmetic,
    "magmax": MagMax,
    "wise": WiSE,
    "pm": PerturbAndMerge,
    "ema": MovingAverage,
}


class Merge(Method):
    """Train each task, then merge its weights with those of before.

    Args:
        rule: 'average' of all tasks, 'arithmetic' (a scaled sum of what tasks changed), 'magmax' (of each weight the
            largest change), 'wise' (between base model and now), 'pm' (P&M: the best point on the line, by Fisher
            information; training perturbs along it), 'ema' (LCA: a running average of every step).
        begin: the weights that a task's training starts from: of the 'base' model, the 'latest' trained ones, or the
            'merged' ones; None is the rule's own: base for average and arithmetic, latest for magmax and wise, merged
            for pm and ema, which have no other.
        scale: λ of arithmetic (0.4), magmax (0.5) and wise (0.5); None is that default.
        weight: w of ema, 0..1; None: computed for every tensor and step, as in LCA.
        samples: training samples per task that the Fisher information of pm is estimated from.
        perturb: the factor ε of pm: a step's gradient is computed at θ, θ + ε Δ or θ - ε Δ; 0 merges alone.
    """

    name = "merge"
    about = MethodInfo(
        title="merging of weights after each task",
        kind="merging",
        paper="average: Izmailov et al. 2018, arXiv 1803.05407; arithmetic: Ilharco et al. 2023, arXiv 2212.04089; "
        "MagMax: Marczak et al. 2024, arXiv 2407.06322; WiSE: Wortsman et al. 2022, arXiv 2109.01903; "
        "P&M: arXiv 2505.22389; EMA: Qiao et al. 2024 (LCA), arXiv 2410.10868",
        formula="average: m <- m + (θ_t - m) / t; arithmetic: θ_0 + λ Σ_t (θ_t - θ_0); magmax: θ_0 + λ (the change of "
        "largest absolute value, entry by entry); wise: (1 - λ) θ_0 + λ θ_t; pm: m <- m + a (θ_t - m); "
        "ema: θ* <- (1 - w) θ* + w θ in every step",
        cost="one copy of the trained weights more; beside LoRA up to a matrix per adapted layer; pm: two numbers per "
        "merged weight, and one backward pass per Fisher sample; ema: three copies while training",
        fails="where tasks moved the same weights in different directions: a mean is good for none of them",
    )
    needs_start = True
    rules: ClassVar[Mapping[str, type[Rule]]] = RULES

    def __init__(
        self,
        *,
        rule: Literal["average", "arithmetic", "magmax", "wise", "pm", "ema"] = "average",
        begin: Literal["base", "latest", "merged"] | None = None,
        scale: float | None = None,
        weight: float | None = None,
        samples: int = 128,
        perturb: float = 0.5,
    ) -> None:
        kind = self.rules[rule]
        for option, value in (("scale", scale), ("weight", weight)):
            if value is not None and option not in kind.takes:
                fitting = ", ".join(name for name, each in self.rules.items() if option in each.takes)
                raise UserError(f"merge.{option} needs merge.rule={fitting}")
        if begin not in (None, kind.begin) and kind.only_begin:
            raise UserError(f"merge.rule={rule} always starts a task from the {kind.begin} weights: leave out begin")
        if not 0 <= (1.0 if weight is None else weight) <= 1:
            raise UserError(f"merge.weight must lie between 0 and 1, not {weight}")
        if samples < 1 or not perturb >= 0:
            raise UserError("merge.samples must be at least 1 and merge.perturb 0 or more")
        self.rule, self.begin, self.scale, self.weight = rule, begin, scale, weight
        self.samples, self.perturb = samples, perturb
        self.acts_from_first_task = kind.acts_from_first_task

    def setup(self, context: Context) -> None:
        """Start at the base model."""
        super().setup(context)
        self._space = WeightSpace(context.lmm, context.start)
        for layer in self._space.adapters:
            self._space.keep(layer, [])
        self._rule = self.rules[self.rule](self, self._space)
        self._rule.setup(context)
        self._begin = self.begin or self._rule.begin
        self._latest: dict[str, Tensor] = {}
        self._count = 0
        self.merged: Point = self._space.start()
        """The merged weights before the task."""

    def on_known_task(self, task: Task) -> None:
        """The rule may measure what the base model knows."""
        self._rule.on_known_task(task)

    def before_task(self, task: Task) -> None:
        """Remember the merged weights, and put those that training starts from into the model."""
        self.merged = self._space.point()
        if self._begin == "base":
            self._space.put(self._space.start())
        elif self._begin == "latest" and self._count:
            self._space.put(self._space.start())
            restore(self.context.parameters, self._latest)
        elif self._begin == "merged" and self._count and self._rule.renews:
            self._renew(task)
        self._rule.before_task(task)

    def _renew(self, task: Task) -> None:
        """Adapters of a method's: what is merged stays beside a new one, which alone trains."""
        words = ("merge", str(self.context.seed), task.name, str(self._count))
        for layer in self._space.adapters:
            self._space.keep(layer, self.merged.pairs[layer])
        restore(self.context.parameters, fresh(self._space.adapters, words))

    def adds_to_loss(self) -> bool:
        """Only rules with steps of their own."""
        return self._rule.adds_to_loss()

    def after_backward(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """For rules with steps of their own."""
        self._rule.after_backward(parameters)

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """For rules with steps of their own."""
        self._rule.after_step(parameters)

    def after_task(self, task: Task) -> None:
        """Merge."""
        self._rule.before_merging()
        trained = self._space.point()
        if self._begin == "latest":
            self._latest = copy_of(self.context.parameters)
        self._count += 1
        lost = self._space.put(self._rule.combination(self.merged, trained, count=self._count, task=task))
        if self._space.own:
            self.log("lost", lost)

    def holds_at_most(self) -> int:
        """The latest weights, a full matrix beside each adapter, and what the rule keeps."""
        shapes = [(len(a.up), a.down.shape[1]) for a in self._space.adapters.values()]
        beside = 4 * sum(min(shape) * sum(shape) for shape in shapes)
        return bytes_of(self.context.parameters) + beside + (self._rule.holds_at_most() or 0)

    def progress_dict(self) -> dict[str, Any]:
        """What the rule has collected in this task."""
        return self._rule.progress_dict()

    def load_progress_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._rule.load_progress_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """What is beside the adapters, the latest trained weights if training starts there, and the rule's."""
        kept = {path: _named(a.kept()) for path, a in self._space.adapters.items() if len(a.kept()[1])}
        return {"count": self._count, "kept": kept, "latest": self._latest, "rule": self._rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._count, self._latest = state["count"], dict(state["latest"])
        for layer in self._space.adapters:
            pair = state["kept"].get(layer)
            self._space.keep(layer, [(pair["up"], pair["down"])] if pair else [])
        self._rule.load_state_dict(state["rule"])


def _named(pair: Pair) -> dict[str, Tensor]:
    return {"up": pair[0], "down": pair[1]}
