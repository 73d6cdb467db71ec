"""EProj: routing by hand, where experts start, when they are reused, what is known before, and the oracle."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from evertune.data.task import Task
from evertune.methods import EProj
from evertune.methods.base import BASE, Context
from evertune.methods.similarity import embed_task, gradient_direction, similarity_to
from evertune.models import load_lmm
from evertune.models.weights import bytes_of, copy_of
from evertune.training.evaluator import answer_samples
from evertune.training.learner import Learner
from evertune.training.loop import Training
from evertune.training.stages import FILES
from evertune.training.states import read_tensors
from evertune.utils.errors import UserError
from evertune.utils.files import digest


@pytest.fixture
def make(lmm, features):
    start = copy_of(lmm.trainable())

    def make(cls=EProj, **options):
        method = cls(**options)
        method.setup(Context(lmm=lmm, features=features, seed=0, start=start))
        return method

    return make


@pytest.fixture
def eproj(make):
    return make()


def train_by_hand(method, lmm, task, amount):
    """A stage whose training adds `amount` to every weight; returns the weights that it began with."""
    method.before_task(task)
    began = copy_of(lmm.trainable())
    with torch.no_grad():
        for parameter in lmm.trainable().values():
            parameter.add_(amount)
    method.after_task(task)
    return began


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def similarities(lmm, features, tasks):
    found = {task.name: embed_task(lmm, features, task.train) for task in tasks}
    new = tasks[-1].name
    return similarity_to(found.pop(new), found, name=new)


def test_routing_by_hand(eproj, lmm, tasks, features):
    for task in tasks:
        eproj.after_task(task)
    sample = tasks[1].test[0]
    image = features.get([sample]).float().mean(1)[0]
    text = lmm.embed_texts([sample.instruction])[0]
    sums = {}
    for task in tasks:
        images = torch.stack([normalize(features.get([s]).float().mean(1)[0], dim=0) for s in task.train]).mean(0)
        words = torch.stack([normalize(lmm.embed_texts([s.instruction])[0], dim=0) for s in task.train]).mean(0)
        sums[task.name] = float(cosine_similarity(image, images, 0) + cosine_similarity(text, words, 0))
    assert eproj.route([sample]) == [max(sums, key=sums.get)]


def only_learned_tasks_are_chosen(method, tasks):
    everything = [s for task in tasks for s in task.test]
    if method.route(everything) is not None:
        return False
    method.after_task(tasks[0])
    return set(method.route(everything)) == {tasks[0].name}


class Unmasked(EProj):
    """Keys of all tasks from the start, as if they had been learned."""

    future = ()

    def after_task(self, task):
        super().after_task(task)
        for other in self.future:
            if other.name not in self._serves:
                self.on_known_task(other)


@pytest.mark.parametrize("router", ["cosine", "calibrated"])
def test_tasks_not_learned_yet_are_never_chosen(make, tasks, router):
    assert only_learned_tasks_are_chosen(make(router=router), tasks)
    broken = make(Unmasked, router=router)
    broken.future = tasks
    assert not only_learned_tasks_are_chosen(broken, tasks)


def test_each_expert_keeps_its_weights(eproj, lmm, tasks):
    saved = {}
    for number, task in enumerate(tasks):
        eproj.before_task(task)
        assert all(torch.equal(p, eproj.context.start[n]) for n, p in lmm.trainable().items()), "starts untouched"
        with torch.no_grad():
            for parameter in lmm.trainable().values():
                parameter.add_(number + 1)
        eproj.after_task(task)
        saved[task.name] = copy_of(lmm.trainable())
    for name, wanted in saved.items():
        eproj.activate(name)
        assert all(torch.equal(p, wanted[n]) for n, p in lmm.trainable().items())


def test_unknown_expert(eproj):
    with pytest.raises(UserError, match="no expert 'x'"):
        eproj.activate("x")


def test_a_new_expert_starts_from_the_most_similar_one(make, lmm, features, tasks):
    method = make(init="similar")
    start = copy_of(lmm.trainable())
    assert same(train_by_hand(method, lmm, tasks[0], 1.0), start)
    train_by_hand(method, lmm, tasks[1], 2.0)
    s = similarities(lmm, features, tasks)
    wanted = max(s, key=s.get)
    began = train_by_hand(method, lmm, tasks[2], 4.0)
    method.activate(wanted)
    assert same(began, copy_of(lmm.trainable()))
    assert set(method.state_dict()["experts"]) == {task.name for task in tasks}, "it is a new expert all the same"


def test_gradients_of_tasks_are_compared_at_the_weights_of_the_start(make, lmm, tasks):
    """Not at those of the expert that was learned last."""
    method = make(init="similar", similarity="gradient")
    at_start = [gradient_direction(method.context, task.train) for task in tasks]
    for task in tasks:
        train_by_hand(method, lmm, task, 1.0)
    found = method.state_dict()["embeddings"]
    for task, direction in zip(tasks, at_start, strict=True):
        assert torch.equal(found[task.name]["gradient"], direction)


def test_threshold_zero_keeps_a_single_expert(make, lmm, tasks):
    method = make(expand="when-dissimilar", threshold=0.0)
    began = [train_by_hand(method, lmm, task, 1.0) for task in tasks]
    state = method.state_dict()
    assert set(state["experts"]) == {"task-0"} and set(state["serves"].values()) == {"task-0"}
    assert set(state["router"]) == {task.name for task in tasks}, "a pair of keys for each task"
    assert same(began[2], {name: value + 1 + 1 for name, value in began[0].items()}), "it is trained further"
    assert set(method.route([s for task in tasks for s in task.test])) == {"task-0"}


def test_the_threshold_decides_by_similarity(make, lmm, features, tasks):
    s = similarities(lmm, features, tasks)
    nearest = max(s, key=s.get)
    first = similarities(lmm, features, tasks[:2])["task-0"]
    assert first > s[nearest], "else this test can't tell the threshold's sides apart"
    for threshold, experts in ((s[nearest], ["task-0"]), (s[nearest] + 1e-6, ["task-0", "task-2"])):
        method = make(expand="when-dissimilar", threshold=threshold)
        for task in tasks:
            train_by_hand(method, lmm, task, 1.0)
        assert list(method.state_dict()["experts"]) == experts


def again(task, name):
    """More data of the same kind: other rows of the same two lists."""
    return Task(name, tuple(replace(s, id=f"{name}-{s.id}") for s in task.train), task.test)


def test_an_expert_that_nobody_would_find_is_not_made(make, lmm, tasks):
    """Data of a kind that is known train the expert of that kind; others get one of their own."""
    method = make(expand="when-separable", router="calibrated")
    for task in tasks:
        train_by_hand(method, lmm, task, 1.0)
    assert list(method.state_dict()["experts"]) == [task.name for task in tasks], "these can be told apart"
    learned_first = method.state_dict()["experts"]["task-1"]
    began = train_by_hand(method, lmm, again(tasks[1], "more"), 1.0)
    assert same(began, learned_first), "it goes on where that one ended"
    assert method.state_dict()["serves"]["more"] == "task-1"
    assert set(method.route(tasks[1].test)) == {"task-1"}, "whichever of the two it is taken for"


@pytest.mark.parametrize("router", ["cosine", "calibrated"])
def test_what_a_new_task_is_taken_for_against_a_count_by_hand(make, lmm, tasks, router):
    method = make(expand="when-separable", router=router)
    for task in tasks[:2]:
        train_by_hand(method, lmm, task, 1.0)
    new = Task("new", (*again(tasks[0], "a").train, *tasks[2].train), tasks[2].test)
    before = method.state_dict()["router"]
    found = method.taken_for(new)
    assert method.state_dict()["router"].keys() == before.keys(), "it was only tried"
    order = random.Random(digest("halves", "0", "new")).sample(range(len(new.train)), len(new.train))
    half = len(order) // 2
    by_hand = make(router=router)
    for task in (*tasks[:2], Task("new", tuple(new.train[at] for at in order[:half]), ())):
        by_hand.after_task(task)
    chosen = by_hand.route([new.train[at] for at in order[half:]])
    shares = {name: chosen.count(name) / len(chosen) for name in ("task-0", "task-1") if name in chosen}
    assert found == pytest.approx(shares) and found


def test_nothing_is_foreseen_to_be_lost_by_the_expert_that_learns_more(make, lmm, tasks):
    method = make(expand="when-separable", router="calibrated", init="similar")
    for task in tasks:
        train_by_hand(method, lmm, task, 1.0)
    before = set(method.state_dict()["embeddings"])
    found = method.preview_task(again(tasks[1], "more"), tasks)
    assert found.expert == "task-1" and found.taken["task-1"] >= method.confusion_threshold
    assert found.lost["task-1"] == 0, "its questions go there already"
    method.preview_task(tasks[1], tasks)
    assert set(method.state_dict()["embeddings"]) == before, "it was only looked at"


def test_the_share_that_is_mistaken_decides(make, lmm, tasks):
    for mistaken, experts in ((0.05, 1), (1.01, 2)):
        method = make(expand="when-separable", confusion_threshold=mistaken)
        train_by_hand(method, lmm, tasks[0], 1.0)
        train_by_hand(method, lmm, again(tasks[0], "more"), 1.0)
        assert len(method.state_dict()["experts"]) == experts


def test_the_untouched_model_is_not_trained_further(make, lmm, tasks):
    method = make(expand="when-separable", confusion_threshold=0.0)
    method.on_known_task(tasks[0])
    train_by_hand(method, lmm, again(tasks[0], "more"), 1.0)
    assert method.state_dict()["serves"] == {"task-0": BASE, "more": "more"}


def learned(folder, tasks, lmm, **options):
    learner = Learner(
        lmm, [EProj(**options)], folder=folder, training=Training(epochs=10, learning_rate=1e-2), reuse=False
    )
    for task in tasks:
        learner.learn(task)
    return learner.methods[0].state_dict()


@pytest.fixture
def fresh(lmm):
    start = copy_of(lmm.trainable())

    def fresh():
        for name, parameter in lmm.trainable().items():
            parameter.data.copy_(start[name])
        return lmm

    return fresh


def test_a_threshold_above_one_is_the_same_as_always(fresh, tasks, tmp_path):
    always = learned(tmp_path / "always", tasks, fresh())
    never = learned(tmp_path / "never", tasks, fresh(), expand="when-dissimilar", threshold=1.1)
    assert always["serves"] == never["serves"]
    assert all(same(expert, never["experts"][name]) for name, expert in always["experts"].items())


def test_the_penalty_holds_a_reused_expert(fresh, tasks, tmp_path):
    """The stronger, the less it moves where it matters."""
    first = learned(tmp_path / "first", tasks[:1], fresh(), expand="when-dissimilar", threshold=0.0)
    old, importance = first["experts"]["task-0"], first["importance"]["task-0"]
    moved = []
    for strength in (0.0, 1e3, 1e5):
        options = {"expand": "when-dissimilar", "threshold": 0.0, "reuse_strength": strength}
        new = learned(tmp_path / str(strength), tasks[:2], fresh(), **options)["experts"]["task-0"]
        moved.append(float(sum((importance[n] * (new[n] - old[n]) ** 2).sum() for n in old)))
    assert moved[0] > 1.2 * moved[1] and moved[1] > 2 * moved[2] > 0, moved


def test_the_gradient_of_the_penalty(make, lmm, tasks):
    """Against autograd on λ Σ I (θ - θ_old)²; nothing is added while a new expert trains."""
    method = make(expand="when-dissimilar", threshold=0.0, reuse_strength=7.0)
    method.before_task(tasks[0])
    assert not method.adds_to_loss()
    method.after_task(tasks[0])
    method.before_task(tasks[1])
    assert method.adds_to_loss()
    importance, old = method.state_dict()["importance"]["task-0"], copy_of(lmm.trainable())
    assert float(sum(value.sum() for value in importance.values())) == pytest.approx(1.0, rel=1e-5)
    moved = {name: (p + torch.randn_like(p)).detach().requires_grad_() for name, p in old.items()}
    (7.0 * sum((importance[n] * (p - old[n]) ** 2).sum() for n, p in moved.items())).backward()
    wanted = {name: p.grad + 1 for name, p in moved.items()}
    for parameter in moved.values():
        parameter.grad = torch.ones_like(parameter)
    method.after_backward(moved)
    for name, parameter in moved.items():
        torch.testing.assert_close(parameter.grad, wanted[name])


def test_importance_of_a_reused_expert_is_the_maximum(make, lmm, tasks):
    method = make(expand="when-dissimilar", threshold=0.0)
    values = iter((1.0, 3.0))

    def estimate(context, samples):
        """All of it in the first parameter, then spread evenly."""
        first = next(values) == 1.0
        names = list(context.parameters)
        return {n: torch.full_like(p, float(n == names[0] or not first)) for n, p in context.parameters.items()}

    method.estimate = estimate
    for task in tasks[:2]:
        train_by_hand(method, lmm, task, 1.0)
    found = method.state_dict()["importance"]["task-0"]
    names = list(lmm.trainable())
    count = sum(p.numel() for p in lmm.trainable().values())
    torch.testing.assert_close(found[names[0]].flatten()[0].item(), 1 / lmm.trainable()[names[0]].numel())
    torch.testing.assert_close(found[names[1]].flatten()[0].item(), 1 / count)


def test_known_tasks_share_the_untouched_model(make, lmm, tasks):
    method = make(expand="when-dissimilar", threshold=0.0)
    start = copy_of(lmm.trainable())
    method.on_known_task(tasks[0])
    method.on_known_task(tasks[1])
    everything = [s for task in tasks for s in task.test]
    assert set(method.route(everything)) == {BASE} and method.expert_of("task-0") == BASE
    assert not method.state_dict()["experts"], "the start point is not stored again"
    assert same(train_by_hand(method, lmm, tasks[2], 1.0), start), "what is known is never trained further"
    assert set(method.state_dict()["experts"]) == {"task-2"}
    assert set(method.route(everything)) == {BASE, "task-2"}
    method.activate(BASE)
    assert same(copy_of(lmm.trainable()), start)


def test_the_oracle_is_told_the_task(make, lmm, features, tasks):
    method = make(routing="oracle")
    assert method.needs_task_id() and not make().needs_task_id()

    def answer(samples_of, **more):
        return answer_samples(
            lmm, [method], samples_of.test, features, batch_size=4, max_new_tokens=2, reuse=False, **more
        )

    untouched = [a.text for a in answer(tasks[1], task="task-1")]
    for task in tasks[:2]:
        train_by_hand(method, lmm, task, 0.05)
    assert {a.expert for a in answer(tasks[0], task="task-1")} == {"task-1"}, "the name decides, not the samples"
    assert {a.expert for a in answer(tasks[2], task="task-2")} == {BASE}, "not learned yet"
    assert [a.text for a in answer(tasks[1], task="task-9")] == untouched
    with pytest.raises(UserError, match="say which it is"):
        answer(tasks[0])


def test_a_task_with_a_single_sample(make, lmm, tasks):
    for router in ("cosine", "calibrated"):
        method = make(router=router, expand="when-dissimilar", threshold=1.1)
        for task in tasks:
            method.before_task(task)
            method.after_task(Task(task.name, task.train[:1], task.test))
        for task in tasks:
            assert set(method.route(task.train[:1])) == {task.name}


def test_an_embedding_that_is_not_finite_is_named(eproj, lmm, tasks, monkeypatch):
    def embed(self, texts):
        return torch.cat([torch.ones(len(texts) - 1, 4), torch.full((1, 4), float("nan"))])

    monkeypatch.setattr(type(lmm), "embed_texts", embed)
    with pytest.raises(UserError, match=f"instruction embedding of sample '{tasks[0].train[-1].id}' is not finite"):
        eproj.after_task(tasks[0])


@pytest.mark.parametrize(
    "options",
    [
        {"router": "calibrated", "keys": "gradient"},
        {"threshold": 0.7},
        {"confusion_threshold": 0.3},
        {"expand": "when-separable", "threshold": 0.7},
        {"expand": "when-separable", "confusion_threshold": -0.1},
        {"expand": "when-dissimilar", "threshold": -1.0},
        {"expand": "when-dissimilar", "reuse_strength": float("nan")},
    ],
)
def test_options_that_would_be_ignored_or_make_no_sense(options):
    with pytest.raises(UserError, match="eproj"):
        EProj(**options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_on_disk_is_one_expert_as_the_model_is(dtype, tasks, tmp_path):
    """Not the weights a second time, nor what the expert leaves untouched."""
    lmm = load_lmm("random", dtype=dtype, device=torch.device("cpu"))
    learner = Learner(
        lmm, [EProj(expert="projection")], folder=tmp_path, training=Training(learning_rate=1e-2), reuse=False
    )
    for task in tasks[:2]:
        learner.learn(task)
        expert = lmm.scopes()["projection"]
        size = sum(lmm.trainable()[name].numel() for name in expert) * lmm.dtype.itemsize
        written = {
            place: read_tensors(path)[0] for place in FILES for path in tmp_path.glob(f"stages/*{task.name}/{place}")
        }
        assert not written["trainable.safetensors"]
        experts = {name: t for name, t in written["method.safetensors"].items() if "/experts/" in name}
        assert bytes_of(experts) == size < bytes_of(lmm.trainable())
        assert {t.dtype for t in experts.values()} == {lmm.dtype}
    answered = [answer.text for answer in learner.answers(tasks[1])]
    now = copy_of(lmm.trainable())
    again = Learner(
        load_lmm("random", dtype=dtype, device=torch.device("cpu")),
        [EProj(expert="projection")],
        folder=tmp_path,
        training=Training(learning_rate=1e-2),
        reuse=False,
    )
    assert [answer.text for answer in again.answers(tasks[1])] == answered
    assert same(copy_of(again.lmm.trainable()), now)
