"""GEM: the projection against an independent quadratic program, and that no earlier task is pointed against."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls

from evertune.methods import AGem, Gem, make_methods
from evertune.methods.gem import smallest_combination
from evertune.utils.errors import UserError


def random_gradients(*, tasks, size, seed, rank=None):
    generator = np.random.default_rng(seed)
    references = generator.standard_normal((tasks, rank or size)) @ np.eye(rank or size, size)
    return references, generator.standard_normal(size)


@pytest.mark.parametrize("seed", range(20))
def test_the_dual_program(seed):
    """Against non-negative least squares of SciPy: |R' v + g| is smallest. Also with dependent tasks."""
    references, g = random_gradients(tasks=1 + seed % 6, size=8, seed=seed, rank=3 if seed % 3 == 0 else None)
    found = smallest_combination(torch.tensor(references @ references.T), torch.tensor(references @ g)).numpy()
    wanted, _ = nnls(references.T, -g)
    assert (found >= 0).all()
    assert np.allclose(references.T @ found, references.T @ wanted, atol=1e-8)


def made(set_up, lmm, tasks, kind, references, monkeypatch):
    """A method whose reference gradients are given, and gradients of the model's size."""
    method = kind(ratio=0.25)
    method.setup(set_up("sequential")[0].context)
    method._memory = {name: [{"id": name}] for name in references}
    method.before_task(tasks[2])
    monkeypatch.setattr(method, "reference", lambda rows, trained, *words: references[words[0] if words else "task-0"])
    return method


def vectors(lmm, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in lmm.trainable().values()]


def flat(tensors):
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def step(lmm, method, gradients):
    parameters = lmm.trainable()
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = gradient.clone()
    method.after_backward(parameters)
    after = flat(parameter.grad for parameter in parameters.values())
    for parameter in parameters.values():
        parameter.grad = None
    return after


@pytest.fixture
def conflict(lmm):
    """A gradient against two of three tasks; A-GEM with one of them leaves it against the other."""
    r = {f"task-{n}": vectors(lmm, n) for n in range(3)}
    noise = vectors(lmm, 9)
    g = [n - 0.5 * a - 0.3 * b for n, a, b in zip(noise, r["task-0"], r["task-1"], strict=True)]
    return {name: r[name] for name in ("task-0", "task-1")}, g


def test_no_earlier_task_is_pointed_against(set_up, lmm, tasks, conflict, monkeypatch):
    references, g = conflict
    rows = np.stack([flat(r) for r in references.values()])
    after = step(lmm, made(set_up, lmm, tasks, Gem, references, monkeypatch), g)
    assert (rows @ flat(g) < 0).all() and (rows @ after >= -1e-4 * np.linalg.norm(after)).all()
    solved = minimize(
        lambda v: 0.5 * np.square(rows.T @ v + flat(g)).sum(),
        np.zeros(2),
        jac=lambda v: rows @ (rows.T @ v + flat(g)),
        bounds=[(0, None)] * 2,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-8},
    )
    assert np.allclose(after, rows.T @ solved.x + flat(g), atol=1e-4)


def test_one_mean_reference_does_not_do_it(set_up, lmm, tasks, conflict, monkeypatch):
    """The broken variant: A-GEM with the reference of one task."""
    references, g = conflict
    after = step(lmm, made(set_up, lmm, tasks, AGem, references, monkeypatch), g)
    assert (np.stack([flat(r) for r in references.values()]) @ after < -1).any()


def test_without_a_conflict_nothing_changes(set_up, lmm, tasks, conflict, monkeypatch):
    references, _ = conflict
    g = references["task-0"]
    after = step(lmm, made(set_up, lmm, tasks, Gem, {"task-0": g}, monkeypatch), g)
    assert np.array_equal(after, flat(g)), "bit-identical"


def test_an_empty_memory_changes_nothing(set_up, lmm, tasks, conflict):
    (method,) = set_up("gem")
    method.before_task(tasks[0])
    assert np.array_equal(step(lmm, method, conflict[1]), flat(conflict[1]))
    assert not method.adds_to_loss()


def test_wrong_options():
    with pytest.raises(UserError, match=r"gem\.samples must be 1 or more"):
        make_methods("gem", {"gem": {"samples": 0}})
