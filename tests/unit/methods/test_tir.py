"""TIR: importance, owners, discount, anchor and gradient against NumPy over three tasks; what breaks it, fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evertune.methods import EWC, MAS, Tir, composed, make_methods
from evertune.methods.tir import OwnedMaximum, normalised
from evertune.models import load_lmm
from evertune.models.weights import fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.utils.errors import UserError

LAMBDA = 3.0
WORDS = ("what colour is it?", "name the paint", "which hue do you see here?")


@pytest.fixture
def tasks(tasks):
    """The toy tasks with instructions that differ in more than their number: equal ones have no z-score."""
    return [
        replace(task, train=tuple(replace(s, instruction=words) for s in task.train))
        for task, words in zip(tasks, WORDS, strict=True)
    ]


# NumPy, without the library's functions ------------------------------------------------------------------------------


def embedding_by_hand(lmm, features, task):
    """Normalised mean of the normalised rows, per modality."""
    rows = [
        features.get(task.train).double().mean(1).numpy(),
        lmm.embed_texts([s.instruction for s in task.train]).double().numpy(),
        lmm.embed_texts([s.answers[0] for s in task.train]).double().numpy(),
    ]
    means = [(r / np.linalg.norm(r, axis=1, keepdims=True)).mean(0) for r in rows]
    return [m / np.linalg.norm(m) for m in means]


def similarity_by_hand(old, new):
    """s of each old task to the new one: the bare cosine of a single pair, else sigmoids of z-scores over all pairs."""
    result = np.ones(len(old))
    for modality in range(3):
        rows = np.stack([task[modality] for task in [*old, new]])
        cosines = rows @ rows.T
        pairs = cosines[np.tril_indices(len(rows), -1)]
        if len(pairs) == 1:
            result *= max(0.0, pairs[0])
        else:
            result *= 1 / (1 + np.exp(-(cosines[:-1, -1] - pairs.mean()) / pairs.std(ddof=1)))
    return result


class ByHand:
    """TIR over one long vector of scalars."""

    def __init__(self, *, accumulate, similar):
        self.accumulate, self.similar = accumulate, similar
        self.importance, self.owner, self.embeddings, self.held = None, None, [], None

    def merge(self, raw, embedding):
        new = raw / raw.sum()
        if self.importance is None:
            self.importance, self.owner = new, np.zeros(len(new), int)
        else:
            base = self.held if self.accumulate else self.importance
            self.owner = np.where(new > base, len(self.embeddings), self.owner)
            self.importance = np.maximum(base, new)
        self.embeddings.append(embedding)

    def begin(self, theta, embedding):
        s = similarity_by_hand(self.embeddings, embedding)
        self.held = self.importance * (s if self.similar else 1 - s)[self.owner]
        self.anchor = theta

    def gradient(self, theta):
        return 2 * LAMBDA * self.held * (theta - self.anchor)


def vector(tensors):
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors.values()])


def mixed(tasks):
    """A fourth task: images and words of the first and the third."""
    return replace(tasks[0], name="mixed", train=tasks[0].train[:4] + tasks[2].train[:4])


def compare(lmm, tasks, features, context, jolt, *, make_rule=OwnedMaximum, penalty=EWC, base=Tir, options=None):
    """Learn three tasks, begin a fourth; before each the penalty's gradient must be the one by hand."""
    options = options or {}
    tir, held = base(**options), penalty(strength=LAMBDA, samples=8)
    tir.rule = lambda: make_rule(tir)
    methods = composed([held, tir])
    hand = ByHand(accumulate=tir.discount == "accumulate", similar=tir.weighting == "similar")
    for method in methods:
        method.setup(context)
    for number, task in enumerate([*tasks, mixed(tasks)]):
        for method in methods:
            method.before_task(task)
        embedding = embedding_by_hand(lmm, features, task)
        if number:
            hand.begin(vector(lmm.trainable()), embedding)
        jolt(0.03, number)
        for parameter in lmm.trainable().values():
            parameter.grad = torch.zeros_like(parameter)
        held.after_backward(lmm.trainable())
        theta = vector(lmm.trainable())
        wanted = hand.gradient(theta) if number else np.zeros_like(theta)
        ours = vector({n: p.grad for n, p in lmm.trainable().items()})
        np.testing.assert_allclose(ours, wanted, rtol=2e-3, atol=1e-4 * np.abs(wanted).max(), err_msg=f"task {number}")
        hand.merge(vector(held.measure(list(task.train))), embedding)
        for method in methods:
            method.after_task(task)
    np.testing.assert_allclose(vector(held.rule.importance), hand.importance, rtol=1e-3, atol=1e-9)
    assert (vector(held.rule.owner) != hand.owner).mean() < 1e-4, "ties apart, the owners are those by hand"
    assert len(set(hand.owner)) >= 2
    return tir, held


@pytest.mark.parametrize("penalty", [EWC, MAS])
@pytest.mark.parametrize("discount", ["accumulate", "once"])
@pytest.mark.parametrize("weighting", ["dissimilar", "similar"])
def test_tir_by_hand(lmm, tasks, features, context, jolt, penalty, discount, weighting):
    options = {"discount": discount, "weighting": weighting}
    tir, held = compare(lmm, tasks, features, context, jolt, penalty=penalty, options=options)
    assert held.rule.tasks == [task.name for task in tasks] + ["mixed"]
    assert all(t.dtype == torch.int16 for t in held.rule.owner.values())
    assert set(tir.state_dict()["similarities"]["mixed"]) == {task.name for task in tasks}


# Each of its three parts alone --------------------------------------------------------------------------------------


def parts_by_hand(lmm, features, tasks, raws, thetas, *, normalise, maximum, discount):
    """The gradient per λ at zero before the last of `tasks`, from the importances and weights after the others.

    The maximum takes all springs at the latest weights and their whole stiffness (λ); the sum, as in EWC, each at the
    weights of its own task and half of it (λ/2).
    """
    embeddings = [embedding_by_hand(lmm, features, task) for task in tasks]
    scaled = [raw / raw.sum() if normalise else raw for raw in raws]
    factors = np.ones((len(tasks), len(scaled)))  # before each task, of each earlier one
    for number in range(1, len(tasks)):
        factors[number] = factors[number - 1]
        if discount:
            factors[number][:number] *= 1 - similarity_by_hand(embeddings[:number], embeddings[number])
    if not maximum:
        return -sum(f * i * t for f, i, t in zip(factors[-1], scaled, thetas, strict=True))
    assert not discount, "the maximum with discounts is the whole of TIR, above"
    return -2 * np.maximum.reduce(scaled) * thetas[-1]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"merging": "sum", "weighting": "none"}, {"normalise": True, "maximum": False, "discount": False}),
        ({"normalise": False, "weighting": "none"}, {"normalise": False, "maximum": True, "discount": False}),
        ({"merging": "sum", "normalise": False}, {"normalise": False, "maximum": False, "discount": True}),
        ({"weighting": "none"}, {"normalise": True, "maximum": True, "discount": False}),
        ({"merging": "sum"}, {"normalise": True, "maximum": False, "discount": True}),
    ],
)
def test_each_part_alone_by_hand(lmm, tasks, features, context, jolt, options, parts):
    tir, held = Tir(**options), EWC(strength=LAMBDA, samples=8)
    methods = composed([held, tir])
    all_tasks, raws, thetas = [*tasks, mixed(tasks)], [], []
    for method in methods:
        method.setup(context)
    for number, task in enumerate(all_tasks):
        for method in methods:
            method.before_task(task)
        if number:
            zero = {name: torch.nn.Parameter(torch.zeros_like(p)) for name, p in lmm.trainable().items()}
            for parameter in zero.values():
                parameter.grad = torch.zeros_like(parameter)
            held.after_backward(zero)
            known = all_tasks[: number + 1]
            wanted = LAMBDA * parts_by_hand(lmm, features, known, raws, thetas, **parts)
            ours = vector({name: p.grad for name, p in zero.items()})
            np.testing.assert_allclose(ours, wanted, rtol=2e-3, atol=1e-4 * np.abs(wanted).max(), err_msg=f"{number}")
        jolt(0.03, number)
        raws.append(vector(held.measure(list(task.train))))
        thetas.append(vector(lmm.trainable()))
        for method in methods:
            method.after_task(task)
        state = {"tir": tir.state_dict(), "ewc": held.state_dict()}
        tir.load_state_dict(state["tir"])
        held.load_state_dict(state["ewc"])


def test_without_any_part_it_is_ewc(tasks, context, jolt, lmm):
    """Not normalised, not discounted, a spring per task: the same gradient, also when a task is learned again."""
    plain, other = EWC(strength=LAMBDA, samples=8), EWC(strength=LAMBDA, samples=8)
    tir = Tir(normalise=False, merging="sum", weighting="none")
    methods = [plain, *composed([other, tir])]
    for method in methods:
        method.setup(context)
    for number, task in enumerate([*tasks, tasks[0]]):
        for method in methods:
            method.before_task(task)
        jolt(0.03, number)
        found = []
        for penalty in (plain, other):
            for parameter in lmm.trainable().values():
                parameter.grad = torch.zeros_like(parameter)
            penalty.after_backward(lmm.trainable())
            found.append(vector({n: p.grad for n, p in lmm.trainable().items()}))
        np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6 * np.abs(found[0]).max())
        for method in methods:
            method.after_task(task)


def test_lambda_is_of_the_size_that_the_importance_has():
    strengths = {}
    for normalise in (True, False):
        penalty = EWC()
        composed([penalty, Tir(normalise=normalise)])
        strengths[normalise] = penalty.strength
    assert strengths == {True: 1e7, False: EWC.default_strength}
    with pytest.raises(UserError, match=r"tir.owner=random .* tir.merging=sum it has none"):
        Tir(owner="random", merging="sum")


# Broken variants -----------------------------------------------------------------------------------------------------


class OwnerOffByOne(OwnedMaximum):
    def before_task(self, task, parameters):
        honest = self.owner
        self.owner = {n: (t + 1) % max(1, len(self.tasks)) for n, t in honest.items()}
        super().before_task(task, parameters)
        self.owner = honest


class AnchorStays(OwnedMaximum):
    def before_task(self, task, parameters):
        first = self._anchor
        super().before_task(task, parameters)
        self._anchor = first or self._anchor


class NotNormalised(OwnedMaximum):
    def merge(self, new, parameters, *, task):
        super().merge({n: 2 * t / t.sum().clamp(min=1e-12) for n, t in new.items()}, parameters, task=task)


class SumInsteadOfMaximum(OwnedMaximum):
    def merge(self, new, parameters, *, task):
        earlier = self._held or self.importance
        super().merge(new, parameters, task=task)
        scaled = normalised(new)
        self.importance = {n: earlier.get(n, torch.zeros_like(t)) + t for n, t in scaled.items()}


class DiscountsBySimilarity(Tir):
    """s where 1 - s belongs."""

    def discounted(self, task, importance, owner, tasks):
        self.weighting = {"similar": "dissimilar", "dissimilar": "similar"}[self.weighting]
        try:
            return super().discounted(task, importance, owner, tasks)
        finally:
            self.weighting = "dissimilar"


class HalfAsStrong(OwnedMaximum):
    """λ/2 where λ belongs."""

    def gradient(self, name, theta):
        return super().gradient(name, theta) / 2


@pytest.mark.parametrize(
    "broken",
    [
        {"make_rule": OwnerOffByOne},
        {"make_rule": AnchorStays},
        {"make_rule": NotNormalised},
        {"make_rule": SumInsteadOfMaximum},
        {"make_rule": HalfAsStrong},
        {"base": DiscountsBySimilarity},
        {"options": {"owner": "random"}},
    ],
    ids=lambda broken: str(next(iter(broken.values()))),
)
def test_a_broken_tir_fails_by_hand(broken, lmm, tasks, features, context, jolt):
    with pytest.raises(AssertionError, match=r"Not equal to tolerance[^\n]*\ntask [1-3]\n"):
        compare(lmm, tasks, features, context, jolt, **broken)


# What else it promises -----------------------------------------------------------------------------------------------


def learned(spec, tasks, folder, options=None):
    lmm = load_lmm("random", seed=1, dtype="float32", device=torch.device("cpu"))
    options = {"ewc": {"samples": 4, "strength": 1e6}, **(options or {})}
    training = Training(epochs=2, batch_size=4, learning_rate=5e-3)
    learner = Learner(lmm, make_methods(spec, options), folder=folder, training=training, reuse=False)
    for task in tasks:
        learner.learn(task)
    return learner


def test_the_order_of_names_does_not_matter(tasks, tmp_path):
    ends = {
        spec: fingerprint_of(learned(spec, tasks, tmp_path / spec).lmm.trainable())
        for spec in ("tir+ewc", "ewc+tir", "ewc")
    }
    assert ends["tir+ewc"] == ends["ewc+tir"] != ends["ewc"]


def test_every_option_changes_the_result(tasks, tmp_path):
    variants = [
        {},
        {"owner": "random"},
        {"weighting": "similar"},
        {"discount": "once"},
        {"weighting": "none"},
        {"merging": "sum"},
        {"normalise": False},
        {"similarity": "instruction"},
        {"similarity": "gradient"},
    ]
    ends = [
        fingerprint_of(learned("tir+ewc", tasks, tmp_path / str(i), {"tir": options}).lmm.trainable())
        for i, options in enumerate(variants)
    ]
    assert len(set(ends)) == len(variants)


def test_a_random_owner_is_any_of_the_old_tasks_and_the_same_each_time(tasks, context):
    tir = Tir(owner="random")
    tir.setup(context)
    for task in tasks[:2]:
        tir.after_task(task)
    ones, owner = {"w": torch.ones(4000)}, {"w": torch.zeros(4000, dtype=torch.int16)}
    names = [task.name for task in tasks[:2]]
    first, second = (tir.discounted(tasks[2], ones, owner, names)["w"] for _ in range(2))
    similar = tir.similarities(tasks[2])
    share = torch.isclose(first, torch.tensor(1 - similar["task-0"])).float().mean()
    assert torch.equal(first, second) and 0.45 < share < 0.55


def test_a_task_that_begins_again_is_not_discounted_twice(tasks, context, set_up):
    """After an interrupted task the same or another one begins: discounts start from what the last task left."""
    tir, ewc = set_up("tir+ewc", {"ewc": {"samples": 4}})
    for method in (tir, ewc):
        method.after_task(tasks[0])
    ewc.before_task(tasks[1])
    once = {n: t.clone() for n, t in ewc.rule.held().items()}
    ewc.before_task(tasks[2])
    ewc.before_task(tasks[1])
    assert all(torch.equal(t, ewc.rule.held()[n]) for n, t in once.items())


def test_a_task_that_is_learned_again_is_its_own_twin(tasks, context, set_up):
    tir, ewc = set_up("tir+ewc", {"ewc": {"samples": 4}})
    for task in tasks[:2]:
        for method in (tir, ewc):
            method.before_task(task)
            method.after_task(task)
    assert tir.similarities(tasks[0])["task-0"] == 1
    for method in (ewc, tir):
        method.before_task(tasks[0])
        method.after_task(tasks[0])
    assert ewc.rule.tasks == ["task-0", "task-1"] and list(tir.state_dict()["embeddings"]) == ["task-0", "task-1"]


def test_importances_sum_to_one_and_zeros_stay():
    tensors = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[4.0]])}
    torch.testing.assert_close(normalised(tensors)["a"], torch.tensor([0.125, 0.375]))
    assert normalised({"a": torch.zeros(2)})["a"].tolist() == [0, 0]


def test_two_penalties_at_once(tasks, tmp_path):
    """Each keeps its own importances and owners."""
    learner = learned("mas+tir+ewc", tasks[:2], tmp_path, {"mas": {"samples": 4}})
    mas, _, ewc = learner.methods
    assert mas.rule is not ewc.rule
    assert not all(torch.equal(t, ewc.rule.importance[n]) for n, t in mas.rule.importance.items())
