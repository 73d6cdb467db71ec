"""Continual-learning methods in the Trainer of `transformers`, and in those that derive from it (TRL's `SFTTrainer`).

The methods are those of `evertune run`, unchanged. Trainer clips gradients before it calls `on_pre_optimizer_step`, so
a penalty that a callback adds there is never clipped, and its strength means something else. Here methods change the
gradient at the end of the last `training_step` of an optimizer step: all micro-batches are accumulated, all processes
have the same gradient, and nothing is clipped yet. The weights after each step are those of evertune's own loop
(tests/unit/integrations).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

from transformers import TrainerCallback

from evertune.integrations.rows import Row
from evertune.integrations.state_file import (
    AFTER_TASK,
    MID_TASK,
    SavedState,
    read_state,
    state_in,
    write_state,
)
from evertune.integrations.supported import chosen_methods, refuse_trainer
from evertune.integrations.trainer_task import TrainerTask
from evertune.methods import Method
from evertune.training.states import split_state
from evertune.utils.arguments import named_arguments, path_of
from evertune.utils.errors import UserError, kind_of

__all__ = ["ContinualCallback"]


class ContinualCallback(TrainerCallback):  # type: ignore[misc]
    """Trains each task with methods against forgetting, and remembers what they need for the next task.

    Attach it to the Trainer of each task, one after another:

        continual = ContinualCallback("replay+ewc", options={"ewc": {"strength": 1000.0}})
        for name, rows in tasks.items():
            trainer = Trainer(model=model, args=args, train_dataset=rows, data_collator=collate)
            continual.attach(trainer, task=name)
            trainer.train()

    Its state is in every checkpoint of the Trainer. `trainer.train(resume_from_checkpoint=...)` restores it, and
    `ContinualCallback.from_checkpoint` begins with the next task.

    Args:
        methods: `"replay+ewc"`, a method object, or a list of names and objects that work together.
        options: of methods that are given by name: `{"ewc": {"strength": 1000.0}}`.
        seed: of the methods' random choices.

    Raises:
        UserError: an unknown method or option, or a method that can't work in a Trainer.
    """

    @named_arguments
    def __init__(
        self,
        methods: str | Method | Sequence[str | Method],
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
    ) -> None:
        self.methods, recipe = chosen_methods(methods, options or {})
        self._saved = SavedState(seed, recipe, [method.name for method in self.methods])
        self._rows: dict[str, Row] = {}
        self._attached: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()
        self._task: TrainerTask | None = None

    @classmethod
    def from_checkpoint(cls, path: str | Path, methods: str | Method | Sequence[str | Method] | None = None) -> Self:
        """The callback after the last task that was learned when a checkpoint was written.

        To resume in the middle of a task, call `trainer.train(resume_from_checkpoint=path)`, as always.

        Args:
            path: folder of a checkpoint, or one that `save` has written.
            methods: the same methods again, where they are of a class of your own that this program has not used yet.

        Raises:
            UserError: the folder has no state, or it is of other methods.
        """
        folder = path_of(path, what="path", example="trained/next/checkpoint-26")
        saved = read_state(state_in(folder))
        if methods is None:
            callback = cls(saved.recipe.spec, options=saved.recipe.options, seed=saved.seed)
        else:
            callback = cls(methods, seed=saved.seed)
        callback._take(replace(saved, task=None, start={}, progress={}), folder)
        return callback

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that were learned, in order."""
        return list(self._saved.tasks)

    def attach(self, trainer: Any, *, task: str | None = None) -> Any:
        """Make `trainer.train()` learn one task with the methods.

        Args:
            trainer: a `transformers.Trainer`, or one that derives from it.
            task: name of what its `train_dataset` teaches; by default `task-1`, `task-2` and so on.

        Returns:
            The same trainer.

        Raises:
            UserError: it trains in a way that the methods can't work in; the message says which, and what to do.
        """
        refuse_trainer(trainer, self.methods)
        if not isinstance(task, str | None):
            raise UserError(f"task is {kind_of(task)}: attach(trainer, task='shapes') names what is learned")
        trainer.pop_callback(self)
        trainer.add_callback(self)
        if trainer not in self._attached:
            trainer.train = self._in_train(trainer, trainer.train)
            trainer.training_step = self._in_training_step(trainer, trainer.training_step)
            trainer.compute_loss = self._in_compute_loss(trainer.compute_loss)
            trainer.log = self._in_log(trainer.log)
        self._attached[trainer] = task
        return trainer

    def save(self, folder: str | Path) -> None:
        """Write the state after the last task into `folder`, for `from_checkpoint`."""
        write_state(path_of(folder, what="folder", example="trained/state") / AFTER_TASK, self._now())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a Trainer that has only been given this callback.

        Raises:
            UserError: `attach` was not called.
        """
        if self._task is None:
            raise UserError(
                "ContinualCallback can't see the gradients of a Trainer from its callbacks alone: "
                "call callback.attach(trainer, task='...') before trainer.train()"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An optimizer step is done."""
        if self._task is not None:
            self._task.after_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the state to the checkpoint that was just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._task is not None and args.should_save and folder.is_dir():
            write_state(folder / MID_TASK, self._now())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The task is learned: let the methods take in what it needs, and add that to its last checkpoint."""
        if self._task is None:
            return
        states = self._task.end()
        self._saved = replace(
            self._saved,
            tasks=[name for name in self._saved.tasks if name != self._task.name] + [self._task.name],
            states=states,
            norms=self._task.norms(),
            shapes=self._task.shapes(),
            words=self._task.model.words,
        )
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        folder = Path(best or Path(args.output_dir) / f"checkpoint-{state.global_step}")
        task, self._task = self._task, None
        if args.should_save and folder.is_dir():
            write_state(folder / AFTER_TASK, self._now())
        task.wait_for_everyone()

    def _in_train(self, trainer: Any, train: Any) -> Any:
        @wraps(train)
        def wrapped(resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
            with self._learning(trainer, resume_from_checkpoint):
                return train(resume_from_checkpoint, *args, **kwargs)

        return wrapped

    def _in_training_step(self, trainer: Any, training_step: Any) -> Any:
        @wraps(training_step)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._task is None:
                return training_step(*args, **kwargs)
            with self._task.stepping():
                loss = training_step(*args, **kwargs)
            if trainer.accelerator.sync_gradients:  # the last micro-batch: processes have exchanged their gradients
                self._task.after_backward()
            return loss

        return wrapped

    def _in_compute_loss(self, compute_loss: Any) -> Any:
        @wraps(compute_loss)
        def wrapped(
            model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None, **kwargs: Any
        ) -> Any:
            def plain() -> Any:
                return compute_loss(
                    model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch, **kwargs
                )

            return plain() if self._task is None else self._task.with_terms(plain, inputs, num_items_in_batch)

        return wrapped

    def _in_log(self, log: Any) -> Any:
        @wraps(log)
        def wrapped(logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
            of_training = self._task is not None and "loss" in logs
            return log({**logs, **self._task.take_logged()} if of_training and self._task else logs, *args, **kwargs)

        return wrapped

    @contextmanager
    def _learning(self, trainer: Any, resume_from_checkpoint: Any) -> Iterator[None]:
        """One training of a Trainer, of which all hooks are part; its data set is the methods' plan for as long."""
        dataset = trainer.train_dataset
        if resume_from_checkpoint:
            self._resume(trainer, resume_from_checkpoint)
        name = self._saved.task or self._attached[trainer] or f"task-{len(self._saved.tasks) + 1}"
        try:
            self._task = TrainerTask(trainer, self.methods, name, self._saved, self._rows)
            self._saved = replace(self._saved, task=None, start={}, progress={})
            self._task.begin()
            yield
        finally:
            trainer.train_dataset = dataset
            self._task = None

    def _resume(self, trainer: Any, resume_from_checkpoint: Any) -> None:
        """Take the state in the middle of a task, from the checkpoint that the Trainer resumes from."""
        from transformers.trainer_utils import get_last_checkpoint

        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(trainer.args.output_dir)
        if folder is None:
            raise UserError(f"there is no checkpoint in {trainer.args.output_dir} to resume from")
        if not (path := Path(folder) / MID_TASK).is_file():
            raise UserError(f"{folder} was saved without a ContinualCallback: it can't resume with one")
        saved, name = read_state(path), self._attached[trainer]
        if name not in (None, saved.task):
            raise UserError(
                f"the checkpoint was written while the task '{saved.task}' was learned, and the Trainer is "
                f"attached for '{name}': call attach(trainer, task='{saved.task}')"
            )
        self._take(saved, path)

    def _take(self, saved: SavedState, path: Path) -> None:
        names = [method.name for method in self.methods]
        if saved.names != names:
            raise UserError(f"{path} is of the methods {'+'.join(saved.names)}, not of {'+'.join(names)}")
        self._saved = replace(saved, recipe=self._saved.recipe)
        self._rows.clear()
        self._rows.update(saved.rows)

    def _now(self) -> SavedState:
        """What has to be written now; during a task with what resumes it."""
        saved = self._saved if self._task is None else self._task.mid_task(self._saved)
        return replace(saved, rows=_needed(self._rows, saved))


def _needed(rows: Mapping[str, Row], saved: SavedState) -> dict[str, Row]:
    """Those rows that a method's state refers to."""
    text = json.dumps(split_state({"states": saved.states, "progress": saved.progress}).values)
    return {key: row for key, row in rows.items() if key in text}
