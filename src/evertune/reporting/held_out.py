"""What a run says of abilities that no task trains: the scores of its probes, and the loss on the text probe.

Checked as a whole like the matrix that it is part of, since the file may be of any origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from evertune.metrics.metrics import is_score
from evertune.metrics.statistics import Interval
from evertune.reporting.frames import wide_frame
from evertune.reporting.labels import number, signed
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CHANGE, TEXT_CHANGE = "held_out_change", "text_loss_change"
FORMULAS = {
    CHANGE: "mean over the probes of their score after the last stage - that of the base model",
    TEXT_CHANGE: "loss per token on the text probe after the last stage - that of the base model",
}
"""By name, of what is computed from probes."""


@dataclass(frozen=True, slots=True)
class Change:
    """From the base model to the last stage.

    Attributes:
        value: points of a score, or nats per token; below 0 a score fell.
        interval: 95 %, by a bootstrap over the images of the questions, or over the passages of the text; None where
            these are too few, and where a score is not the mean of its questions' (BLEU).
    """

    value: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class TextProbe:
    """The loss per token on the fixed text, in nats, before and after.

    Attributes:
        base: of the base model.
        last: after the last stage; None while the run is in progress.
        tokens: that the text has for the model, an end token per passage included.
    """

    base: float
    last: float | None
    tokens: int
    change: Change | None = None


@dataclass(frozen=True, slots=True, repr=False)
class HeldOut:
    """What became of abilities that no task trains.

    Attributes:
        probes: their names.
        scores: `scores[t][i]` is the score on probe i after stage t, row 0 that of the base model; points of 100. None
            where it was not evaluated.
        relaxed: the same with relaxed scores.
        changes: of each probe; None while the run is in progress, or where it was not evaluated before and after.
        change: of the mean over the probes.
        text: None where the text probe was not read.
        not_computed: by name, why there is no change.
    """

    probes: list[str] = field(default_factory=list)
    scores: list[list[float | None]] = field(default_factory=list)
    relaxed: list[list[float | None]] = field(default_factory=list)
    changes: list[Change | None] = field(default_factory=list)
    change: Change | None = None
    text: TextProbe | None = None
    not_computed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Any, *, rows: int) -> HeldOut:
        """What `to_dict` gave, for a matrix of so many rows.

        Raises:
            UserError: a value is missing or can't be one of a run.
        """
        if not isinstance(content, dict):
            raise UserError("'held_out' must be an object")
        probes, changes = content.get("probes"), content.get("changes")
        if not isinstance(probes, list) or not all(isinstance(name, str) for name in probes):
            raise UserError("'held_out': 'probes' must be names")
        for key in ("scores", "relaxed"):
            if not _are_scores(content.get(key), rows=rows, columns=len(probes)):
                raise UserError(f"'held_out': '{key}' must be {rows} rows of a score per probe")
        if not isinstance(changes, list) or len(changes) != len(probes):
            raise UserError("'held_out': 'changes' must have one per probe")
        reasons = content.get("not_computed")
        if not isinstance(reasons, dict) or not all(isinstance(text, str) for text in reasons.values()):
            raise UserError("'held_out': 'not_computed' must be texts by name")
        return cls(
            probes,
            content["scores"],
            content["relaxed"],
            [_change(each) for each in changes],
            _change(content.get("change")),
            _text(content.get("text")),
            reasons,
        )

    def to_dict(self) -> dict[str, Any]:
        """As `matrix.json` holds it."""
        return asdict(self)

    def metrics(self) -> dict[str, float | None]:
        """The two changes, as `matrix.json` has them among the metrics."""
        text = self.text.change if self.text else None
        return {CHANGE: self.change.value if self.change else None, TEXT_CHANGE: text.value if text else None}

    def lines(self) -> list[str]:
        """What the terminal says of them: a part per probe, the change with its interval, and the text probe."""
        evaluated = zip(self.probes, *(self.scores[at] for at in (0, -1)), strict=True)
        found = [f"probe {name} {number('', first)} → {number('', last)}" for name, first, last in evaluated]
        if self.change:
            found.append(f"held-out change {shown(self.change)}")
        return [*found, *([self.text_line()] if self.text else [])]

    def text_line(self) -> str:
        """The text probe in words; '' where it was not read."""
        if self.text is None:
            return ""
        if self.text.last is None or self.text.change is None:
            return f"text loss {self.text.base:.2f} per token"
        change = shown(self.text.change, TEXT_CHANGE)
        return f"text loss {self.text.base:.2f} → {self.text.last:.2f} per token: {change}"

    def to_frame(self, *, relaxed: bool = False) -> pd.DataFrame:
        """The scores as a pandas frame: rows are stages by number, 0 the base model, columns probes.

        Args:
            relaxed: the relaxed scores instead of the strict ones.

        Raises:
            UserError: pandas is not installed.
        """
        scores = self.relaxed if relaxed else self.scores
        return wide_frame(scores, stages=[str(number) for number in range(len(scores))], tasks=self.probes)

    def __repr__(self) -> str:
        text = f", text loss {self.text.base:.2f} before" if self.text else ""
        change = f", change {self.change.value:+.1f}" if self.change else ""
        return f"HeldOut({len(self.probes)} probes{change}{text})"


def shown(change: Change, name: str = CHANGE) -> str:
    """`−3.1 (95 %: −5.0 to −1.2)`; without an interval where there is none."""
    value = signed(change.value, name)
    if change.interval is None:
        return value
    low, high = (signed(end, name) for end in change.interval)
    return f"{value} (95 %: {low} to {high})"


def _are_scores(value: Any, *, rows: int, columns: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == rows
        and all(isinstance(row, list) and len(row) == columns for row in value)
        and all(score is None or is_score(score) for row in value for score in row)
    )


def _change(content: Any) -> Change | None:
    if content is None:
        return None
    if not isinstance(content, dict) or not is_score(content.get("value")):
        raise UserError(f"'held_out': a change is {content!r:.60}")
    ends = content.get("interval")
    if ends is None:
        return Change(content["value"])
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(map(is_score, ends)):
        raise UserError(f"'held_out': the interval of a change is {ends!r:.60}")
    return Change(content["value"], (ends[0], ends[1]))


def _text(content: Any) -> TextProbe | None:
    if content is None:
        return None
    if not isinstance(content, Mapping) or not is_score(content.get("base")) or type(content.get("tokens")) is not int:
        raise UserError(f"'held_out': 'text' is {content!r:.60}")
    last = content.get("last")
    if last is not None and not is_score(last):
        raise UserError(f"'held_out': 'text' has the loss {last!r:.60}")
    return TextProbe(content["base"], last, content["tokens"], _change(content.get("change")))
