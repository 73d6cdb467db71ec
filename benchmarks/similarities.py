"""Which similarity of two tasks predicts what the first loses while the second is learned?

    python benchmarks/similarities.py pocket-b1 tiny-aligned docs/results/pairs-pocket-b1.json --out FILE.json

Computes measures of similarity between the tasks of a stream at its base model, and their rank correlation (Spearman)
with the forgetting and the transfer of all ordered pairs in a `pairs.json`. Two intervals: of the correlation under
permuted names of the tasks (what chance alone gives), and of the difference to the paper's similarity over tasks drawn
with replacement. `learned` predicts each pair from all measures by ridge regression that has not seen its two tasks.
"Of the pair": after what each first and each second task has in common with all others was taken from both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evertune import load_stream
from evertune.data import Task
from evertune.experiments.pairs.results import over_seeds
from evertune.methods.similarity import MODALITIES, evenly_spaced, mean_direction, pair_cosines, similarity_matrix
from evertune.metrics.statistics import spearman
from evertune.models import load_lmm
from evertune.models.features import FeatureStore, embed_images
from evertune.models.modes import evaluating

Square = NDArray[np.float64]
SAMPLES, GRADIENTS, DRAWS, RIDGE = 1000, 128, 2000, 1.0
PAPER = "s of the paper"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("model")
    parser.add_argument("pairs", type=Path, help="the pairs.json of `evertune pairs`")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gradients", type=int, default=GRADIENTS, help="samples per task for gradients")
    wanted = parser.parse_args()
    content = json.loads(wanted.pairs.read_text())
    tasks = {task.name: task for task in load_stream(wanted.stream).tasks}
    tasks = {name: tasks[name] for name in content["tasks"]}
    found = measures(load_lmm(wanted.model, dtype="float32"), list(tasks.values()), gradients=wanted.gradients)
    result: dict[str, Any] = {"stream": wanted.stream, "model": wanted.model, "tasks": list(tasks)}
    result["measures"] = {name: square.round(6).tolist() for name, square in found.items()}
    for of in ("forgetting", "transfer"):
        target = targets(content, list(tasks), of)
        known = dict(found)
        known["learned, tasks left out"] = learned(found, target)
        rows = [row(name, square, known[PAPER], target) for name, square in known.items()]
        result[of] = rows
        print(f"{of}: {len(tasks)} tasks, {len(tasks) * (len(tasks) - 1)} pairs")
        for line in rows:
            print(text(line))
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(json.dumps(result, indent=1) + "\n")


def measures(lmm: Any, tasks: Sequence[Task], *, gradients: int) -> dict[str, Square]:
    """By name a square: row is the first task, column the second; larger is more similar. The diagonal is unused."""
    features = FeatureStore(lmm)
    rows = {task.name: rows_of(lmm, features, task) for task in tasks}
    embedded = {name: {m: mean_direction(values) for m, values in parts.items()} for name, parts in rows.items()}
    names = list(rows)
    combined = similarity_matrix(embedded)
    found = {PAPER: np.array([[combined[a][b] or 0.0 for b in names] for a in names])}
    for modality, table in pair_cosines(embedded).items():
        found[modality] = np.array([[table.get((a, b), table.get((b, a), 0.0)) for b in names] for a in names])
    found["centred and whitened"] = whitened(rows)
    hidden, mean, fisher = at_the_model(lmm, features, tasks, count=gradients)
    found["hidden states"] = cosines(hidden - hidden.mean(0))
    found["mean gradients"] = cosines(mean)
    found["Fisher overlap"] = cosines(fisher.sqrt())
    found["Fisher x gradient"] = -(normalised(fisher) @ normalised(mean.square()).T).log().numpy()
    return found


def rows_of(lmm: Any, features: FeatureStore, task: Task) -> dict[str, Tensor]:
    """Embeddings of the samples, as `embed_task` takes their means."""
    chosen = evenly_spaced(task.train, SAMPLES)
    features.ensure(chosen)
    return {
        "image": embed_images(lmm, features, chosen),
        "instruction": lmm.embed_texts([sample.instruction for sample in chosen]),
        "answer": lmm.embed_texts([sample.answers[0] for sample in chosen]),
    }


def whitened(rows: Mapping[str, Mapping[str, Tensor]], *, shrinkage: float = 0.1) -> Square:
    """Mean over modalities of the cosines of task means, in coordinates in which all samples have covariance 1."""
    squares = []
    for modality in MODALITIES:
        parts = [parts[modality].double() for parts in rows.values()]
        everything = torch.cat(parts)
        centre = everything.mean(0)
        covariance = torch.cov((everything - centre).T)
        covariance += shrinkage * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(covariance)
        means = torch.stack([part.mean(0) - centre for part in parts])
        squares.append(cosines(means @ vectors / values.sqrt()))
    mean: Square = np.mean(squares, axis=0)
    return mean


def at_the_model(
    lmm: Any, features: FeatureStore, tasks: Sequence[Task], *, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each task at the base model's weights, over `count` samples: means of the hidden states of the language model
    before the answer's tokens (T, width), of the gradient of -log p(answer), and of its square (T, parameters)."""
    parameters = list(lmm.trainable().values())
    seen: list[Tensor] = []
    head = lmm.module().blip.language_model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    hidden, mean, fisher = [], [], []
    with evaluating(lmm.module()):
        for task in tasks:
            states, total, squares = [], torch.zeros(()), torch.zeros(())
            chosen = evenly_spaced(task.train, count)
            features.ensure(chosen)
            for sample in chosen:
                seen.clear()
                output = lmm.module()(lmm.collate([sample], features.get([sample])))
                states.append(seen[-1].reshape(-1, seen[-1].shape[-1])[-int(output.tokens) :].mean(0))
                gradient = torch.autograd.grad(output.nll.sum(), parameters, allow_unused=True)
                flat = torch.cat(
                    [
                        torch.zeros_like(p).flatten() if g is None else g.flatten()
                        for g, p in zip(gradient, parameters, strict=True)
                    ]
                )
                total, squares = total + flat, squares + flat.square()
            hidden.append(torch.stack(states).mean(0))
            mean.append(total / len(chosen))
            fisher.append(squares / len(chosen))
    hook.remove()
    return torch.stack(hidden), torch.stack(mean), torch.stack(fisher)


def cosines(rows: Tensor) -> Square:
    """(T, D) -> (T, T)."""
    scaled = torch.nn.functional.normalize(rows.double(), dim=1)
    found: Square = (scaled @ scaled.T).numpy()
    return found


def normalised(rows: Tensor) -> Tensor:
    """Each row with sum 1."""
    return rows.double() / rows.double().sum(1, keepdim=True)


def targets(content: Mapping[str, Any], names: Sequence[str], of: str) -> Square:
    """What the first task lost, or what the second gained, per ordered pair: means over seeds."""
    means = {pair: statistics.fmean(values) for pair, values in over_seeds(content["pairs"], lambda p: p[of]).items()}
    return np.array([[means.get((a, b), np.nan) for b in names] for a in names])


def learned(found: Mapping[str, Square], target: Square) -> Square:
    """The target as ridge regression on all measures predicts it, for each pair from pairs without its two tasks."""
    size = len(target)
    stacked = np.stack([zscores(square) for square in found.values()], axis=-1)
    predicted = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            if i != j:
                others = [(a, b) for a in range(size) for b in range(size) if a != b and not {a, b} & {i, j}]
                x = np.array([[*stacked[pair], 1.0] for pair in others])
                y = np.array([target[pair] for pair in others])
                penalty = RIDGE * len(others) * np.diag([*np.ones(stacked.shape[-1]), 0.0])
                weights = np.linalg.solve(x.T @ x + penalty, x.T @ y)
                predicted[i, j] = np.array([*stacked[i, j], 1.0]) @ weights
    return predicted


def zscores(square: Square) -> Square:
    values = square[~np.eye(len(square), dtype=bool)]
    found: Square = (square - values.mean()) / max(values.std(), 1e-12)
    return found


def row(name: str, square: Square, paper: Square, target: Square) -> dict[str, Any]:
    """The correlation of a measure with the target, by chance, and its advantage over the paper's in absolute value."""
    rho = over(square, target)
    draw = np.random.default_rng(0)
    size = len(target)
    by_chance = []
    for _ in range(DRAWS):
        order = draw.permutation(size)
        by_chance.append(over(square[np.ix_(order, order)], target))
    gains = []
    for _ in range(DRAWS):
        drawn = draw.integers(0, size, size).tolist()
        if len(set(drawn)) > 3:
            gains.append(abs(over(square, target, drawn)) - abs(over(paper, target, drawn)))
    return {
        "measure": name,
        "rho": rho,
        "rho_of_the_pair": over(centred(square), centred(target)),
        "chance": [float(q) for q in np.quantile(by_chance, [0.025, 0.975])],
        "p": float(np.mean(np.abs(by_chance) >= abs(rho))),
        "gain": abs(rho) - abs(over(paper, target)),
        "gain_interval": [float(q) for q in np.quantile(gains, [0.025, 0.975])],
    }


def centred(square: Square) -> Square:
    """Without what each first and each second task has in common with all others: what only the pair explains."""
    size = len(square)
    places = [(i, j) for i in range(size) for j in range(size) if i != j]
    x = np.zeros((len(places), 2 * size))
    for number, (i, j) in enumerate(places):
        x[number, i] = x[number, size + j] = 1.0
    y = np.array([square[pair] for pair in places])
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    found = np.zeros((size, size))
    for place, value in zip(places, rest, strict=True):
        found[place] = value
    return found


def over(square: Square, target: Square, drawn: Sequence[int] | None = None) -> float:
    """Spearman's rho over the ordered pairs of different tasks, of all or of those that were drawn."""
    places = range(len(target)) if drawn is None else drawn
    pairs = [(i, j) for i in places for j in places if i != j]
    found = spearman([square[pair] for pair in pairs], [target[pair] for pair in pairs])
    return 0.0 if found is None else found


def text(line: Mapping[str, Any]) -> str:
    chance, gain = ([f"{value:+.2f}" for value in line[key]] for key in ("chance", "gain_interval"))
    return (
        f"  {line['measure']:24} rho {line['rho']:+.2f} (of the pair {line['rho_of_the_pair']:+.2f})"
        f"   chance [{', '.join(chance)}]   p {line['p']:.3f}"
        f"   |rho| above the paper's {line['gain']:+.2f} [{', '.join(gain)}]"
    )


if __name__ == "__main__":
    main()
