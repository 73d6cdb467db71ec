"""The health table of docs/pocket.md from the results of its grid: is the stream unknown, learnable, and forgotten?

python benchmarks/pocket_health.py docs/results/pocket-health.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

CAP = 100.0
"""CIDEr-D may exceed 100; what is averaged here may not."""


def main() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())["runs"]
    for stream in dict.fromkeys(run["stream"] for run in runs):
        here = {(run["method"], run["seed"]): run for run in runs if run["stream"] == stream}
        seeds = sorted({seed for _, seed in here})
        first = here["direct", seeds[0]]
        tasks, known = first["tasks"], len(first["known"])
        print(f"\n{stream}, {first['model']}, seeds {', '.join(map(str, seeds))}\n")
        print("| | " + " | ".join(tasks) + " | average |")
        print("|---|" + "---:|" * (len(tasks) + 1))
        rows = {
            "zero-shot": [here["direct", seed]["R"][0] for seed in seeds],
            "`direct`": [alone(here["direct", seed]) for seed in seeds],
            "`sequential`, at the end": [here["sequential", seed]["R"][-1] for seed in seeds],
        }
        for name, values in rows.items():
            capped = [[None if v is None else min(v, CAP) for v in row] for row in values]
            new = [statistics.mean(v for v in row[known:] if v is not None) for row in capped]
            cells = [spread([row[column] for row in capped]) for column in range(len(tasks))]
            print(f"| {name} | " + " | ".join([*cells, spread(new)]) + " |")


def alone(run: dict) -> list[float | None]:
    """The score of each new task right after it was learned; known ones are not learned."""
    known = len(run["known"])
    return [None] * known + [run["R"][row][known + row - 1] for row in range(1, len(run["stages"]) + 1)]


def spread(values: list) -> str:
    if any(v is None for v in values):
        return ""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
