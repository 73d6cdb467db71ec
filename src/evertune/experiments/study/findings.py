"""The paper's findings F1..F5 as pure functions of finished runs: claim, estimate, interval, verdict, the runs used.

He et al. 2023, arXiv 2311.16206. Every claim is written as "a difference above zero"; a unit is a seed and an order of
the stream, and the difference is taken within it. A finding has one or more comparisons. It is confirmed when each of
them is, which needs no correction; contradicted when one of k lies below zero at the level 1 - 0.05/k (Bonferroni); not
measured while a run is missing. A run is what `results.json` holds of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from evertune.experiments.study.file import Benchmark, Questions
from evertune.metrics.metrics import metrics_of
from evertune.metrics.statistics import LEVEL, Interval, Verdict, bootstrap_interval, clipped, t_interval, verdict_of
from evertune.reporting.matrix import Matrix
from evertune.reporting.tables import mean_or_none


class Key(NamedTuple):
    """What tells one run of a study from all others."""

    stream: str
    model: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {self.stream} from {self.model}, seed {self.seed}"


Terms = Sequence[tuple[float, Key]]
"""A difference as signed runs, [(+1, ewc), (-1, sequential)], or as a weighted sum of runs."""
Measure = Callable[[Matrix], float | None]
"""None where a cell that it needs was not evaluated."""
Runs = Mapping[Key, Matrix]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """One difference: of which stream and seed, and from which runs."""

    stream: str
    seed: int
    difference: float
    runs: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One paired comparison; what is claimed is a mean difference above zero.

    Attributes:
        missing: runs that it needs and that are not there.
        decides: whether the verdict on its finding depends on it.
        against: level of the interval that must lie below zero to contradict; a finding sets it for its comparisons.
    """

    label: str
    statistic: str
    units: tuple[PairedDifference, ...]
    missing: tuple[Key, ...]
    decides: bool = True
    against: float = LEVEL

    @property
    def differences(self) -> list[float]:
        """One per unit."""
        return [unit.difference for unit in self.units]

    @property
    def estimate(self) -> float | None:
        """The mean difference; None without units."""
        return statistics.fmean(self.differences) if self.units else None

    def interval(self, *, level: float = LEVEL) -> Interval | None:
        """Student's t-interval, which decides, cut where no difference can be; None for fewer than two units."""
        shares = [100.0 * max(1.0, len(unit.runs) / 2) for unit in self.units]  # of scores up to 100
        limit = max([*shares, *map(abs, self.differences)], default=0.0)
        return clipped(t_interval(self.differences, level=level), limit)

    def bootstrap(self) -> Interval | None:
        """The bootstrap's interval, for comparison; None for fewer than two units."""
        return bootstrap_interval(self.differences)

    def strict(self) -> Interval | None:
        """The interval that decides whether the claim is contradicted."""
        return self.interval(level=self.against)

    def verdict(self) -> Verdict:
        """Over the requested units; not measured while one is missing or when there is only one."""
        if self.missing:
            return "not measured"
        verdict = verdict_of(self.interval())
        return verdict_of(self.strict()) if verdict == "contradicted" else verdict

    def as_dict(self) -> dict[str, Any]:
        """For `study.json`."""
        return {
            "label": self.label,
            "statistic": self.statistic,
            "estimate": self.estimate,
            "interval": self.interval(),
            "bootstrap": self.bootstrap(),
            "strict": {"level": self.against, "interval": self.strict()},
            "verdict": self.verdict(),
            "decides": self.decides,
            "units": [{"stream": u.stream, "seed": u.seed, "difference": u.difference} for u in self.units],
            "runs": list(dict.fromkeys(str(key) for unit in self.units for key in unit.runs)),
            "missing": [str(key) for key in self.missing],
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What the paper says, and what came out here."""

    name: str
    claim: str
    comparisons: tuple[Comparison, ...]

    def __post_init__(self) -> None:
        """Each of the k comparisons that decide contradicts at the level 1 - 0.05/k only."""
        level = 1 - (1 - LEVEL) / max(1, sum(one.decides for one in self.comparisons))
        corrected = (replace(one, against=level) if one.decides else one for one in self.comparisons)
        object.__setattr__(self, "comparisons", tuple(corrected))

    @property
    def verdict(self) -> Verdict:
        """Over the comparisons that decide; see the head of this file."""
        deciding = [one for one in self.comparisons if one.decides]
        verdicts = {one.verdict() for one in deciding}
        if not deciding or "not measured" in verdicts:
            return "not measured"
        if verdicts == {"confirmed"}:
            return "confirmed"
        return "contradicted" if "contradicted" in verdicts else "not confirmed"

    def as_dict(self) -> dict[str, Any]:
        """For `study.json`."""
        comparisons = [one.as_dict() for one in self.comparisons]
        return {"name": self.name, "claim": self.claim, "verdict": self.verdict, "comparisons": comparisons}


def final_average(run: Matrix) -> float | None:
    """The mean over all tasks, known ones included, after the last stage."""
    return mean_or_none(run.R[-1])


def forgetting(run: Matrix) -> float | None:
    """Chaudhry's forgetting over the new tasks alone: what another start knew before the stream does not count."""
    return _over_new_tasks(run, "forgetting")


def drop(run: Matrix) -> float | None:
    """From right after learning to the end over the new tasks alone: -BWT, which noise alone does not make positive."""
    value = _over_new_tasks(run, "bwt")
    return None if value is None else -value


def _over_new_tasks(run: Matrix, metric: str) -> float | None:
    known = len(run.known)
    return metrics_of([row[known:] for row in run.R])[metric]


def learned(run: Matrix) -> float | None:
    """Learning accuracy over the new tasks: the score of each right after it was learned."""
    return _over_new_tasks(run, "learning_accuracy")


def share_lost(run: Matrix) -> float | None:
    """The drop since learned in percent of what was learned, over the new tasks but the last: who learned less has less
    to lose."""
    rows = [row[len(run.known) :] for row in run.R]
    had = [rows[task + 1][task] for task in range(len(rows) - 2)]
    left = rows[-1][: len(had)]
    if not had or None in (*had, *left) or not sum(had):  # type: ignore[arg-type]
        return None
    return 100 * (1 - sum(left) / sum(had))  # type: ignore[arg-type]


FORGETTING, DROP, FINAL = "forgetting, new tasks", "drop since learned, new tasks", "final average"
LEARNED, SHARE = "learning accuracy, new tasks", "drop in % of what was learned, new tasks"
MEASURES: dict[str, Measure] = {
    FORGETTING: forgetting,
    DROP: drop,
    FINAL: final_average,
    LEARNED: learned,
    SHARE: share_lost,
}
FAIR = 0.9
"""F2 compares starts that both learn this share of what `direct` does, at their rates."""


def keyed(runs: Sequence[Matrix]) -> dict[Key, Matrix]:
    """The runs by what tells them apart."""
    return {Key(run.stream, run.model, run.method, run.seed): run for run in runs}


def compared(
    label: str, statistic: str, terms: Mapping[tuple[str, int], Terms], runs: Runs, *, decides: bool = True
) -> Comparison:
    """Compare over units (stream, seed), each a signed sum over runs.

    A unit that lacks a run, or has one whose cells do not give the statistic, is left out, and the run is named.
    """
    measure, needed = MEASURES[statistic], {key for parts in terms.values() for _, key in parts}
    found = {key: value for key in needed & runs.keys() if (value := measure(runs[key])) is not None}
    units = [
        # rounded, so that equal runs differ by nothing: units that are all alike have an interval without width
        PairedDifference(
            stream, seed, round(sum(s * found[key] for s, key in parts), 9), tuple(key for _, key in parts)
        )
        for (stream, seed), parts in terms.items()
        if all(key in found for _, key in parts)
    ]
    missing = dict.fromkeys(key for parts in terms.values() for _, key in parts if key not in found)
    return Comparison(label, statistic, tuple(units), tuple(missing), decides)


def findings(runs: Sequence[Matrix], spec: Questions) -> list[Finding]:
    """All five, from the runs of a study.

    Args:
        runs: contents of `results.json`, `method` being the label that the study shows.
        spec: which models, streams, seeds and methods they are about.
    """
    by_key = keyed(runs)
    return [
        forgets(by_key, spec),
        forgets_less(by_key, spec),
        works_everywhere(by_key, spec),
        needs_joint_tuning(by_key, spec),
        similarity_helps(by_key, spec),
    ]


def _each_unit(
    benchmark: Benchmark, spec: Questions, terms: Callable[[str, int], Terms]
) -> dict[tuple[str, int], Terms]:
    return {(stream, seed): terms(stream, seed) for stream in benchmark.streams for seed in spec.seeds}


def _gain(benchmark: Benchmark, spec: Questions, method: str, over: str) -> dict[tuple[str, int], Terms]:
    """`method` - `over` in each unit of a benchmark."""

    def terms(stream: str, seed: int) -> Terms:
        return [(1, Key(stream, benchmark.model, method, seed)), (-1, Key(stream, benchmark.model, over, seed))]

    return _each_unit(benchmark, spec, terms)


def forgets(runs: Runs, spec: Questions) -> Finding:
    """F1: `sequential` on b1 ends lower on what it learned. Both the usual number and one without a maximum in it."""
    model = spec.b1.model
    terms = _each_unit(spec.b1, spec, lambda stream, seed: [(1, Key(stream, model, "sequential", seed))])
    found = [compared("sequential on b1", name, terms, runs) for name in (FORGETTING, DROP)]
    return Finding("F1", "A model tuned on tasks one after another forgets.", tuple(found))


def forgets_less(runs: Runs, spec: Questions) -> Finding:
    """F2: `sequential` over the same new tasks (b2's) forgets more from b1's start than from b2's, in each unit."""

    def terms(stream: str, seed: int) -> Terms:
        aligned, instruct = (Key(stream, b.model, "sequential", seed) for b in (spec.b1, spec.b2))
        return [(1, aligned), (-1, instruct)]

    label = f"{spec.b1.model} − {spec.b2.model}, sequential on b2"
    found = [compared(label, name, _each_unit(spec.b2, spec, terms), runs) for name in (FORGETTING, DROP)]
    found.append(compared(label, SHARE, _each_unit(spec.b2, spec, terms), runs, decides=False))
    found += [_learns(model, runs, spec) for model in (spec.b1.model, spec.b2.model) if _has_direct(model, runs, spec)]
    return Finding("F2", "A model that was jointly tuned on many tasks beforehand forgets less.", tuple(found))


def _has_direct(model: str, runs: Runs, spec: Questions) -> bool:
    return any(key.method == "direct" and key.model == model and key.stream in spec.b2.streams for key in runs)


def _learns(model: str, runs: Runs, spec: Questions) -> Comparison:
    """Whether a start learns b2's tasks one after another nearly as well as each alone, so that F2 is fair."""

    def terms(stream: str, seed: int) -> Terms:
        return [(1, Key(stream, model, "sequential", seed)), (-FAIR, Key(stream, model, "direct", seed))]

    label = f"{model} on b2: sequential − {FAIR:.0%} of direct"
    return compared(label, LEARNED, _each_unit(spec.b2, spec, terms), runs, decides=False)


def works_everywhere(runs: Runs, spec: Questions) -> Finding:
    """F3: each method minus `sequential`, on each stream of both benchmarks by itself."""
    found = [
        compared(
            f"{method} − sequential on {stream}",
            FINAL,
            _gain(benchmark.model_copy(update={"streams": [stream]}), spec, method, "sequential"),
            runs,
        )
        for method in spec.working
        for benchmark in (spec.b1, spec.b2)
        for stream in benchmark.streams
    ]
    return Finding("F3", "Replay and model expansion work across scenarios.", tuple(found))


def needs_joint_tuning(runs: Runs, spec: Questions) -> Finding:
    """F4: each penalty gains over `sequential` on b2, and more there than on b1 (a difference of differences).

    The gain on b1 by itself is shown and decides nothing: "does not work" is no difference that one can confirm.
    """
    found = []
    for method in spec.penalties:
        b1, b2 = (_gain(benchmark, spec, method, "sequential") for benchmark in (spec.b1, spec.b2))
        gain = f"{method} − sequential"
        found += [
            compared(f"{gain} on b2", FINAL, b2, runs),
            compared(f"{method}: gain on b2 − gain on b1", FINAL, _interaction(b2, b1), runs),
            compared(f"{gain} on b1", FINAL, b1, runs, decides=False),
        ]
    return Finding("F4", "Regularization only works well on models that were jointly tuned.", tuple(found))


def _interaction(
    more: Mapping[tuple[str, int], Terms], less: Mapping[tuple[str, int], Terms]
) -> dict[tuple[str, int], Terms]:
    """The gain here minus the gain there, by seed and order: the n-th unit of one benchmark with the other's."""
    pairs = zip(more.items(), less.items(), strict=True)
    return {unit: [*plus, *((-sign, key) for sign, key in minus)] for (unit, plus), (_, minus) in pairs}


def similarity_helps(runs: Runs, spec: Questions) -> Finding:
    """F5: each informed method minus the plain one, on each benchmark over both its orders."""
    found = [
        compared(f"{informed} − {plain} on {name}", FINAL, _gain(benchmark, spec, informed, plain), runs)
        for informed, plain in spec.informed.items()
        for name, benchmark in (("b1", spec.b1), ("b2", spec.b2))
    ]
    claim = "Regularization and expansion informed by task similarity consistently improve the result."
    return Finding("F5", claim, tuple(found))


def variants(runs: Sequence[Matrix]) -> list[Comparison]:
    """Each variant against its plain method, on each stream, over the seeds that both have; none of them decides."""
    by_key = keyed(runs)
    groups: dict[tuple[str, str, str], dict[tuple[str, int], Terms]] = {}
    for key in by_key:
        plain = key._replace(method=key.method.split(" (")[0])
        if plain != key and plain in by_key:
            group = groups.setdefault((key.stream, key.model, key.method), {})
            group[key.stream, key.seed] = [(1, key), (-1, plain)]
    return [
        compared(f"{method} on {stream}", FINAL, units, by_key, decides=False)
        for (stream, _, method), units in groups.items()
    ]
