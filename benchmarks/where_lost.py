"""Where forgetting sits: which part of the model moved for a second task, and what putting it back restores.

    python benchmarks/where_lost.py pocket-b1 tiny-aligned okvqa:textvqa gqa:vqav2 --seeds 0,1,2 --out FILE.json

For each pair FIRST:SECOND: learn the first task, then the second. A part is a group of trained parameters by their
names. Moved: the length of its change as a share of its own length, after the second task. Put back: the score on the
first task when this part alone has the weights of before the second, and the score on the second task then.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evertune import Learner, Training, load_lmm, load_stream
from evertune.data import Task

PARTS = (
    (r"language_projection|multi_modal_projector|connector", "projection"),
    (r"query_tokens", "queries"),
    (r"embeddings", "text embeddings"),
    (r"layer\.(\d+)\.attention", "layer {} self-attention"),
    (r"layer\.(\d+)\.crossattention", "layer {} cross-attention"),
    (r"layer\.(\d+)\.(intermediate|output)_query", "layer {} queries' MLP"),
    (r"layer\.(\d+)\.(intermediate|output)", "layer {} text MLP"),
    (r"layers\.(\d+)\.", "layer {}"),
)
"""Pattern of parameter names, and the part that they are; the first that matches."""

Weights = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("model")
    parser.add_argument("pairs", nargs="+", metavar="FIRST:SECOND")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rate", type=float, help="learning rate; default: the model's")
    parser.add_argument("--limit", type=int, help="samples per task")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    tasks = {task.name: task.limited(wanted.limit) for task in load_stream(wanted.stream).tasks}
    result = []
    for pair in wanted.pairs:
        first, _, second = pair.partition(":")
        runs = [
            one_pair(wanted.model, tasks[first], tasks[second], seed=int(seed), rate=wanted.rate)
            for seed in wanted.seeds.split(",")
        ]
        result.append({"first": first, "second": second, "seeds": wanted.seeds, "runs": runs})
        print_pair(first, second, runs)
    if wanted.out:
        wanted.out.write_text(json.dumps(result, indent=1) + "\n")


def one_pair(model: str, first: Task, second: Task, *, seed: int, rate: float | None) -> dict[str, Any]:
    """The scores of one pair and one seed."""
    lmm = load_lmm(model, dtype="float32")
    training = None if rate is None else Training(learning_rate=rate)
    learner = Learner(lmm, "sequential", training=training, seed=seed, progress=False)
    learner.learn(first)
    before = weights_of(lmm)
    found: dict[str, Any] = {"seed": seed, "first_before": scores(learner, first)}
    learner.learn(second)
    after = weights_of(lmm)
    found |= {"first_after": scores(learner, first), "second_after": scores(learner, second), "parts": {}}
    for part, names in parts_of(after).items():
        with put_back(lmm, before, after, names):
            found["parts"][part] = {
                "moved": moved(before, after, names),
                "parameters": sum(after[name].numel() for name in names),
                "first": scores(learner, first),
                "second": scores(learner, second),
            }
    return found


def scores(learner: Learner, task: Task) -> dict[str, float]:
    """Strict and relaxed points of 100."""
    found = learner.evaluate(task)
    return {"strict": found.strict, "relaxed": found.relaxed}


def weights_of(lmm: Any) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in lmm.trainable().items()}


def parts_of(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of the parameters of each part."""
    found: dict[str, list[str]] = {}
    for name in weights:
        for pattern, part in PARTS:
            if match := re.search(pattern, name):
                found.setdefault(part.format(*match.groups()), []).append(name)
                break
        else:
            found.setdefault("other", []).append(name)
    return found


def moved(before: Weights, after: Weights, names: list[str]) -> float:
    """The length of the change as a share of the length before."""
    change = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()
    return float(change / torch.cat([before[name].flatten() for name in names]).norm())


@contextmanager
def put_back(lmm: Any, before: Weights, after: Weights, names: list[str]) -> Iterator[None]:
    """Within it these parameters have the weights of before the second task."""
    parameters = lmm.trainable()
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(before[name])
        yield
        for name in names:
            parameters[name].copy_(after[name])


def print_pair(first: str, second: str, runs: list[dict[str, Any]]) -> None:
    def mean(*path: str) -> float:
        values = []
        for run in runs:
            value: Any = run
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.fmean(values)

    print(f"{first}, then {second}: {mean('first_before', 'strict'):.1f} -> {mean('first_after', 'strict'):.1f}")
    print(f"  in any form {mean('first_before', 'relaxed'):.1f} -> {mean('first_after', 'relaxed'):.1f}")
    print(f"  {'put back':28} {'moved':>7} {first[:12]:>12} {'any form':>9} {second[:12]:>12}")
    for part in runs[0]["parts"]:
        at = ("parts", part)
        print(
            f"  {part:28} {100 * mean(*at, 'moved'):6.1f}% {mean(*at, 'first', 'strict'):12.1f}"
            f" {mean(*at, 'first', 'relaxed'):9.1f} {mean(*at, 'second', 'strict'):12.1f}"
        )


if __name__ == "__main__":
    main()
