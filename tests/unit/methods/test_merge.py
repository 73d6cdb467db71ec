"""Merging: each rule against NumPy on products of low-rank matrices, what tells it from its name, broken variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evertune.methods import Context, Lora, Merge, Sequential, adapted, composed, make_methods, merge_steps
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.points import combined, of_matrix, shortened
from evertune.models.weights import copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.method_contract import check_method
from evertune.utils.errors import UserError

QUICK = Training(epochs=2, learning_rate=0.01, batch_size=4)


class Bench:
    """A model whose tasks are moves of its weights by random numbers: no training."""

    def __init__(self, method, *others, seed=1):
        lmm = load_lmm("random", seed=seed, dtype="float32", device=torch.device("cpu"))
        methods = composed([method, *others])
        self.method, self.lmm = method, adapted(lmm, methods, seed=0)
        self.context = Context(
            lmm=self.lmm, features=FeatureStore(self.lmm), seed=0, start=copy_of(self.lmm.trainable())
        )
        for each in methods:
            each.setup(self.context)

    def learn(self, task, seed):
        """Move every trained weight; returns the weights then, in full."""
        self.method.before_task(task)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.lmm.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        trained = self.weights()
        self.method.after_task(task)
        return trained

    def weights(self):
        """What trains in full, and the product beside each layer, float64."""
        own = {n: p.detach().double().numpy().copy() for n, p in self.lmm.trainable().items() if ".adapter." not in n}
        for path, adapter in getattr(self.lmm, "adapters", {}).items():
            up, down = (part.detach().double().numpy() for part in adapter.factors())
            own[path] = up @ down
        return own


def bench(rule, **options):
    return Bench(Merge(rule=rule, **options), Lora(r=2))


def close(found, wanted):
    assert found.keys() == wanted.keys()
    return all(np.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5) for name in wanted)


def mean(points):
    return {name: np.mean([point[name] for point in points], axis=0) for name in points[0]}


def added(base, *terms):
    return {name: value + sum(f * (p[name] - q[name]) for f, p, q in terms) for name, value in base.items()}


def larger(one, other):
    return np.where(np.abs(one) >= np.abs(other), one, other)


def test_the_average_is_that_of_products(tasks):
    made = bench("average")
    points = [made.learn(task, seed) for seed, task in enumerate(tasks)]
    assert close(made.weights(), mean(points))


@pytest.mark.parametrize("begin", ["latest", "merged"])
def test_the_average_wherever_training_starts(tasks, begin):
    made = bench("average", begin=begin)
    points = [made.learn(task, seed) for seed, task in enumerate(tasks)]
    assert close(made.weights(), mean(points))


def test_task_arithmetic_and_wise(tasks):
    for rule, terms in (("arithmetic", (0, 1, 2)), ("wise", (2,))):
        made = bench(rule, scale=0.3)
        base = made.weights()
        points = [made.learn(task, seed) for seed, task in enumerate(tasks)]
        assert close(made.weights(), added(base, *((0.3, points[n], base) for n in terms))), rule


def test_magmax_takes_the_largest_change_of_each_weight(tasks):
    made = bench("magmax", scale=0.5)
    base = made.weights()
    points = [made.learn(task, seed) for seed, task in enumerate(tasks)]
    wanted = {}
    for name, value in base.items():
        change = points[0][name] - value
        for point in points[1:]:
            change = larger(change, point[name] - value)
        wanted[name] = value + 0.5 * change
    assert close(made.weights(), wanted)


def test_training_starts_where_the_rule_says(tasks):
    for begin in ("base", "latest", "merged"):
        made = bench("average", begin=begin)
        base = made.weights()
        latest = [made.learn(task, seed) for seed, task in enumerate(tasks[:2])][-1]
        merged = made.weights()
        made.method.before_task(tasks[2])
        assert close(made.weights(), {"base": base, "latest": latest, "merged": merged}[begin]), begin


class MergesFactors(Merge):
    """As public code does: the mean of A times the mean of B."""

    def after_task(self, task):
        before, parameters = getattr(self, "_before", None), self.context.parameters
        now = copy_of(parameters)
        self._count += 1
        if before:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(before[name] + (now[name] - before[name]) / self._count)
        self._before = copy_of(parameters)


def test_the_mean_of_factors_is_another_matrix(tasks):
    made = Bench(MergesFactors(), Lora(r=2))
    points = [made.learn(task, seed) for seed, task in enumerate(tasks[:2])]
    assert not close(made.weights(), mean(points))


def fisher_of(monkeypatch, *values):
    """Fisher information of one task after another: `values` of them are functions of a shape."""
    left = list(values)

    def made(context, samples):
        of = left.pop(0)
        return {name: of(p.shape) for name, p in context.lmm.trainable().items()}

    monkeypatch.setattr(merge_steps, "fisher_information", made)


def test_perturb_and_merge_with_equal_fisher_is_the_average(tasks, monkeypatch):
    fisher_of(monkeypatch, *[torch.ones] * 3)
    made = bench("pm")
    points = [made.learn(task, seed) for seed, task in enumerate(tasks)]
    assert close(made.weights(), mean(points))


def random_fisher(seed):
    return lambda shape: torch.rand(shape, generator=torch.Generator().manual_seed(seed)) ** 4


@pytest.mark.thorough
def test_perturb_and_merge_takes_the_best_point_on_the_line(tasks, monkeypatch):
    """Against a search: of many points between m and θ_t that of the smallest Σ_i (θ - θ_i)' F_i (θ - θ_i)."""
    fisher_of(monkeypatch, random_fisher(5), random_fisher(6))
    made = bench("pm")
    points = [made.learn(tasks[0], 0)]
    before = made.weights()
    points.append(made.learn(tasks[1], 1))
    scale = {path: adapter.scale for path, adapter in made.lmm.adapters.items()}

    def cost(share):
        total = 0.0
        for name, value in before.items():
            at = value + share * (points[1][name] - value)
            for point, seed in zip(points, (5, 6), strict=True):
                fisher = random_fisher(seed)(value.shape).double().numpy()
                total += scale.get(name, 1.0) ** 2 * (fisher * (at - point[name]) ** 2).sum()
        return total

    best = min(np.linspace(0, 1, 2001), key=cost)
    assert 0.2 < best < 0.8
    share = 2 * made.method.take_logged()["merge/share"] - 1  # the mean of both tasks was logged, 1 and this one
    assert share == pytest.approx(best, abs=1e-3)
    assert close(made.weights(), added(before, (share, points[1], before)))


def test_a_step_of_perturb_and_merge(tasks, features):
    """The forward pass sees θ, θ + ε Δ or θ - ε Δ, all three come up, and the step is taken at θ."""
    made = bench("pm", perturb=0.5)
    made.learn(tasks[0], 0)
    made.method.before_task(tasks[1])
    before = made.weights()
    with torch.no_grad():
        for parameter in made.lmm.trainable().values():
            parameter.add_(0.1)
    clean, module = made.weights(), made.lmm.module()
    features.ensure(tasks[1].train)
    batch = made.lmm.collate(tasks[1].train[:1], features.get(tasks[1].train[:1]))
    seen = set()
    module.train()
    for _ in range(12):
        module(batch)
        found = [f for f in (-0.5, 0.0, 0.5) if close(made.weights(), added(clean, (f, clean, before)))]
        assert len(found) == 1
        seen.add(found[0])
        module(batch)  # another micro-batch of the same step
        assert close(made.weights(), added(clean, (found[0], clean, before)))
        made.method.after_backward(made.lmm.trainable())
        module(batch)  # a pass of another method
        assert close(made.weights(), clean)
        made.method.after_step(made.lmm.trainable())
    module.eval()
    module(batch)
    assert close(made.weights(), clean) and seen == {-0.5, 0.0, 0.5}


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_moving_average(lmm, tasks, tmp_path, weight):
    """w = 1 is sequential tuning, bit by bit; another w is not."""
    ends = []
    for method in (Merge(rule="ema", weight=weight), Sequential()):
        learner = Learner(lmm, [method], folder=tmp_path / method.name, training=QUICK, reuse=False)
        learner.load(0)
        for task in tasks[:2]:
            learner.learn(task)
        ends.append(fingerprint_of(learner.lmm.trainable()))
        learner.load(0)
    assert (ends[0] == ends[1]) is (weight == 1)


def test_the_weight_of_the_moving_average():
    theta, average, gradient, before = (torch.randn(40, generator=torch.Generator().manual_seed(n)) for n in range(4))
    one = [t.double().numpy() for t in (theta, average, gradient, before)]
    wanted = 2 * (1 + np.abs(one[2]).sum()) / (np.abs(one[0] - one[1]).sum() * np.abs(one[2] - one[3]).sum())
    assert merge_steps.weight_of(theta, average, gradient, before) == pytest.approx(wanted, rel=1e-5)
    assert merge_steps.weight_of(theta, theta, gradient, before) == 0.01, "no distance: outside of (0, 1)"
    assert merge_steps.weight_of(theta, average, 1e-6 * gradient, 1e-6 * before) == 0.01


def test_of_the_models_own_lora_the_nearest_of_its_rank_is_kept(tasks):
    made = Bench(Merge())
    space = made.method._space
    assert len(space.own) == 4
    points = []
    for seed, task in enumerate(tasks[:2]):
        made.method.before_task(task)
        with torch.no_grad():
            for name, parameter in made.lmm.trainable().items():
                if ".lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        points.append(space.point())
        made.method.after_task(task)
    lost, total = 0.0, 0.0
    for layer in space.own:
        wanted = np.mean([point.dense(layer).double().numpy() for point in points], axis=0)
        left, values, right = np.linalg.svd(wanted)
        rank = len(points[0].pairs[layer][0][1])
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        assert np.allclose(space.point().dense(layer).double().numpy(), best, atol=1e-3)
        lost, total = lost + (values[rank:] ** 2).sum(), total + (values**2).sum()
    assert made.method.take_logged()["merge/lost"] == pytest.approx(lost / total / 2, rel=1e-3), "none at first"


def test_the_rank_never_exceeds_the_layers():
    made = [(torch.randn(5, 3), torch.randn(3, 4)) for _ in range(3)]
    total = sum(up @ down for up, down in made)
    ((up, down),) = shortened(made)
    assert len(down) == 4 and torch.allclose(up @ down, total, atol=1e-5)
    for shape in ((5, 4), (4, 5)):
        matrix = torch.randn(shape)
        up, down = of_matrix(matrix)
        assert torch.equal(up @ down, matrix) and len(down) == 4


def test_one_pair_for_each_matrix(tasks):
    made = bench("arithmetic", begin="merged")
    for seed, task in enumerate(tasks):
        made.learn(task, seed)
    ranks = [len(adapter.kept()[1]) for adapter in made.lmm.adapters.values()]
    assert max(ranks) <= 2 * 3, "what two points share is added up"
    point = made.method._space.point()
    twice = combined([point, point], [0.25, 0.75])
    assert all(len(twice.pairs[layer]) == len(pairs) for layer, pairs in point.pairs.items())


class ForgetsTheLatest(Merge):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "latest": copy_of(self.context.parameters) if state["latest"] else {}})


class ForgetsWhatIsBeside(Merge):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "kept": {}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: [ForgetsTheLatest(rule="magmax")], "some state is not saved"),
        (lambda: [ForgetsWhatIsBeside(), Lora(r=2)], "after save and load"),
    ],
)
def test_a_broken_variant_fails(make, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(make)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("merge", {"scale": 0.3}, "merge.scale needs merge.rule=arithmetic, magmax, wise"),
        ("merge", {"rule": "pm", "begin": "base"}, "always starts a task from the merged weights"),
        ("merge", {"weight": 0.5}, "merge.weight needs merge.rule=ema"),
        ("merge", {"rule": "ema", "weight": 2.0}, "merge.weight must lie between 0 and 1"),
        ("merge", {"samples": 0}, "merge.samples must be at least 1"),
        ("merge+olora", {}, "an expansion keeps the weights of each task, so there is nothing to merge; use lora"),
        ("merge+direct", {}, "'direct' is a bound and runs alone"),
    ],
)
def test_wrong_options(spec, options, message):
    with pytest.raises(UserError, match=message):
        make_methods(spec, {"merge": options})


@pytest.mark.slow
def test_what_can_not_be_merged():
    with pytest.raises(UserError, match="mixtures that depend on the input"):
        Bench(Merge(), *make_methods("moelora"))
    with pytest.raises(UserError, match="which has one place: write merge.lora"):
        Bench(Merge(rule="pm"))
