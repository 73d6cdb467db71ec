"""The results of a study in plain words: the same sentences on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.reporting.labels import plain

TITLES = {
    "forgetting": "forgetting",
    "forgetting_relaxed": "forgetting, any form",
    "transfer": "transfer",
    "similarity": "similarity s",
    "image": "cosine of images",
    "instruction": "cosine of instructions",
    "answer": "cosine of answers",
}


def interval(row: Mapping[str, Any]) -> str:
    """`−0.62 [−0.81, −0.30]`; `undefined` where there is no correlation."""
    if row["rho"] is None:
        return "undefined"
    ends = "no interval" if row["low"] is None else f"{plain(row['low'])}, {plain(row['high'])}"
    return f"{plain(row['rho'])} [{ends}]"


def correlation_of(result: Mapping[str, Any], measure: str, side: str = "similarity") -> Mapping[str, Any]:
    """The row of the correlation of `measure` with `side`."""
    found: Mapping[str, Any] = next(r for r in result["correlations"] if (r["of"], r["with"]) == (measure, side))
    return found


def lead(result: Mapping[str, Any]) -> str:
    """What a study found, in two or three sentences; no verdict where the interval holds 0."""
    lost = result["lost"]
    first = (
        f"Learning a second task cost the first {plain(lost['strict'], digits=1)} points on average, "
        f"{plain(lost['relaxed'], digits=1)} when answers count in any form{_share(lost['share'])}."
    )
    return f"{first} {_verdict(result, 'forgetting')} {_verdict(result, 'transfer')}"


def _share(share: float | None) -> str:
    return "" if share is None else f": {100 * share:.0f} % of the loss is form only".replace("-", "−")


def _verdict(result: Mapping[str, Any], measure: str) -> str:
    row = correlation_of(result, measure)
    name = TITLES[measure].capitalize()
    if row["rho"] is None:
        return f"Whether {measure} depends on similarity is unknown: the rank correlation is undefined."
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return f"{name} shows no clear relation to similarity (ρ {interval(row)})."
    return f"{name} is {'higher' if row['rho'] > 0 else 'lower'} between similar tasks (ρ {interval(row)})."


def seeds_text(result: Mapping[str, Any]) -> str:
    """`seed 0` or `means over seeds 0, 1, 2`."""
    seeds = ", ".join(map(str, result["seeds"]))
    return f"seed {seeds}" if len(result["seeds"]) == 1 else f"means over seeds {seeds}"
