"""A figure per finding of `evertune study`: every comparison with its 95 % interval, a colour per regime.

    python benchmarks/study_figures.py cautious=docs/results/paper plastic=docs/results/plastic --out docs/images

Reads the committed results as `evertune study NAME --only findings` does; `cautious` is the study `paper`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from evertune.experiments.study import Study, read_study
from evertune.experiments.study.findings import Comparison, Finding
from evertune.experiments.study.result import result_of

STUDY = {"cautious": "paper", "plastic": "plastic"}
COLOURS = {"cautious": "#0b6fb8", "plastic": "#c2410c"}
HIGH, WIDE = 0.34, 8.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="REGIME=DIR")
    parser.add_argument("--out", type=Path, required=True)
    wanted = parser.parse_args()
    found = {}
    for pair in wanted.results:
        regime, _, folder = pair.partition("=")
        found[regime] = findings_of(STUDY[regime], Path(folder))
    mpl.rcParams |= {"svg.hashsalt": "evertune", "font.family": "DejaVu Sans", "font.size": 9, "svg.fonttype": "none"}
    wanted.out.mkdir(parents=True, exist_ok=True)
    for name in next(iter(found.values())):
        draw({regime: findings[name] for regime, findings in found.items()}, wanted.out / f"study-{name.lower()}.svg")


def findings_of(study: str, folder: Path) -> dict[str, Finding]:
    """By name, from PART/GRID.json as they are committed."""
    with tempfile.TemporaryDirectory() as place:
        for path in sorted(folder.glob("*/*.json")):
            target = Path(place) / path.parent.name / path.stem / "results.json"
            target.parent.mkdir(parents=True)
            shutil.copy(path, target)
        return {one.name: one for one in result_of(Study(read_study(study), Path(place))).findings}


def draw(regimes: dict[str, Finding], path: Path) -> None:
    """Rows are comparisons, in the order of the first regime that has them; a mark per regime, with its interval."""
    rows = list(dict.fromkeys((c.label, c.statistic) for f in regimes.values() for c in f.comparisons if c.units))
    figure, axes = plt.subplots(figsize=(WIDE, 0.9 + HIGH * len(rows)), layout="constrained")
    axes.axvline(0, color="#888", linewidth=0.8)
    for offset, (regime, finding) in zip((-0.16, 0.16), regimes.items(), strict=False):
        by_row = {(c.label, c.statistic): c for c in finding.comparisons if c.units}
        for y, row in enumerate(rows):
            if one := by_row.get(row):
                mark(axes, one, y + offset, COLOURS[regime])
    axes.set_yticks(range(len(rows)), [f"{label}\n{measure}" for label, measure in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("points; above zero is what the paper says. Bars: Student's 95 % interval")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    for regime in regimes:
        axes.plot([], [], "o", color=COLOURS[regime], label=regime)
    figure.legend(loc="outside lower right", ncols=len(regimes), frameon=False, fontsize=8)
    axes.set_title(f"{next(iter(regimes.values())).name}. {next(iter(regimes.values())).claim}", loc="left", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def mark(axes: plt.Axes, one: Comparison, y: float, colour: str) -> None:
    """The mean, filled where it decides on the finding, with its interval."""
    if interval := one.interval():
        axes.plot(interval, [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(one.estimate, y, "o", color=colour, markerfacecolor=colour if one.decides else "white", markersize=4.5)


if __name__ == "__main__":
    main()
