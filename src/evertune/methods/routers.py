"""Routers: predict the task of a question from frozen embeddings of its image and instruction.

A router works on rows of numbers and depends on no model or expansion. Routers are updated once per task, store no
sample, and don't depend on the order of tasks (`calibrated`: up to rounding).

    cosine      a key per task and modality; the largest sum of cosines wins (He et al. 2023)
    calibrated  a Gaussian per task with one shared covariance, kept as running sums (Hayes & Kanan 2020)
    ridge       a ridge regression onto one column per task, kept as running sums (Zhuang et al. 2022)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evertune.methods.similarity import MODALITIES
from evertune.utils.files import digest

QUERIES = MODALITIES[:2]
KEY_STEPS, KEY_RATE, KEY_FACTOR = 2000, 5e-3, 0.1
SCALE = 100.0

Queries = Mapping[str, Tensor]
"""{'image': (n, D), 'instruction': (n, width)} float32 on the CPU, rows of length 1."""


class Router(ABC):
    """Learns to classify tasks, one task at a time. A task that was not learned can't be chosen."""

    @abstractmethod
    def learn(self, task: str, queries: Queries) -> None:
        """Add `task`, known by its training queries."""

    @abstractmethod
    def scores(self, queries: Queries) -> Tensor:
        """(n, T) score of each row for each of `tasks`; higher is more likely; at least one must be learned."""

    def probabilities(self, queries: Queries) -> Tensor:
        """(n, T) probability of each of `tasks`, float64, rows sum to 1: the softmax of `scores`."""
        return self.scores(queries).double().softmax(1)

    def choose(self, queries: Queries) -> list[str]:
        """The task of each row, the first of equals."""
        names = self.tasks
        return [names[index] for index in self.scores(queries).argmax(1).tolist()]

    @abstractmethod
    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Remove `task`; `before` and `after` are the states before and after it was learned."""

    @property
    @abstractmethod
    def tasks(self) -> list[str]:
        """The tasks learned so far."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors, and values that JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class CosineRouter(Router):
    """t* = argmax_t cos(q_img, k_img^t) + cos(q_ins, k_ins^t).

    Args:
        seed: of the keys' random start; None: keys in closed form.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self._seed = seed
        self._keys: dict[str, dict[str, Tensor]] = {}
        self._columns: dict[str, Tensor] | None = None  # (D, T) of each modality: one product scores all tasks

    def learn(self, task: str, queries: Queries) -> None:
        """Find the task's keys."""
        self._columns = None
        if self._seed is None:
            self._keys[task] = {m: key_of(queries[m]) for m in QUERIES}
        else:
            seed = int(digest("keys", str(self._seed), task)[:8], 16)
            self._keys[task] = trained_keys(queries, seed=seed)

    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Remove the keys; those of other tasks do not depend on it."""
        del self._keys[task]
        self._columns = None

    def scores(self, queries: Queries) -> Tensor:
        """The sum of cosines."""
        columns = self._columns = self._columns or self._side_by_side()
        parts = [queries[m] @ columns[m] for m in QUERIES]
        return parts[0] + parts[1]

    def probabilities(self, queries: Queries) -> Tensor:
        """The softmax of cosines at CLIP's scale (Radford et al. 2021): the paper's router has no scale of its own."""
        return (SCALE * self.scores(queries).double()).softmax(1)

    def _side_by_side(self) -> dict[str, Tensor]:
        return {m: torch.stack([self._keys[n][m] for n in self.tasks]).T for m in QUERIES}

    @property
    def tasks(self) -> list[str]:
        """Tasks that have keys."""
        return list(self._keys)

    def state_dict(self) -> dict[str, Any]:
        """The keys by task and modality."""
        return dict(self._keys)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the keys back."""
        self._keys, self._columns = dict(state), None


def key_of(queries: Tensor) -> Tensor:
    """Closed form of argmin_k Σ (1 - cos(q, k)) for rows of length 1: the normalised mean. (n, D) -> (D,).

    All zero when the rows cancel out: then no direction is better than another.
    """
    mean = queries.mean(0)
    return normalize(mean, dim=0) if mean.norm() > 1e-6 else torch.zeros_like(mean)


def trained_keys(queries: Queries, *, seed: int) -> dict[str, Tensor]:
    """The paper's way to the same keys: Adam on 0.1 Σ [(1 - cos(q_img, k_img)) + (1 - cos(q_ins, k_ins))].

    Rows of length 1 enter the loss through their sum only, Σ cos(q, k) = (Σ q) · k / |k|, so a step costs the same
    however many samples there are.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {m: queries[m].sum(0) for m in QUERIES}
    keys = {m: normalize(torch.randn(s.shape, generator=generator), dim=0).requires_grad_() for m, s in sums.items()}
    optimizer = torch.optim.Adam(keys.values(), lr=KEY_RATE)
    for _ in range(KEY_STEPS):
        optimizer.zero_grad()
        (-KEY_FACTOR * sum(s @ keys[m] / keys[m].norm() for m, s in sums.items())).backward()
        optimizer.step()
    empty = {m for m, s in sums.items() if s.norm() <= 1e-6 * len(queries[m])}
    return {m: torch.zeros_like(k) if m in empty else normalize(k.detach(), dim=0) for m, k in keys.items()}


class CalibratedRouter(Router):
    """Linear discriminant analysis over both queries side by side, x = [q_img, q_ins] of length D.

    Tasks are Gaussians N(μ_t, Σ) that are equally likely: t* = argmax_t xᵀ Σ⁻¹ μ_t - ½ μ_tᵀ Σ⁻¹ μ_t. Unlike a
    cosine, Σ⁻¹ gives low weight to directions that vary within every task and high weight to those that hardly do.
    Kept: the mean of each task, the summed scatter S around them and one number, that is D² + T D + 1 values and no
    sample. Σ is S / n, shrunk to the multiple of the identity with the same trace by Ledoit and Wolf's optimal share.

    Sources: streaming LDA, Hayes & Kanan 2020, arXiv 1909.01520; shrinkage, Ledoit & Wolf 2004,
    doi 10.1016/S0047-259X(03)00096-4.
    """

    def __init__(self) -> None:
        self._means: dict[str, Tensor] = {}
        self._scatter: Tensor | None = None
        self._fourth = 0.0
        self._count = 0
        self._classifier: tuple[Tensor, Tensor] | None = None

    def learn(self, task: str, queries: Queries) -> None:
        """Add the task's mean and its scatter around it."""
        rows = _side_by_side(queries)
        mean = rows.mean(0)
        centred = rows - mean
        scatter = centred.T @ centred
        self._means[task] = mean.float()
        self._scatter = (scatter if self._scatter is None else self._scatter + scatter).float()
        self._fourth += float(centred.square().sum(1).square().sum())
        self._count += len(rows)
        self._classifier = None

    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Remove the mean, and from the sums what they have grown by; up to rounding of float32."""
        del self._means[task]
        self._classifier = None
        if not self._means or self._scatter is None:
            self.load_state_dict({})
            return
        gone = after["scatter"].double() - (before["scatter"].double() if before else 0.0)
        self._scatter = (self._scatter.double() - gone).float()
        self._fourth -= after["fourth"] - before.get("fourth", 0.0)
        self._count -= after["count"] - before.get("count", 0)

    def scores(self, queries: Queries) -> Tensor:
        """Log-likelihoods up to what all tasks share; their softmax is the posterior, all tasks equally likely."""
        weights, biases = self._classifier = self._classifier or self._solved()
        return _side_by_side(queries) @ weights + biases

    def covariance(self) -> Tensor:
        """(D, D) shrunk covariance within tasks, float64; the identity when nothing varies (one sample per task)."""
        assert self._scatter is not None, "no task was learned"
        return shrunk(self._scatter.double() / self._count, fourth=self._fourth, count=self._count)

    def _solved(self) -> tuple[Tensor, Tensor]:
        """(D, T) weights and (T,) biases of the linear scores."""
        means = torch.stack(list(self._means.values())).double()
        weights = torch.cholesky_solve(means.T, torch.linalg.cholesky(self.covariance()))
        return weights, -0.5 * (means.T * weights).sum(0)

    @property
    def tasks(self) -> list[str]:
        """Tasks that have a mean."""
        return list(self._means)

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        if self._scatter is None:
            return {}
        return {"means": self._means, "scatter": self._scatter, "fourth": self._fourth, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the sums back."""
        self._means = dict(state.get("means", {}))
        self._scatter = state.get("scatter")
        self._fourth, self._count = state.get("fourth", 0.0), state.get("count", 0)
        self._classifier = None


class RidgeRouter(Router):
    """Ridge regression of the task's column e_t on both queries side by side, x = [q_img, q_ins] of length D:

        min_{W,b} Σ_t 1/n_t Σ_{x of t} |Wᵀx + b - e_t|² + ridge |W|²        t* = argmax_t (Wᵀx + b)_t

    Every task counts alike, however many samples it has. With the mean μ_t of each of the T tasks, x̄ = mean_t μ_t and
    the moments M = Σ_t mean(x xᵀ), the solution is W = (M - T x̄ x̄ᵀ + ridge I)⁻¹ [μ_t - x̄] and b = 1/T - Wᵀx̄. So M
    and the means are all that is kept, D² + T D values: solved anew after each task it is what all tasks together would
    give, and their order does not matter. A task that is learned again counts once, with its latest queries; the
    scatter around means is kept as a sum over tasks, so of the old one the average of a task is taken out.

    Source: analytic class-incremental learning, Zhuang et al. 2022, arXiv 2205.14922, with tasks for classes.

    Args:
        ridge: above 0; beside eigenvalues of M, whose sum is 2 T.
    """

    def __init__(self, *, ridge: float) -> None:
        self._ridge = ridge
        self._means: dict[str, Tensor] = {}
        self._moments: Tensor | None = None
        self._solution: tuple[Tensor, Tensor] | None = None

    def learn(self, task: str, queries: Queries) -> None:
        """Add the task's mean and moments."""
        rows = _side_by_side(queries)
        moments = rows.T @ rows / len(rows)
        if task in self._means:
            moments = moments - self._share_of(task)
        self._means[task] = rows.mean(0)
        self._moments = moments if self._moments is None else self._moments + moments
        self._solution = None

    def forget(self, task: str, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Remove the mean, and from the moments what they have grown by; up to rounding of float64."""
        del self._means[task]
        self._solution = None
        if not self._means or self._moments is None:
            self.load_state_dict({})
            return
        self._moments = self._moments - (after["moments"] - (before["moments"] if before else 0.0))

    def _share_of(self, task: str) -> Tensor:
        """(D, D) what a task that is learned again gave to the moments: its mean, and the average scatter of a task."""
        assert self._moments is not None, "no task was learned"
        means = torch.stack(list(self._means.values()))
        scatter = (self._moments - means.T @ means) / len(means)
        return scatter + torch.outer(self._means[task], self._means[task])

    def scores(self, queries: Queries) -> Tensor:
        """The columns Wᵀx + b."""
        weights, bias = self._solution = self._solution or self.solved()
        return _side_by_side(queries) @ weights + bias

    def probabilities(self, queries: Queries) -> Tensor:
        """The columns, which sum to 1 and estimate the posterior, cut at 0 where they leave it."""
        shares = self.scores(queries).clamp(min=0)
        return shares / shares.sum(1, keepdim=True)

    def solved(self) -> tuple[Tensor, Tensor]:
        """(D, T) W and (T,) b, float64."""
        assert self._moments is not None, "no task was learned"
        means = torch.stack(list(self._means.values()))
        centre = means.mean(0)
        gram = self._moments - len(means) * torch.outer(centre, centre)
        gram = gram + self._ridge * torch.eye(len(gram), dtype=gram.dtype)
        weights = torch.cholesky_solve((means - centre).T, torch.linalg.cholesky(gram))
        return weights, 1 / len(means) - centre @ weights

    @property
    def tasks(self) -> list[str]:
        """Tasks that have a column."""
        return list(self._means)

    def state_dict(self) -> dict[str, Any]:
        """The sums, in float64: differences of large ones decide."""
        return {} if self._moments is None else {"means": self._means, "moments": self._moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the sums back."""
        self._means, self._moments = dict(state.get("means", {})), state.get("moments")
        self._solution = None


def shrunk(covariance: Tensor, *, fourth: float, count: int) -> Tensor:
    """(1 - a) C + a m I with m = tr C / D and Ledoit and Wolf's a = min(1, β / δ), for rows z around their mean 0.

    β = (Σ |z|⁴ / n - |C|²) / n estimates the error of C, δ = |C - m I|² its distance from the target. The share is at
    least 1 / n, less than any Gaussian asks for: a handful of samples may show no spread of |z|⁴ at all.

    Args:
        covariance: (D, D) C = Σ z zᵀ / n.
        fourth: Σ |z|⁴ over the rows.
        count: n.
    """
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    level = covariance.diagonal().mean()
    if level <= 1e-12:
        return identity
    distance = float((covariance - level * identity).square().sum())
    error = (fourth / count - float(covariance.square().sum())) / count
    share = 1.0 if distance <= error else max(error / distance, 1 / count)
    return (1 - share) * covariance + share * level * identity


def _side_by_side(queries: Queries) -> Tensor:
    return torch.cat([queries[m].double() for m in QUERIES], dim=1)
