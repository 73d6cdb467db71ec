"""Paired differences between methods of a grid's results, seed by seed, with Student's 95 % interval.

    python benchmarks/paired.py docs/results/table.json replay-sequential eproj-sequential ewc-sequential
    python benchmarks/paired.py docs/results/table.json sequential --metric forgetting
    ... the same with --against docs/results/beforehand.json

`A-B` is A minus B; a method alone is its value, or its value minus that in another file. One stream and model per file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from evertune.metrics.metrics import metrics_of
from evertune.metrics.statistics import clipped, t_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("comparisons", nargs="+", metavar="A[-B]")
    parser.add_argument("--metric", default="final_average")
    parser.add_argument("--against", type=Path, help="another file of results")
    wanted = parser.parse_args()
    values = read(wanted.results, wanted.metric)
    other = read(wanted.against, wanted.metric) if wanted.against else None
    for comparison in wanted.comparisons:
        first, _, second = comparison.partition("-")
        if missing := [name for name in (first, second) if name and name not in values]:
            parser.error(f"no run of {missing[0]} in {wanted.results}; it has {', '.join(values)}")
        from_it = values[second] if second else other[first] if other else dict.fromkeys(values[first], 0.0)
        seeds = sorted(set(values[first]) & set(from_it))
        differences = [values[first][seed] - from_it[seed] for seed in seeds]
        interval = clipped(t_interval(differences), max(100.0, *map(abs, differences)))
        ends = f"[{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
        each = ", ".join(f"{difference:+.1f}" for difference in differences)
        print(f"{comparison:24} {wanted.metric}  {statistics.fmean(differences):+6.1f} {ends}   seeds: {each}")


def read(results: Path, metric: str) -> dict[str, dict[int, float]]:
    """Method -> seed -> the metric of a run."""
    values: dict[str, dict[int, float]] = {}
    for run in json.loads(results.read_text()):
        value = metrics_of(run["R"], known=len(run.get("known", []))).get(metric)
        if value is not None:
            values.setdefault(run["method"], {})[run["seed"]] = value
    return values


if __name__ == "__main__":
    main()
