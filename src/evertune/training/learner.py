"""The learner: learn a task, ask, evaluate, save, load, roll back.

A benchmark calls `learn` in a loop; a learner writes a run folder.

    learner = Learner(load_lmm("smol"), make_methods("replay"), folder=Path("my-model"))
    learner.learn(task)
    learner.ask("photo.png", "what is this?")
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evertune.data.images import size_of
from evertune.data.objects import ImageLike, image_path
from evertune.data.task import Sample, Task, data_digest
from evertune.methods import Context, Method, adapted, composed
from evertune.methods.hook_results import expert_by, planned_by
from evertune.models.feature_policy import FeaturePolicy
from evertune.models.features import FeatureStore, OnEncoded
from evertune.models.fsdp import spread_frozen
from evertune.models.protocol import LMM
from evertune.models.readable import refuse_unreadable
from evertune.models.weights import copy_of, restore
from evertune.training.evaluator import OnAnswered, Prediction, answer_samples, longest_answer
from evertune.training.image_store import keep_images, kept_images
from evertune.training.loop import OnStep, Training, logged_by, trained_parameters
from evertune.training.mid_task_checkpoint import FILE as MID_TASK
from evertune.training.stages import (
    FILES,
    Stage,
    load_stage,
    read_log,
    refuse_references,
    save_stage,
    saved_stages,
    stage_folder,
)
from evertune.training.states import split_state
from evertune.training.text_probe import text_losses
from evertune.training.training_cache import train_or_reuse
from evertune.utils import distributed
from evertune.utils.arguments import named_arguments, plain_number
from evertune.utils.device import no_fixed_order
from evertune.utils.errors import RunFolderError, UserError, kind_of
from evertune.utils.files import linked_or_copied
from evertune.utils.symlinks import refuse_links


class Learner:
    """An LMM, the methods that protect its known tasks, and the folder of its stages.

    Args:
        lmm: a freshly loaded model; its current weights are the start point. A method may put adapters beside
            its layers: `self.lmm` is the model with them.
        methods: a list of methods (`make_methods`).
        folder: for the stages; existing stages are loaded.
        training: hyper-parameters of every task.
        seed: decides every random choice, together with the task's name.
        evaluation_batch: questions answered at once.
        max_new_tokens: longest answer; None: two tokens more than the task's longest training answer.
        known: tasks that the model knows before the first stage, for methods that protect them.
        reuse: reuse bit-identical trainings and predictions from the cache.
        upto: resume from this stage and ignore later ones; default: the last.
        features: where vision features are kept; it changes no number but by rounding.

    Raises:
        RunFolderError: a stage in `folder` is damaged, or links are in it. UserError: a method lacks another.
    """

    def __init__(
        self,
        lmm: LMM,
        methods: Sequence[Method],
        *,
        folder: Path,
        training: Training | None = None,
        seed: int = 0,
        evaluation_batch: int = 128,
        max_new_tokens: int | None = None,
        known: Sequence[Task] = (),
        reuse: bool = True,
        upto: int | None = None,
        features: FeaturePolicy | None = None,
    ) -> None:
        refuse_links(folder)
        self.methods = composed(methods)
        self.lmm = lmm = adapted(lmm, self.methods, seed=seed)
        if distributed.uses_fsdp():
            spread_frozen(lmm)
        self.folder = folder
        self.training = training or Training()
        self.seed = seed
        self.evaluation_batch = evaluation_batch
        self.max_new_tokens = max_new_tokens
        self.known = tuple(known)
        self.reuse = reuse
        self.features = FeatureStore(lmm, policy=features)
        self._longest: dict[tuple[str, int, int], int] = {}
        self._start = copy_of(lmm.trainable())
        self._context = Context(
            lmm=lmm,
            features=self.features,
            seed=seed,
            start=self._start,
            keep=partial(keep_images, folder),
            kept=partial(kept_images, folder),
        )
        self.stages: list[Stage] = saved_stages(folder, upto=upto)
        self.current = 0
        self.load(len(self.stages))

    def learn(self, task: Task, *, on_step: OnStep | None = None, on_encoded: OnEncoded | None = None) -> Stage:
        """Train on one more task and save the next stage.

        `on_encoded` gets (samples looked at, in all) while images are encoded.

        Raises:
            DataError: an image is broken. NotFiniteError: a loss or a gradient is not finite. TrainingInterrupted: by
                SIGTERM; the training is saved and the same call resumes it. Earlier stages stay valid, and the model is
                as it was before the call.
        """
        if self.current < len(self.stages):
            raise UserError(
                f"the model is at stage {self.current} of {len(self.stages)}: roll back first, or load the last"
            )
        try:
            stage = self._learned(task, on_step=on_step, on_encoded=on_encoded)
        except BaseException:
            if distributed.world_size() == 1:  # else the others wait elsewhere, and all end
                self.load(self.current)
            raise
        distributed.barrier()
        self.stages.append(stage)
        self.current = stage.number
        if not distributed.is_main_process():
            self._take(stage)  # results differ between CPUs: from here on all processes have bit-identical weights
        return stage

    def _learned(self, task: Task, *, on_step: OnStep | None, on_encoded: OnEncoded | None) -> Stage:
        """Train on a task; the next stage is on disk afterwards."""
        self.features.ensure(task.train, progress=on_encoded, together=True)  # here all processes take part
        for method in self.methods:
            method.before_task(task)
        plan: Sequence[Sample] = task.train
        for method in self.methods:
            plan = planned_by(method, task, plan)
        self.features.ensure(plan, progress=on_encoded, together=True)
        log, seconds, reused = train_or_reuse(
            self.lmm,
            self.methods,
            task,
            plan,
            self.features,
            training=self.training_of(task),
            seed=self.seed,
            folder=self.folder,
            reuse=self.reuse,
            on_step=on_step,
        )
        for method in self.methods:
            method.after_task(task)
        if log:
            log[-1] = replace(log[-1], logged={**log[-1].logged, **logged_by(self.methods)})
        state = self._state()
        stage = self._stage(task, samples=len(plan), steps=len(log), seconds=seconds, reused=reused, state=state)
        if distributed.is_main_process():
            save_stage(
                self.folder,
                stage,
                trainable=self.lmm.trainable(),
                start=self._start,
                state=state,
                log=[step.as_dict() for step in log],
            )
            (self.folder / MID_TASK).unlink(missing_ok=True)
        return stage

    def _stage(
        self, task: Task, *, samples: int, steps: int, seconds: float, reused: bool, state: Mapping[str, Any]
    ) -> Stage:
        """The record of the stage that follows the last."""
        return Stage(
            number=len(self.stages) + 1,
            task=task.name,
            samples=samples,
            steps=steps,
            seconds=seconds,
            reused=reused,
            stored_bytes=split_state(state).nbytes,
            trained_parameters=sum(p.numel() for p in trained_parameters(self.lmm, self.methods).values()),
            data=data_digest(task),
        )

    def training_of(self, task: Task) -> Training:
        """The hyper-parameters of this task: those of all tasks, adapted to few samples."""
        return self.training.fitted(len(task.train))

    def answers(
        self, task: Task, *, on_answered: OnAnswered | None = None, on_encoded: OnEncoded | None = None
    ) -> list[Prediction]:
        """Predictions for the test samples of `task`; the methods don't get the task's name, unless `needs_task_id`."""
        self.features.ensure(task.test, progress=on_encoded, together=True)
        with no_fixed_order():
            return answer_samples(
                self.lmm,
                self.methods,
                task.test,
                self.features,
                batch_size=self.evaluation_batch,
                max_new_tokens=self._longest_answer(task),
                task=task.name,
                reuse=self.reuse,
                on_answered=on_answered,
            )

    def text_losses(self) -> list[tuple[float, int]]:
        """The loss of each passage of the text probe, see `text_losses`."""
        with no_fixed_order():
            return text_losses(self.lmm, self.methods, self.features, reuse=self.reuse)

    def _longest_answer(self, task: Task) -> int:
        """Cached by task, since it is a pass over all training answers."""
        key = (task.name, len(task.train), len(task.test))
        if key not in self._longest:
            self._longest[key] = longest_answer(self.lmm, task, self.max_new_tokens)
        return self._longest[key]

    def needs_task_id(self) -> bool:
        """Whether a method needs the task of a question."""
        return any(method.needs_task_id() for method in self.methods)

    def expert_of(self, task: str) -> str | None:
        """Name of the expert that serves `task`; None when there is none."""
        return next((expert for m in self.methods if (expert := expert_by(m, task)) is not None), None)

    def ranking(self, sample: Sample) -> list[tuple[str, float]]:
        """The learned tasks that a sample may be from, with the router's probabilities; empty if nothing is routed."""
        rankings = (method.ranking(sample) for method in self.methods)
        return next((ranking for ranking in rankings if ranking), [])

    def activate(self, expert: str) -> None:
        """Put an expert's weights into the model, until a stage is loaded or trained."""
        for method in self.methods:
            method.activate(expert)

    @named_arguments
    def ask(
        self,
        image: ImageLike | Sequence[ImageLike],
        instruction: str,
        *,
        task: str | None = None,
        max_new_tokens: int = 16,
    ) -> Prediction:
        """Answer one question about an image, or as many as the model takes; `task` is for methods that need it only.

        An image is a path, a PIL image, the bytes of a file, or a (height, width, 3) array.

        Raises:
            UserError: the instruction is empty, or a method needs the task.
            DataError: an image is missing or broken, or the model takes another number of them.
        """
        images = image if isinstance(image, list | tuple) else (image,)
        if not isinstance(instruction, str):
            raise UserError(f"the instruction is {kind_of(instruction)}: ask(image, instruction) in this order")
        if not instruction.strip():
            raise UserError("the instruction is empty: ask something")
        sample = Sample(
            "ask", tuple(image_path(each, origin="ask") for each in images), instruction.strip(), (), origin="ask"
        )
        refuse_unreadable(sample, self.lmm, [size_of(path, origin="ask") for path in sample.images])
        self.features.ensure([sample])
        return answer_samples(
            self.lmm, self.methods, [sample], self.features, batch_size=1, max_new_tokens=max_new_tokens, task=task
        )[0]

    def load(self, number: int) -> None:
        """Load the model after stage `number`; 0 is the base model. Later stages stay on disk.

        Raises:
            UserError: there is no such stage. RunFolderError: it is damaged.
        """
        if not isinstance(plain_number(number), int):
            raise UserError(f"the stage is {kind_of(number)}; taken is its number, 0 to {len(self.stages)}")
        if not 0 <= number <= len(self.stages):
            raise UserError(f"there is no stage {number}; {self.folder} has stages 0 to {len(self.stages)}")
        restore(self.lmm.trainable(), self._start)
        for method in self.methods:
            method.setup(self._context)
        if number:
            self._take(self.stages[number - 1])
        else:
            self._know()
        self.current = number

    def refresh(self, *, upto: int | None = None) -> None:
        """Reload stages that another process has changed meanwhile, and load the last stage, or stage `upto`.

        Raises:
            RunFolderError: a stage is damaged or gone.
        """
        self.stages = saved_stages(self.folder, upto=upto)
        self.load(len(self.stages))

    def rollback(self, to: int) -> None:
        """Delete every stage after stage `to`, permanently.

        Raises:
            UserError: there is no such stage.
        """
        self.load(to)
        for stage in reversed(self.stages[to:]):
            folder = stage_folder(self.folder, stage.number, stage.task)
            (folder / "done.json").unlink()  # first: from here on the stage does not exist
            shutil.rmtree(folder)
        self.stages = self.stages[:to]

    def write_without(self, task: str, into: Path) -> list[Stage]:
        """Write the stages to another folder as if `task` had never been learned; returns them.

        The model is at another stage afterwards (`load`). `into` has this folder's configuration.

        Raises:
            UserError: later stages rest on what it learned; the message says how. RunFolderError: a stage is damaged.
        """
        at = next(stage.number for stage in self.stages if stage.task == task)
        kept, names = list(self.stages[: at - 1]), {}
        for stage in kept:
            own = stage_folder(self.folder, stage.number, stage.task)
            shutil.copytree(own, stage_folder(into, stage.number, stage.task), copy_function=linked_or_copied)
            names[own.name] = own.name
        before, after = (self._state_at(number) for number in ((at - 1, at) if at < len(self.stages) else (0, 0)))
        for stage in self.stages[at:]:
            self.load(stage.number)
            own = stage_folder(self.folder, stage.number, stage.task)
            if self.expert_of(task) is None:
                raise UserError(f"all tasks share the weights that have learned '{task}'")
            for method in self.methods:
                method.forget(task, before=before[method.name], after=after[method.name])
            state = self._state()
            refuse_references(state, own, names)
            moved = replace(stage, number=stage.number - 1, stored_bytes=split_state(state).nbytes)
            names[own.name] = stage_folder(into, moved.number, moved.task).name
            save_stage(
                into,
                moved,
                trainable=self.lmm.trainable(),
                start=self._start,
                state=state,
                log=read_log(own),
                renamed=names,
            )
            kept.append(moved)
        return kept

    def _state_at(self, number: int) -> dict[str, Any]:
        self.load(number)
        return self._state()

    def _know(self) -> None:
        """Pass the tasks that the base model knows to the methods."""
        for task in self.known:
            self.features.ensure(task.train, together=True)
            for method in self.methods:
                method.on_known_task(task)

    def _state(self) -> dict[str, Any]:
        return {method.name: method.state_dict() for method in self.methods}

    def _take(self, stage: Stage) -> None:
        trainable, state = load_stage(self.folder, stage, start=self._start)
        if set(trainable) != set(self.lmm.trainable()) or set(state) != {m.name for m in self.methods}:
            raise RunFolderError(f"{self.folder} was made with another model or other methods")
        folder = stage_folder(self.folder, stage.number, stage.task)
        try:
            restore(self.lmm.trainable(), trainable)
        except RunFolderError as problem:
            raise RunFolderError(f"{folder / FILES[0]}: {problem}") from problem
        for method in self.methods:
            self._give(method, state[method.name], folder / FILES[1])

    @staticmethod
    def _give(method: Method, state: dict[str, Any], path: Path) -> None:
        """Turn any error of a method about a state into an error about its file."""
        try:
            method.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as problem:
            reason = problem if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
            raise RunFolderError(f"{path}: the state of {method.name} can't be used ({reason})") from problem
