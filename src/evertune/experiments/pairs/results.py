"""From finished pairs to numbers: who loses what to whom, what is gained, and whether similarity tells. Pure functions.

R[t,k] of a pair (i, j): score on task k after i (t = 1) and after i, then j (t = 2). Matrices have a row per first
task i and a column per second task j.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from evertune.experiments.pairs.task_similarity import Square
from evertune.metrics.statistics import correlation

FORMAT = 2
MEASURES = ("forgetting", "forgetting_relaxed", "transfer")
FORMULAS = {
    "forgetting": "R[1,i] - R[2,i]: points that the first task lost while the second was learned",
    "forgetting_relaxed": "the same, by scores that accept the right answer in another form",
    "transfer": "R[2,j] - R*[j]: the second task after the first, less the second alone from the base model",
    "format": "strict forgetting - relaxed forgetting: lost in form only, not in knowledge",
    "correlation": "Spearman's rho over ordered pairs (means over seeds), 95 % percentile bootstrap over pairs",
}

Row = Mapping[str, Any]


def results_of(rows: Sequence[Row], similarity: Mapping[str, Any], *, header: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `pairs.json`.

    Args:
        rows: every ordered pair of every seed, as the workers wrote them.
        similarity: of the same tasks (`similarity_of_tasks`).
        header: what the numbers are about.
    """
    tasks = list(similarity["tasks"])
    pairs = judged(rows, similarity)
    correlations = _correlations(pairs)
    return {
        "format": FORMAT,
        **header,
        "tasks": tasks,
        "alone": {task: statistics.fmean(p["alone"]["strict"] for p in pairs if p["second"] == task) for task in tasks},
        **{name: square(tasks, pairs, itemgetter(name)) for name in MEASURES},
        "similarity": similarity["similarity"],
        "cosines": similarity["cosines"],
        "text_encoder": similarity["text_encoder"],
        "lost": format_share(pairs),
        "correlations": correlations,
        "notes": _notes(correlations, tasks, header),
        "formulas": {**FORMULAS, "similarity": similarity["formula"]},
        "pairs": pairs,
    }


def judged(rows: Sequence[Row], similarity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each row with what it means: forgetting, transfer, the second task alone, and how similar the two are."""
    place = {name: number for number, name in enumerate(similarity["tasks"])}
    alone = {(row["seed"], row["first"]): row["after_first"]["first"] for row in rows}
    result = []
    for row in rows:
        i, j = place[row["first"]], place[row["second"]]
        before, after, own = row["after_first"], row["after_second"], alone[row["seed"], row["second"]]
        result.append(
            {
                **row,
                "alone": own,
                "forgetting": before["first"]["strict"] - after["first"]["strict"],
                "forgetting_relaxed": before["first"]["relaxed"] - after["first"]["relaxed"],
                "transfer": after["second"]["strict"] - own["strict"],
                "similarity": similarity["similarity"][i][j],
                "cosines": {modality: table[i][j] for modality, table in similarity["cosines"].items()},
            }
        )
    return result


def over_seeds(pairs: Sequence[Row], value: Callable[[Row], float]) -> dict[tuple[str, str], list[float]]:
    """The values of each ordered pair, one per seed."""
    found: dict[tuple[str, str], list[float]] = {}
    for pair in pairs:
        found.setdefault((pair["first"], pair["second"]), []).append(value(pair))
    return found


def square(tasks: Sequence[str], pairs: Sequence[Row], value: Callable[[Row], float]) -> Square:
    """Means over seeds, a row per first and a column per second task; None on the diagonal."""
    found = over_seeds(pairs, value)
    return [[statistics.fmean(found[a, b]) if a != b else None for b in tasks] for a in tasks]


def format_share(pairs: Sequence[Row]) -> dict[str, float | None]:
    """Mean points lost, strictly and in relaxed form, and their difference: lost in form only.

    `share` is that difference as a part of the strict loss; None when nothing was lost on average.
    """
    strict = statistics.fmean(pair["forgetting"] for pair in pairs)
    relaxed = statistics.fmean(pair["forgetting_relaxed"] for pair in pairs)
    share = (strict - relaxed) / strict if strict > 0 else None
    return {"strict": strict, "relaxed": relaxed, "format": strict - relaxed, "share": share}


def _correlations(pairs: Sequence[Row]) -> list[dict[str, Any]]:
    """Every measure against the similarity and against each cosine."""
    flat = [{**pair, **pair["cosines"]} for pair in pairs]
    means = {name: _means(flat, name) for name in (*MEASURES, "similarity", *pairs[0]["cosines"])}
    return [
        {"of": measure, "with": side, **asdict(correlation(means[side], means[measure]))}
        for measure in MEASURES
        for side in ("similarity", *pairs[0]["cosines"])
    ]


def _means(pairs: Sequence[Row], name: str) -> list[float]:
    """Of each ordered pair, over seeds; rounded, for what is equal mathematically must be a tie in the ranks."""
    return [round(statistics.fmean(values), 9) for values in over_seeds(pairs, itemgetter(name)).values()]


def _notes(correlations: Sequence[Row], tasks: Sequence[str], header: Mapping[str, Any]) -> list[str]:
    """What the reader must know before believing the numbers."""
    notes = []
    count = len(tasks) * (len(tasks) - 1)
    if undefined := [f"{row['of']} with {row['with']}" for row in correlations if row["rho"] is None]:
        why = f"only {count} pairs" if count < 3 else "one side is the same for all pairs"
        everything = len(undefined) == len(correlations)
        which = "" if everything else f" for {', '.join(undefined)}"
        notes.append(f"the rank correlation is undefined{which}: {why}")
    if len(tasks) == 2:
        notes.append("with two tasks there is one similarity, the product of its cosines: nothing to compare it with")
    if len(rules := set(header["rules"].values())) > 1:
        notes.append(f"the tasks are scored by different rules ({', '.join(sorted(rules))}): points are not alike")
    return notes
