"""The pairs that `evertune try` is fitted on, from a study of pairs; prints the lines and how far they miss.

evertune pairs pocket-b1 --model tiny-aligned --seeds 0,1,2 --out runs/pairs
python benchmarks/advice.py runs/pairs/pairs.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from evertune.service.expected import PAIRS, fitted
from evertune.utils.files import write_json

COSINES = ("image", "instruction", "answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the pairs.json that `evertune pairs` wrote")
    rows = json.loads(parser.parse_args().study.read_text())["pairs"]
    pairs = [_mean(rows, first, second) for first, second in dict.fromkeys((r["first"], r["second"]) for r in rows)]
    write_json(PAIRS, {"format": 1, "stream": "pocket-b1", "model": "tiny-aligned", "pairs": pairs})
    for x, y in (
        *((x, "forgetting") for x in ("nothing", "similarity", *COSINES)),
        ("nothing", "gain"),
        ("before", "gain"),
    ):
        line = fitted(pairs, x, y) if x != "nothing" else fitted([{**pair, "nothing": 0.0} for pair in pairs], x, y)
        print(f"{y} by {x}: {line.intercept:.1f} + {line.slope:.2f} x, error {line.error:.1f}")


def _mean(rows: list[dict[str, Any]], first: str, second: str) -> dict[str, Any]:
    """One ordered pair over all seeds."""
    own = [row for row in rows if (row["first"], row["second"]) == (first, second)]
    before = [row["after_first"]["second"]["strict"] for row in own]
    values = {
        "similarity": own[0]["similarity"],
        **{modality: own[0]["cosines"][modality] for modality in COSINES},
        "forgetting": statistics.fmean(row["forgetting"] for row in own),
        "before": statistics.fmean(before),
        "gain": statistics.fmean(row["after_second"]["second"]["strict"] for row in own) - statistics.fmean(before),
    }
    return {"first": first, "second": second, **{name: round(value, 4) for name, value in values.items()}}


if __name__ == "__main__":
    main()
