"""What a reader of a leaderboard must know: marks of a line in a few words, notes on a benchmark in a sentence each.

A mark names what one would not expect (a method below plain tuning, or above training on everything at once) and
whether seeds explain it: differences are paired by seed.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from evertune.experiments.grid.results import not_alike
from evertune.experiments.leaderboard.sources import Run
from evertune.metrics.statistics import t_interval

if TYPE_CHECKING:
    from evertune.experiments.leaderboard.board import Line

FEWEST_SEEDS, MOST_WARNINGS = 3, 5
VISIBLE = 0.1
"""Points: a smaller difference of final averages is not marked."""
Finals = Mapping[str, Mapping[int, float]]
"""By line, the final average of each seed."""


def marks_of(line: Line, ranked: Sequence[Line], lines: Sequence[Line], finals: Finals) -> Iterator[str]:
    """Of a ranked line.

    Args:
        line: the line.
        ranked: all ranked lines, from the highest to the lowest.
        lines: all of the benchmark, references too.
        finals: their final averages.
    """
    if line.stores_samples is None:
        yield "unknown method"
    elif line.needs_task_id is None:
        yield "unknown options"
    baseline = next((one for one in ranked if one.baseline), None)
    joint = next((one for one in lines if one.reference and one.scores["final_average"]), None)
    if baseline and line is not baseline:
        yield from _surprise(line, baseline, finals, sign=-1)
    if joint:
        yield from _surprise(line, joint, finals, sign=1)
    if (count := len(line.seeds)) < FEWEST_SEEDS:
        yield f"{count} seed{'s' if count > 1 else ''} only"
    usual = Counter(one.seeds for one in lines).most_common(1)[0][0]
    if line.seeds != usual and count >= FEWEST_SEEDS:
        yield f"seeds {', '.join(map(str, line.seeds))}"
    if line.disputed:
        yield "another file has other scores for the same seeds"


def _surprise(line: Line, other: Line, finals: Finals, *, sign: int) -> Iterator[str]:
    """`below sequential`, `above joint`; `within noise` where the interval of the paired differences includes zero."""
    own, theirs = finals[line.method], finals[other.method]
    differences = [sign * (own[seed] - theirs[seed]) for seed in own if seed in theirs]
    if not differences or statistics.fmean(differences) < VISIBLE:
        return
    interval = t_interval(differences)
    noise = " (within noise)" if interval is None or interval[0] <= 0 else ""
    yield f"{'above' if sign > 0 else 'below'} {other.method}{noise}"


def notes_of(runs: Sequence[Run]) -> Iterator[str]:
    """On a benchmark: warnings of its runs, what is not recorded, and runs that were not made alike."""
    by_text: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for warning in map(str, run.matrix.warnings):
            by_text.setdefault(re.sub(r"\d+(?:\.\d+)?", "#", warning), []).append((warning, run.matrix.method))
    if len(by_text) > MOST_WARNINGS:
        yield f"{len(by_text)} different warnings, of which {MOST_WARNINGS} are shown"
    for found in list(by_text.values())[:MOST_WARNINGS]:
        texts = list(dict.fromkeys(text for text, _ in found))
        others = f", and {len(texts) - 1} more with other numbers" if len(texts) > 1 else ""
        yield f"warning of {len(found)} of {len(runs)} runs: {texts[0]}{others}"
    if lacking := sum(run.made_with is None for run in runs):
        yield f"{lacking} of {len(runs)} runs record no torch, dtype and device"
    recorded = [{"model": run.matrix.model, "made_with": run.made_with} for run in runs if run.made_with]
    yield from not_alike(recorded)
