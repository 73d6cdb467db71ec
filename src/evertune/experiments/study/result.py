"""Everything that a study has found so far, in one value: for `study.json`, the page, the Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from evertune.experiments.grid.cells import held_out_note
from evertune.experiments.study.choose import ChosenValue
from evertune.experiments.study.findings import Comparison, Finding, findings, variants
from evertune.experiments.study.run import Study, StudyOutcome
from evertune.reporting.labels import signed
from evertune.reporting.tables import ComparisonRow, compare
from evertune.utils.config_io import value_text

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Result:
    """What a study has found so far.

    Attributes:
        progress: finished and all runs of each part.
        failed: why runs failed, by their name.
        stopped: what kept the rest from being started.
    """

    name: str
    title: str
    progress: dict[str, tuple[int, int]]
    findings: list[Finding]
    rows: list[ComparisonRow]
    variants: list[Comparison]
    choices: list[ChosenValue]
    notes: list[str]
    failed: dict[str, str]
    stopped: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For `study.json` and `--json`."""
        return {
            "format": FORMAT,
            "name": self.name,
            "evertune": version("evertune"),
            "progress": {part: {"finished": done, "runs": all_} for part, (done, all_) in self.progress.items()},
            "findings": [finding.as_dict() for finding in self.findings],
            "rows": [asdict(row) for row in self.rows],
            "variants": [one.as_dict() for one in self.variants],
            "chosen": [asdict(choice) for choice in self.choices],
            "notes": self.notes,
            "failed": self.failed,
            "stopped": self.stopped,
        }


def result_of(study: Study, ended: StudyOutcome | None = None) -> Result:
    """Evaluate the `results.json` files that there are; `ended` says how the runs of just now went."""
    ended = ended or StudyOutcome()
    spec, choices = study.spec, study.choices()
    measured = study.measured()
    held_out = [f"{grid.name}: {note}" for _, grid in spec.grids() if (note := held_out_note(grid))]
    return Result(
        name=spec.name,
        title=spec.title or spec.name,
        progress=_progress(study),
        findings=findings(measured, spec.questions) if spec.questions else [],
        rows=compare(measured),
        variants=variants(measured),
        choices=choices,
        notes=[*ended.notes, *held_out, *_edges(choices)],
        failed=ended.failed,
        stopped=ended.stopped,
    )


def _progress(study: Study) -> dict[str, tuple[int, int]]:
    found, parts = study.results(), study.spec.parts
    return {part: (sum(len(found[grid.name]) for grid in grids), study.size(part)) for part, grids in parts.items()}


def _edges(choices: Sequence[ChosenValue]) -> list[str]:
    """One note on all choices at the end of their lists: there a list may have been too short."""
    found = ", ".join(f"{choice.key} of {choice.method} on {choice.base}" for choice in choices if choice.at_edge)
    return [f"the first or the last value listed was chosen, so the best may lie beyond: {found}"] if found else []


def interval_text(one: Comparison) -> str:
    """`+3.2 [+1.1, +5.3]`, the interval being the t-interval; without it when there is only one unit."""
    interval = one.interval()
    return signed(one.estimate) + (f" [{signed(interval[0])}, {signed(interval[1])}]" if interval else "")


def bootstrap_text(one: Comparison) -> str:
    """`[+1.4, +4.9]`, the interval of a percentile bootstrap; empty where there is none."""
    found = one.bootstrap()
    return f"[{signed(found[0])}, {signed(found[1])}]" if found else ""


def why_not(one: Comparison) -> str:
    """Why a comparison is not measured; empty when it is."""
    if one.missing:
        more = f" and {len(one.missing) - 2} more" if len(one.missing) > 2 else ""
        return "missing: " + "; ".join(map(str, one.missing[:2])) + more
    return "" if one.interval() else "one unit only: no interval"


def in_short(finding: Finding) -> str:
    """`+12.1 [+8.0, +16.2]` for one comparison; how many of several hold, and the range of their means."""
    deciding = [one for one in finding.comparisons if one.decides]
    means = [one.estimate for one in deciding if one.estimate is not None]
    if not means:
        return "no runs yet"
    if len(deciding) == 1:
        return interval_text(deciding[0])
    verdicts = [one.verdict() for one in deciding]
    confirmed, against = verdicts.count("confirmed"), verdicts.count("contradicted")
    counts = f"{confirmed} of {len(deciding)} confirmed" + (f", {against} contradicted" if against else "")
    low, high = signed(min(means)), signed(max(means))
    between = low if low == high else f"{low} to {high}"
    return f"{counts}; means {between}"


def choice_lines(result: Result) -> list[list[str]]:
    """Setting, method, stream, chosen value and the mean of each value that was tried, of every choice."""
    return [
        [c.key, c.method, c.base, value_text(c.value), ", ".join(f"{value_text(v)}: {m:.1f}" for v, m in c.means)]
        for c in result.choices
    ]
