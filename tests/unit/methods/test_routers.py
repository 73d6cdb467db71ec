"""Routers: keys in closed form and by gradient, discriminant analysis against scikit-learn, and their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from torch.nn.functional import cosine_similarity, normalize

from evertune.methods.routers import CalibratedRouter, CosineRouter, RidgeRouter, key_of, shrunk, trained_keys

ROUTERS = {
    "cosine": CosineRouter,
    "gradient": lambda: CosineRouter(seed=0),
    "calibrated": CalibratedRouter,
    "ridge": lambda: RidgeRouter(ridge=1e-3),
}


def rows(n, *, width, shift=0.7, seed=0):
    return normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + shift, dim=1)


def some_queries(seed, *, n=60):
    """A task whose queries point somewhere of its own."""
    shift = 0.6 * torch.randn(1, 12, generator=torch.Generator().manual_seed(100 + seed))
    return {
        "image": rows(n, width=12, shift=shift, seed=seed),
        "instruction": rows(n, width=8, shift=shift[:, :8], seed=50 + seed),
    }


def twins(seed, *, n=400):
    """Two tasks: the same instruction; images vary widely along some directions and differ along a quiet one."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for side in (-1.0, 1.0):
        images = torch.randn(n, 8, generator=generator) * torch.tensor([3.0, 2, 2, 1, 1, 1, 0.03, 0.03])
        images[:, 0] += 6  # what all images have in common
        images[:, 7] += 0.09 * side
        instructions = torch.ones(n, 4)
        result.append({"image": normalize(images, dim=1), "instruction": normalize(instructions, dim=1)})
    return result


def taught(router, tasks):
    for name, queries in tasks.items():
        router.learn(name, queries)
    return router


@pytest.mark.slow
def test_the_closed_form_is_the_optimum_of_the_key_loss():
    """0.1 Σ (1 - cos(q, k)), 2,000 steps at 5e-3, as in the paper, sample by sample."""
    queries = rows(40, width=16)
    key = torch.randn(16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    optimizer = torch.optim.Adam([key], lr=5e-3)
    for _ in range(2000):
        optimizer.zero_grad()
        (0.1 * (1 - cosine_similarity(queries, key[None])).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(normalize(key.detach(), dim=0), key_of(queries), atol=2e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 500])
def test_keys_by_gradient_are_the_keys_in_closed_form(n):
    """At the widths of real encoders, from any random start."""
    queries = {"image": rows(n, width=1280, shift=0.3), "instruction": rows(n, width=576, shift=0.05)}
    for seed in (0, 1):
        for modality, key in trained_keys(queries, seed=seed).items():
            torch.testing.assert_close(key, key_of(queries[modality]), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_trained_keys_depend_on_seed_and_task_only():
    first, second = (taught(CosineRouter(seed=7), {"a": some_queries(1), "b": some_queries(2)}) for _ in range(2))
    torch.manual_seed(99)
    third = taught(CosineRouter(seed=7), {"b": some_queries(2), "a": some_queries(1)})
    for other in (second, third):
        for task, keys in first.state_dict().items():
            assert all(torch.equal(key, other.state_dict()[task][m]) for m, key in keys.items())


def test_shrinkage_is_that_of_ledoit_and_wolf():
    data = np.random.default_rng(0).normal(size=(50, 20)) * np.linspace(0.2, 2, 20)
    wanted, _ = ledoit_wolf(data, assume_centered=True)
    found = shrunk(torch.tensor(data.T @ data / 50), fourth=float(((data**2).sum(1) ** 2).sum()), count=50)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10)


def test_the_calibrated_router_is_discriminant_analysis():
    """scikit-learn's, on all samples at once, with the same shrinkage; tasks of equal size are equally likely."""
    tasks = {f"task-{n}": some_queries(n) for n in range(4)}
    router = taught(CalibratedRouter(), tasks)
    X = {name: np.hstack([q["image"].numpy(), q["instruction"].numpy()]) for name, q in tasks.items()}
    centred = np.vstack([x - x.mean(0) for x in X.values()]).astype(np.float64)
    share = ledoit_wolf_shrinkage(centred, assume_centered=True)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share)
    theirs.fit(np.vstack(list(X.values())), [name for name, x in X.items() for _ in x])
    np.testing.assert_allclose(router.covariance().numpy(), theirs.covariance_, rtol=1e-3, atol=1e-7)
    test = {m: torch.cat([some_queries(n, n=300)[m] for n in range(4)]) for m in ("image", "instruction")}
    chosen = router.choose(test)
    everything = np.hstack([test["image"].numpy(), test["instruction"].numpy()])
    assert chosen == theirs.predict(everything).tolist()
    assert len(set(chosen)) == 4
    np.testing.assert_allclose(router.probabilities(test).numpy(), theirs.predict_proba(everything), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
def test_sureness_is_a_probability(name):
    """Also where scores are thousands apart: log-likelihoods of wide queries are."""
    router = taught(ROUTERS[name](), {f"task-{n}": some_queries(n) for n in range(4)})
    queries = some_queries(2, n=200)
    found = router.probabilities(queries)
    assert found.shape == (200, 4) and bool(((found >= 0) & (found <= 1)).all())
    torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=found.dtype))
    assert [router.tasks[place] for place in found.argmax(1).tolist()] == router.choose(queries)
    assert found[:, 2].mean() > 0.5, "sure of what it is right about"
    far = {"image": 1000 * queries["image"], "instruction": 1000 * queries["instruction"]}
    assert torch.isfinite(router.probabilities(far)).all()


def test_the_regression_gives_its_columns_where_they_are_probabilities():
    router = taught(RidgeRouter(ridge=1e-3), {f"task-{n}": some_queries(n) for n in range(3)})
    columns = router.scores(some_queries(1, n=50))
    torch.testing.assert_close(columns.sum(1), torch.ones(50, dtype=columns.dtype), msg="they sum to one by themselves")
    inside = ((columns >= 0) & (columns <= 1)).all(1)
    assert 0 < inside.sum() < 50
    torch.testing.assert_close(router.probabilities(some_queries(1, n=50))[inside], columns[inside])


@pytest.mark.slow
def test_the_calibrated_router_sees_a_quiet_difference_that_cosines_drown():
    train, test = dict(zip("ab", twins(0), strict=True)), dict(zip("ab", twins(1), strict=True))
    right = {}
    for name, make in ROUTERS.items():
        router = taught(make(), train)
        right[name] = np.mean([chosen == task for task, queries in test.items() for chosen in router.choose(queries)])
    assert right["calibrated"] > 0.9 and right["cosine"] < 0.6, right
    assert right["ridge"] > 0.6, right


def unequal():
    """Tasks of 20, 60, 100 and 140 samples, so that a router that counts samples shows."""
    return {f"task-{n}": some_queries(n, n=20 + 40 * n) for n in range(4)}


def against_scikit_learn(router, tasks, ridge):
    """Our weights and biases against `Ridge` on all samples at once, every task weighing the same."""
    X = np.vstack([np.hstack([q["image"], q["instruction"]]) for q in tasks.values()]).astype(np.float64)
    sizes = [len(q["image"]) for q in tasks.values()]
    Y = np.repeat(np.eye(len(tasks)), sizes, axis=0)
    theirs = Ridge(alpha=ridge).fit(X, Y, sample_weight=np.repeat([1 / n for n in sizes], sizes))
    weights, bias = router.solved()
    np.testing.assert_allclose(weights.numpy(), theirs.coef_.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, rtol=1e-6, atol=1e-8)
    return theirs


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_the_ridge_router_is_ridge_regression(ridge):
    tasks = unequal()
    router = taught(RidgeRouter(ridge=ridge), tasks)
    theirs = against_scikit_learn(router, tasks, ridge)
    test = {m: torch.cat([some_queries(n, n=300)[m] for n in range(4)]) for m in ("image", "instruction")}
    columns = theirs.predict(np.hstack([test["image"].numpy(), test["instruction"].numpy()]).astype(np.float64))
    assert router.choose(test) == [f"task-{n}" for n in columns.argmax(1)]


def test_the_ridge_router_is_least_squares_by_hand():
    """Without scikit-learn: rows for the penalty below the weighted, centred rows, and NumPy's least squares."""
    tasks, ridge = unequal(), 0.3
    X = np.vstack([np.hstack([q["image"], q["instruction"]]) for q in tasks.values()]).astype(np.float64)
    sizes = [len(q["image"]) for q in tasks.values()]
    Y, share = np.repeat(np.eye(4), sizes, axis=0), np.repeat([1 / n for n in sizes], sizes)[:, None]
    x, y = (share * X).sum(0) / 4, (share * Y).sum(0) / 4
    top, right = np.sqrt(share) * (X - x), np.sqrt(share) * (Y - y)
    whole = np.vstack([top, np.sqrt(ridge) * np.eye(20)])
    by_hand = np.linalg.lstsq(whole, np.vstack([right, np.zeros((20, 4))]), rcond=None)[0]
    weights, bias = taught(RidgeRouter(ridge=ridge), tasks).solved()
    np.testing.assert_allclose(weights.numpy(), by_hand, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), y - x @ by_hand, atol=1e-9)


class CountsSamples(RidgeRouter):
    """The moments of a large task weigh more, its column does not: no regression at all."""

    def learn(self, task, queries):
        before = self._moments
        super().learn(task, queries)
        x = torch.cat([queries["image"], queries["instruction"]], dim=1).double()
        self._moments = x.T @ x + (0 if before is None else before)


class PenalisesTheBias(RidgeRouter):
    def solved(self):
        weights, bias = super().solved()
        return weights, bias * 0


@pytest.mark.parametrize("broken", [CountsSamples, PenalisesTheBias])
def test_a_broken_regression_is_noticed(broken):
    tasks = unequal()
    with pytest.raises(AssertionError):
        against_scikit_learn(taught(broken(ridge=1e-2), tasks), tasks, 1e-2)


@pytest.mark.parametrize("name", ["cosine", "calibrated", "ridge"])
def test_the_order_of_tasks_does_not_matter(name):
    tasks = {f"task-{n}": some_queries(n) for n in range(4)}
    forward = taught(ROUTERS[name](), tasks)
    backward = taught(ROUTERS[name](), dict(reversed(tasks.items())))
    questions = some_queries(2, n=200)
    assert forward.choose(questions) == backward.choose(questions)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
def test_only_learned_tasks_are_chosen_and_state_returns(name):
    router = ROUTERS[name]()
    assert router.tasks == []
    ROUTERS[name]().load_state_dict(router.state_dict())
    router.learn("task-0", some_queries(0))
    assert set(router.choose(some_queries(1))) == {"task-0"}
    router.learn("task-1", some_queries(1))
    again = ROUTERS[name]()
    again.load_state_dict(router.state_dict())
    assert torch.equal(again.scores(some_queries(1)), router.scores(some_queries(1))), "every number comes back"
    assert "task-1" in again.choose(some_queries(1))
    for other in (router, again):
        other.learn("task-2", some_queries(2))
    assert torch.equal(again.scores(some_queries(1)), router.scores(some_queries(1))), "and is learned on from"


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
def test_a_single_sample_and_constant_queries(name):
    """Nothing varies: the nearest mean decides."""
    first = {"image": torch.eye(3)[:1], "instruction": torch.eye(2)[:1]}
    second = {"image": torch.eye(3)[1:2].repeat(5, 1), "instruction": torch.eye(2)[:1].repeat(5, 1)}
    router = taught(ROUTERS[name](), {"first": first, "second": second})
    assert router.choose(first) == ["first"] and router.choose(second) == ["second"] * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
def test_queries_that_cancel_out_give_no_direction(name):
    queries = {"image": torch.tensor([[1.0, 0], [-1, 0]]), "instruction": torch.eye(2)}
    router = taught(ROUTERS[name](), {"none": queries, "other": {"image": torch.eye(2), "instruction": torch.eye(2)}})
    assert len(router.choose(queries)) == 2
    if name in ("cosine", "gradient"):
        assert router.state_dict()["none"]["image"].tolist() == [0, 0]


def test_the_state_of_the_calibrated_router_holds_no_sample():
    router = CalibratedRouter()
    for number in range(3):
        router.learn(f"task-{number}", some_queries(number, n=1000))
        sizes = sum(t.numel() for t in [router.state_dict()["scatter"], *router.state_dict()["means"].values()])
        assert sizes == 20 * 20 + (number + 1) * 20


def test_a_task_learned_after_a_question_is_asked_too():
    """The keys laid side by side for the first question are laid anew; so is what is taken back from a state."""
    router = CosineRouter()
    router.learn("first", some_queries(0))
    assert set(router.choose(some_queries(1))) == {"first"}
    router.learn("second", some_queries(1))
    assert "second" in router.choose(some_queries(1))
    router.load_state_dict({"first": router.state_dict()["first"]})
    assert set(router.choose(some_queries(1))) == {"first"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("gone", ["a", "b", "c"])
def test_a_forgotten_task_was_never_learned(name, gone):
    """The state is that of a router which learned the others only, up to the rounding of its sums."""
    tasks = {each: some_queries(at) for at, each in enumerate("abc")}
    router, states = ROUTERS[name](), {}
    for each, queries in tasks.items():
        before = router.state_dict()
        router.learn(each, queries)
        states[each] = {"before": before, "after": router.state_dict()}
    held = router.state_dict()
    router = ROUTERS[name]()
    router.load_state_dict(held)
    router.forget(gone, **states[gone])
    never = taught(ROUTERS[name](), {each: queries for each, queries in tasks.items() if each != gone})
    assert router.tasks == never.tasks
    probe = some_queries(7)
    torch.testing.assert_close(router.scores(probe), never.scores(probe), atol=1e-3, rtol=1e-4)
    assert router.choose(probe) == never.choose(probe)


@pytest.mark.parametrize("name", ROUTERS)
def test_the_only_task_is_forgotten(name):
    router = ROUTERS[name]()
    router.learn("a", some_queries(0))
    router.forget("a", before={}, after=router.state_dict())
    assert router.tasks == [] and not router.state_dict()
