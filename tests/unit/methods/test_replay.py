"""Replay: how many samples are kept, of which tasks, and that a buffer never grows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import prod
from pathlib import Path

import pytest

from evertune.methods import Replay
from evertune.methods.base import Context
from evertune.methods.replay import shared_out
from evertune.methods.similarity import embed_task, similarity_to
from evertune.models.features import FeatureStore
from evertune.models.weights import copy_of
from evertune.utils.errors import UserError


def learn(replay, tasks):
    plans = []
    for task in tasks:
        replay.before_task(task)
        plans.append(list(replay.data_plan(task, task.train)))
        replay.after_task(task)
    return plans


def make(lmm, features, *, seed=5, **options):
    replay = Replay(**options)
    replay.setup(Context(lmm=lmm, features=features, seed=seed, start=copy_of(lmm.trainable())))
    return replay


def test_ratio(lmm, features, tasks):
    plans = learn(make(lmm, features, ratio=0.25), tasks)
    assert [len(plan) for plan in plans] == [8, 8 + 2, 8 + 4]
    assert {s.id for s in plans[2][8:10]} <= {s.id for s in tasks[0].train}
    assert {s.id for s in plans[2][10:]} <= {s.id for s in tasks[1].train}


def test_one_percent_of_a_small_task_is_one_sample(lmm, features, tasks):
    assert [len(plan) for plan in learn(make(lmm, features), tasks)] == [8, 9, 10]


def test_nothing_is_kept_at_ratio_zero(lmm, features, tasks):
    assert [len(plan) for plan in learn(make(lmm, features, ratio=0.0), tasks)] == [8, 8, 8]


def test_a_buffer_is_shared_out_and_never_grows(lmm, features, tasks):
    replay = make(lmm, features, buffer=5)
    plans = learn(replay, tasks)
    assert [len(plan) for plan in plans] == [8, 13, 13]
    assert sum(len(rows) for rows in replay.state_dict()["memory"].values()) == 5
    names = [s.id.split("-")[0] for s in plans[2][8:]]
    assert sorted(names) == ["0", "0", "0", "1", "1"]


def test_the_same_seed_keeps_the_same_samples(lmm, features, tasks):
    first, second = make(lmm, features, ratio=0.5), make(lmm, features, ratio=0.5)
    learn(first, tasks), learn(second, tasks)
    assert first.state_dict() == second.state_dict()
    assert json.loads(json.dumps(first.state_dict())) == first.state_dict(), "references, not tensors"


@pytest.mark.parametrize(
    "options", [{"ratio": -0.1}, {"ratio": 1.1}, {"buffer": -1}, {"repeat": 0}, {"choice": "reservoir"}]
)
def test_bad_options(options):
    with pytest.raises(UserError, match="replay"):
        Replay(**options)


def owners(samples):
    return Counter(f"task-{s.id.split('-')[0]}" for s in samples)


def test_a_reservoir_is_a_uniform_choice_of_everything_seen(lmm, features, tasks):
    """Tasks of 8, 24 and 8 samples, a memory of 4: over many seeds 4 x 8/40, 4 x 24/40 and 4 x 8/40 places."""
    many = [replace(s, id=f"1-{n}") for n, s in enumerate(tasks[1].train * 3)]
    stream = [tasks[0], replace(tasks[1], train=tuple(many)), tasks[2]]
    total, last = Counter(), Counter()
    for seed in range(600):
        replay = make(lmm, features, buffer=4, choice="reservoir", seed=seed)
        for task in stream:
            replay.after_task(task)
        state = replay.state_dict()
        kept = [row["id"] for rows in state["memory"].values() for row in rows]
        assert len(kept) == len(set(kept)) == 4 and state["seen"] == 40
        total.update(f"task-{i.split('-')[0]}" for i in kept)
        last.update(kept)
    for name, wanted in {"task-0": 0.8, "task-1": 2.4, "task-2": 0.8}.items():
        assert total[name] / 600 == pytest.approx(wanted, abs=0.12)  # four standard errors
    assert len(last) == 40, "every sample has its chance"


class EveryOutcome:
    """Stands in for random numbers: each outcome of all draws together, and how likely it is."""

    def __init__(self, script):
        self.script, self.ranges = script, []

    def randrange(self, end):
        self.ranges.append(end)
        return self.script[len(self.ranges) - 1] if len(self.ranges) <= len(self.script) else 0


def outcomes(run):
    """Calls `run` with every sequence of draws; yields what it gives, and the probability of that sequence."""
    left = [()]
    while left:
        script = left.pop()
        choose = EveryOutcome(script)
        result = run(choose)
        drawn = (*script, *[0] * (len(choose.ranges) - len(script)))
        yield result, prod(Fraction(1, end) for end in choose.ranges)
        for place in range(len(script), len(drawn)):
            left += [(*drawn[:place], other) for other in range(1, choose.ranges[place])]


@pytest.mark.parametrize(("buffer", "sizes"), [(1, (3, 2)), (2, (1, 4)), (3, (2, 2, 2)), (4, (2, 1))])
def test_a_reservoir_keeps_each_sample_with_the_same_probability(buffer, sizes, tasks, context):
    """Exactly buffer / samples, over all draws that there can be; also of the first ones, and across tasks."""
    samples = [replace(tasks[0].train[0], id=f"{n}") for n in range(sum(sizes))]
    stream, start = [], 0
    for number, size in enumerate(sizes):
        stream.append(replace(tasks[0], name=f"t{number}", train=tuple(samples[start : start + size])))
        start += size

    def run(choose):
        replay = Replay(buffer=buffer, choice="reservoir")
        replay.setup(context)
        for task in stream:
            replay._choose(task, choose)
        return [row["id"] for rows in replay.state_dict()["memory"].values() for row in rows]

    chance, total = Counter(), Fraction(0)
    for result, probability in outcomes(run):
        total += probability
        assert len(set(result)) == len(result) == min(buffer, len(samples))
        for name in result:
            chance[name] += probability
    assert total == 1
    wanted = min(Fraction(1), Fraction(buffer, len(samples)))
    assert chance == {sample.id: wanted for sample in samples}


def test_a_reservoir_goes_on_after_save_and_load(lmm, features, tasks):
    whole, resumed = (make(lmm, features, buffer=4, choice="reservoir") for _ in range(2))
    learn(whole, tasks)
    learn(resumed, tasks[:1])
    state = json.loads(json.dumps(resumed.state_dict()))
    resumed.setup(resumed.context)
    assert not resumed.state_dict()["memory"] and resumed.state_dict()["seen"] == 0, "setup begins anew"
    resumed.load_state_dict(state)
    learn(resumed, tasks[1:])
    assert resumed.state_dict() == whole.state_dict()


def s_of(lmm, features, tasks):
    found = {task.name: embed_task(lmm, features, task.train) for task in tasks}
    new = tasks[-1].name
    return similarity_to(found.pop(new), found, name=new)


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"buffer": 6}, {"ratio": 0.5, "repeat": 3}])
def test_weighting_moves_places_between_tasks(lmm, features, tasks, options):
    """By hand: |M_k| w_k / Σ |M_j| w_j of the places, as many places as without weights."""
    s = s_of(lmm, features, tasks)
    even = learn(make(lmm, features, **options), tasks)
    plans = {w: learn(make(lmm, features, weighting=w, **options), tasks) for w in ("similar", "dissimilar")}
    counts = {w: owners(plan[2][8:]) for w, plan in plans.items()}
    places = len(even[2]) - 8
    for weighting, weight in (("similar", dict(s)), ("dissimilar", {k: 1 - v for k, v in s.items()})):
        assert [len(plan) for plan in plans[weighting]] == [len(plan) for plan in even]
        assert counts[weighting].total() == places
        for name, value in weight.items():  # both earlier tasks have the same number of kept samples
            assert abs(counts[weighting][name] - places * value / sum(weight.values())) < 1
    near, far = max(s, key=s.get), min(s, key=s.get)
    assert counts["similar"][near] >= counts["similar"][far] and counts["similar"] != counts["dissimilar"]
    assert owners(plans["similar"][1][8:]) == owners(even[1][8:]), "with one earlier task there is nothing to weigh"


def test_places_within_a_task_are_spread(lmm, features, tasks):
    replay = make(lmm, features, ratio=0.5, weighting="similar")
    plans = learn(replay, tasks)
    for name in owners(plans[2][8:]):
        often = Counter(s.id for s in plans[2][8:] if f"task-{s.id[0]}" == name)
        assert max(often.values()) - min(often.values()) <= 1


def test_shared_out():
    assert shared_out(10, {"a": 1.0, "b": 1.0, "c": 1.0}, otherwise={}) == {"a": 4, "b": 3, "c": 3}
    assert shared_out(7, {"a": 0.0, "b": 0.2}, otherwise={}) == {"a": 0, "b": 7}
    assert shared_out(5, {"a": 0.0, "b": 0.0}, otherwise={"a": 2, "b": 3}) == {"a": 2, "b": 3}
    for total in range(30):
        assert sum(shared_out(total, {"a": 0.31, "b": 0.127, "c": 2.0}, otherwise={}).values()) == total


def test_known_tasks_enter_the_memory(lmm, features, tasks):
    for options in ({"ratio": 0.25}, {"buffer": 4, "choice": "reservoir", "weighting": "similar"}):
        learned, knows = make(lmm, features, **options), make(lmm, features, **options)
        learn(learned, tasks[:2])
        for task in tasks[:2]:
            knows.on_known_task(task)
        ours, theirs = knows.state_dict(), learned.state_dict()
        assert ours["memory"] == theirs["memory"] and ours["seen"] == theirs["seen"]
        assert ours["embeddings"].keys() == theirs["embeddings"].keys()
        assert learn(knows, tasks[2:]) == learn(learned, tasks[2:])
        assert len(learn(knows, tasks[2:])[0]) > 8


def test_images_of_a_new_task_are_looked_at_before_it_is_planned(lmm, tasks, tmp_path):
    """The similarity needs the features of a task that nobody has encoded yet."""
    replay = make(lmm, FeatureStore(lmm, folder=tmp_path), weighting="similar")
    assert [len(plan) for plan in learn(replay, tasks)] == [8, 9, 10]


@pytest.mark.parametrize("repeat", [1, 2, 5])
def test_each_kept_sample_is_repeated(lmm, features, tasks, repeat):
    plans = learn(make(lmm, features, ratio=0.25, repeat=repeat), tasks)
    assert [len(plan) for plan in plans] == [8, 8 + 2 * repeat, 8 + 4 * repeat]
    assert set(Counter(s.id for s in plans[2][8:]).values()) == {repeat}


def test_a_kept_sample_is_the_whole_sample(lmm, features, tasks):
    """All its images, answers and extras, also after save and load; and one without an image."""
    one, two, three = tasks[0].train[:3]
    rich = replace(
        one, images=one.images + two.images, answers=("red", "crimson"), extras={"size": "48"}, instruction="which?"
    )
    blind = replace(three, images=(), instruction="name a word")
    replay = make(lmm, features, ratio=1.0)
    learn(replay, [replace(tasks[0], train=(rich, blind))])
    state = json.loads(json.dumps(replay.state_dict()))
    replay.setup(replay.context)
    replay.load_state_dict(state)
    found = {s.id: s for s in replay.data_plan(tasks[1], ())}
    assert found == {s.id: replace(s, origin="the memory of task-0") for s in (rich, blind)}
    assert found[rich.id].fingerprint == rich.fingerprint and found[rich.id].extras == rich.extras


def test_samples_are_kept_where_the_learner_says(lmm, features, tasks):
    """What enters the memory was copied and names no place; what is replayed is the copy as it is found now."""
    origins = []

    def keep(sample):
        origins.append(sample.origin)
        return replace(sample, images=(Path("copy.png"),))

    def kept(sample):
        return replace(sample, images=tuple(Path("now") / image for image in sample.images))

    replay = Replay(ratio=0.5)
    start = copy_of(lmm.trainable())
    replay.setup(Context(lmm=lmm, features=features, seed=5, start=start, keep=keep, kept=kept))
    replay.after_task(tasks[0])
    rows = replay.state_dict()["memory"]["task-0"]
    assert len(origins) == len(rows) == 4 and all(row["image"] == "copy.png" for row in rows)
    assert all(s.images == (Path("now/copy.png"),) for s in replay.data_plan(tasks[1], ())) and len(origins) == 4
