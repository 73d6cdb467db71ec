"""`check_method`: the contract that every method keeps, as a public suite. Run it on your own method.

    from evertune import check_method
    check_method(lambda: [MyMethod(strength=3)])

It uses the model `random` and three tiny tasks, and takes seconds. A violation is an AssertionError that names the
rule.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evertune.data.task import Sample, Task
from evertune.methods import Direct, Method, Sequential, adapted, refuse_unusable
from evertune.models import load_lmm
from evertune.models.protocol import LMM, Trainable
from evertune.models.weights import bytes_of, copy_of, fingerprint_of
from evertune.training.learner import Learner
from evertune.training.loop import Step, Training
from evertune.training.states import split_state
from evertune.utils.arguments import named_arguments
from evertune.utils.errors import UserError, kind_of

MakeMethods = Callable[[], Sequence[Method]]
NewLearner = Callable[[MakeMethods, Path], Learner]
COLOURS = ("red", "green", "blue", "yellow", "black", "white")
TRAINING = Training(epochs=2, batch_size=4, learning_rate=5e-3)
SMALL_GROWTH = 0.05
"""Share of the trained parameters' bytes that a method may add per task without being an expansion."""


@named_arguments
def check_method(
    make: MakeMethods, *, model: str = "random", model_options: Mapping[str, Any] | None = None, seed: int = 3
) -> None:
    """Check the contract on the methods that `make` returns; each call of `make` must return new ones.

    Args:
        make: makes the methods.
        model: a small model, a preset or a checkpoint folder; `random` is of the family smol.
        model_options: what trains, for a model that leaves it open.
        seed: of the runs that are compared.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    for method in made_by(make):
        refuse_unusable(method)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tasks = toy_tasks(folder / "tasks")
        lmm = load_lmm(model, seed=seed, dtype="float32", device=torch.device("cpu"), options=model_options or {})
        new: NewLearner = partial(_learner, lmm=lmm, seed=seed)
        whole = new(make, folder / "whole")
        frozen = _frozen(whole.lmm)
        stages = _stages(whole, tasks)
        after, sizes = [], []
        for task in stages:
            whole.learn(task)
            after.append(fingerprint_of(whole.lmm.trainable()))
            sizes.append([split_state(method.state_dict()).nbytes for method in whole.methods])
        assert _frozen(whole.lmm) == frozen, "a frozen parameter was changed"
        _check_hidden_task(whole, tasks, folder / "hidden")
        _check_save_and_load(whole, make, tasks, new)
        _check_evaluation_changes_nothing(whole.folder, make, tasks, new)
        _check_resume(after[-1], make, stages, folder, new)
        _check_memory(whole, sizes)
        if not any(method.acts_from_first_task for method in whole.methods) and _trains_all(whole):
            _check_first_stage(after[0], make, stages[0], folder / "direct", new)
        _check_neutral(make, tasks, folder, new)


def made_by(make: MakeMethods) -> list[Method]:
    """The methods that `make` returns.

    Raises:
        UserError: it is no function, or returns no list of methods.
    """
    example = "check_method(lambda: [MyMethod(alpha=0.1)])"
    if isinstance(make, type) or not callable(make):
        raise UserError(f"check_method takes a function that makes methods: {example}")
    made = make()
    if not isinstance(made, Sequence) or not all(isinstance(method, Method) for method in made):
        raise UserError(f"the function returns {kind_of(made)}, not a list of methods: {example}")
    if not made:
        raise UserError(f"the function returns no methods, so there is nothing to check: {example}")
    return list(made)


def _trains_all(learner: Learner) -> bool:
    return all(method.is_trainable(name) for method in learner.methods for name in learner.lmm.trainable())


def toy_tasks(folder: Path, *, count: int = 3) -> list[Task]:
    """Tasks of plain coloured images, two colours each, with an instruction of their own."""
    tasks = []
    for number in range(count):
        rows = []
        for index, colour in enumerate(COLOURS[2 * number : 2 * number + 2] * 6):
            path = folder / f"{number}-{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (48, 48), colour)
            image.putpixel((index, number), (128, 128, 128))
            image.save(path)
            rows.append(Sample(f"{number}-{index}", (path,), f"{'colour? ' * (number + 1)}", (colour,), str(path)))
        tasks.append(Task(f"task-{number}", tuple(rows[:8]), tuple(rows[8:])))
    return tasks


def _learner(make: MakeMethods, folder: Path, *, lmm: LMM, seed: int) -> Learner:
    """With a copy of the model as it was loaded: a copy takes a tenth of the time."""
    return Learner(deepcopy(lmm), make(), folder=folder, training=TRAINING, seed=seed, max_new_tokens=4, reuse=False)


def _stages(learner: Learner, tasks: Sequence[Task]) -> list[Task]:
    stages = list(tasks)
    for method in learner.methods:
        stages = method.stages(stages)
    return stages


def _frozen(lmm: Trainable) -> str:
    trainable = lmm.trainable()
    return fingerprint_of({name: p for name, p in lmm.module().named_parameters() if name not in trainable})


def _predictions(learner: Learner, tasks: Sequence[Task]) -> list[tuple[str, str | None]]:
    return [(answer.text, answer.expert) for task in tasks for answer in learner.answers(task)]


def _check_evaluation_changes_nothing(folder: Path, make: MakeMethods, tasks: Sequence[Task], new: NewLearner) -> None:
    """Whatever is in the model: what was learned last is often what answers last too, and would hide a change."""
    learner = new(make, folder)
    if (first := learner.expert_of(learner.stages[0].task)) is not None:
        learner.activate(first)
    with torch.no_grad():
        for parameter in learner.lmm.trainable().values():
            parameter.add_(0.01)  # the weights of no expert
    before, state = fingerprint_of(_tensors(learner.lmm)), _state(learner)
    _predictions(learner, tasks)
    assert fingerprint_of(_tensors(learner.lmm)) == before, "answering changed the weights"
    assert _state(learner) == state, "answering changed what a method knows"


def _tensors(lmm: Trainable) -> dict[str, Tensor]:
    """Everything that the model computes with."""
    return {**dict(lmm.module().named_parameters()), **dict(lmm.module().named_buffers())}


def _state(learner: Learner) -> str:
    return split_state({method.name: method.state_dict() for method in learner.methods}).fingerprint


def _check_hidden_task(learner: Learner, tasks: Sequence[Task], folder: Path) -> None:
    """Only a method that says `needs_task_id` may answer otherwise when nothing tells which task a question is from."""
    if learner.needs_task_id():
        return
    oracle_answers = {s.fingerprint: a for t in tasks for s, a in zip(t.test, learner.answers(t), strict=True)}
    samples = [sample for task in tasks for sample in task.test]
    random.Random(0).shuffle(samples)
    hidden = Task("hidden", (), tuple(_disguised(sample, folder, n) for n, sample in enumerate(samples)))
    for sample, answer in zip(samples, learner.answers(hidden), strict=True):
        open_answer = oracle_answers[sample.fingerprint]
        assert (answer.text, answer.expert) == (open_answer.text, open_answer.expert), (
            "an answer changes when the task is hidden: the method must say `needs_task_id`, and results will say so"
        )


def _disguised(sample: Sample, folder: Path, number: int) -> Sample:
    """The same images and instruction, and nothing else that says where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{number}-{place}.png" for place in range(len(sample.images)))
    for image, path in zip(sample.images, paths, strict=True):
        shutil.copyfile(image, path)
    return Sample(str(number), paths, sample.instruction, ("hidden",), "hidden")


def _check_save_and_load(learner: Learner, make: MakeMethods, tasks: Sequence[Task], new: NewLearner) -> None:
    fresh = new(make, learner.folder)
    assert fingerprint_of(fresh.lmm.trainable()) == fingerprint_of(learner.lmm.trainable()), (
        "weights differ after save and load"
    )
    assert _predictions(fresh, tasks) == _predictions(learner, tasks), "answers or routes differ after save and load"


def _check_resume(end: str, make: MakeMethods, stages: Sequence[Task], folder: Path, new: NewLearner) -> None:
    """Cut off in the middle of every stage, each time continued by a new learner: bit-identical at the end.

    A new learner begins every stage, too. So runs that are cut off only there are needed for the message alone.
    """
    found, resumed_at = _interrupted(make, stages, folder / "mid_task", new)
    if (found, resumed_at) == (end, [2] * len(stages)):
        return
    for task in stages:
        new(make, folder / "resumed").learn(task)
    resumed = new(make, folder / "resumed")
    assert fingerprint_of(resumed.lmm.trainable()) == end, (
        "a run that was interrupted after each stage ends with other weights: some state is not saved"
    )
    assert set(resumed_at) == {2}, "a training that was saved after its first step was not resumed there"
    raise AssertionError(
        "a run that was interrupted inside its stages ends with other weights: what a method collects step by step "
        "must be in its `progress_dict`"
    )


def _interrupted(make: MakeMethods, stages: Sequence[Task], folder: Path, new: NewLearner) -> tuple[str, list[int]]:
    """The weights at the end of a run that is cut off in its second step of every stage, and where it resumed."""

    def interrupt(step: Step) -> None:
        if step.step == 2:
            raise InterruptedError

    resumed_at = []
    for task in stages:
        first = new(make, folder)
        first.training = replace(first.training, save_every=1)
        with suppress(InterruptedError):
            first.learn(task, on_step=interrupt)
        seen: list[int] = []
        new(make, folder).learn(task, on_step=lambda step, seen=seen: seen.append(step.step))  # type: ignore[misc]
        resumed_at.append(seen[0])
    return fingerprint_of(new(make, folder).lmm.trainable()), resumed_at


def _check_memory(learner: Learner, sizes: Sequence[Sequence[int]]) -> None:
    """Only an expansion may store much more with every task; others may declare a key or an embedding per task.

    Args:
        learner: at the end of its stages.
        sizes: bytes of tensors in the state of each method, after each stage.
    """
    if any(method.about.kind == "expansion" for method in learner.methods):
        return
    limit = SMALL_GROWTH * bytes_of(learner.lmm.trainable())
    for method, own in zip(learner.methods, zip(*sizes, strict=True), strict=True):
        most, declared = method.holds_at_most(), method.grows_by()
        if most is not None:
            assert own[-1] <= most, f"the state has {own[-1]} bytes of tensors, and declares {most} at most"
            continue
        assert declared <= limit, (
            f"declares a growth of {declared} bytes per task; above {limit:.0f} it is an expansion"
        )
        assert own[-1] <= own[0] + declared * (len(own) - 1), (
            f"stored bytes grow with the number of tasks: {list(own)}, declared per task: {declared}"
        )


class _Like:
    """A mixin: the model that other methods would train, with their adapters."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = methods

    def adapt(self, lmm: LMM, *, seed: int) -> LMM:
        return adapted(lmm, self._methods, seed=seed)


class _DirectLike(_Like, Direct):
    """Each task alone, tuned on that model."""


class _SequentialLike(_Like, Sequential):
    """One task after another, tuned on that model."""


def _check_first_stage(first: str, make: MakeMethods, task: Task, folder: Path, new: NewLearner) -> None:
    """With one task there is nothing to remember: every method must equal tuning on it alone."""
    direct = new(lambda: [_DirectLike(make())], folder)
    direct.learn(task)
    assert fingerprint_of(direct.lmm.trainable()) == first, "the first task is trained differently than alone"


def _check_neutral(make: MakeMethods, tasks: Sequence[Task], folder: Path, new: NewLearner) -> None:
    """With its strength at zero a method must equal sequential tuning."""
    kinds = [type(method) for method in make()]
    if any(kind.sequential_equivalent is None for kind in kinds):
        return

    def at_zero() -> list[Method]:
        return [kind(**(kind.sequential_equivalent or {})) for kind in kinds]

    neutral = new(at_zero, folder / "neutral")
    plain = new(lambda: [_SequentialLike(at_zero())], folder / "plain")
    for learner in (neutral, plain):
        for task in tasks:
            learner.learn(task)
    ours, theirs = copy_of(neutral.lmm.trainable()), copy_of(plain.lmm.trainable())
    assert fingerprint_of(ours) == fingerprint_of(theirs), "with neutral options it differs from sequential tuning"
