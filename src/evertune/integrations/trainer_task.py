"""One task that a Trainer learns: the methods' hooks, called where evertune's own loop calls them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evertune.data.task import Task
from evertune.integrations.bare_model import BareModel, NoFeatures, batch_of, logits_of
from evertune.integrations.rows import PlannedDataset, Row, Rows
from evertune.integrations.state_file import SavedState
from evertune.methods import Context, Method
from evertune.methods.hook_results import planned_by, terms_of
from evertune.models.protocol import Batch, Output
from evertune.models.weights import copy_of, restore
from evertune.training.states import split_state
from evertune.utils.errors import UserError

FAR = 0.01
"""Relative difference of a parameter's norm from which a model is not the one that the last task has left."""


class TrainerTask:
    """The task `name` in a Trainer, from the state `saved` after the tasks before it.

    Args:
        trainer: its data set becomes the methods' plan when the task begins.
        methods: their hooks are called in order.
        name: of the task.
        saved: what the methods know; with `start`, training resumes in the middle of the task.
        kept: rows that methods keep; grows in place.

    Attributes:
        model: the Trainer's model as methods see it.
    """

    def __init__(
        self, trainer: Any, methods: Sequence[Method], name: str, saved: SavedState, kept: dict[str, Row]
    ) -> None:
        self.name = name
        self._trainer, self._methods, self._saved = trainer, methods, saved
        self._rows = Rows(trainer.train_dataset, kept)
        self._task = Task(name, self._rows.samples, ())
        half = trainer.accelerator.mixed_precision == "bf16"
        dtype = torch.bfloat16 if half else torch.float32
        self.model = BareModel(trainer.model, self._rows, self._collate, dtype=dtype, words=saved.words)
        self._parameters = self.model.trainable()
        self._start: dict[str, Tensor] = {}
        self._in_step = False
        self._logged: dict[str, list[float]] = {}

    def begin(self) -> None:
        """Set the methods up, and put their plan in the place of the data set."""
        self._refuse_other_parameters()
        if self._saved.start:
            restore(self._parameters, self._saved.start)  # until the Trainer loads those of the checkpoint
        else:
            self._warn_of_other_weights()
        self._start = copy_of(self._parameters)
        context = Context(
            lmm=self.model,
            features=NoFeatures(),
            seed=self._saved.seed,
            start={},
            keep=self._rows.keep,
        )
        for method in self._methods:
            method.setup(context)
            if method.name in self._saved.states:
                method.load_state_dict(self._saved.states[method.name])
        plan: Sequence[Any] = self._task.train
        for method in self._methods:
            method.before_task(self._task)
        for method in self._methods:
            plan = planned_by(method, self._task, plan)
            method.load_progress_dict(self._saved.progress.get(method.name, {}))
        if plan is not self._task.train:
            self._trainer.train_dataset = PlannedDataset(self._rows, plan)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """A micro-batch of training: its loss gets the methods' terms; that of an evaluation does not."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def with_terms(self, compute_loss: Callable[[], Any], inputs: Mapping[str, Any], num_items_in_batch: Any) -> Any:
        """What `compute_loss` returns, the methods' terms added to the loss."""
        adding = [m for m in self._methods if type(m).loss_terms is not Method.loss_terms and m.adds_to_loss()]
        if not self._in_step or not adding:
            return compute_loss()
        batch = batch_of(inputs)  # before labels are taken out
        seen: list[Any] = []
        hook = self._trainer.model.register_forward_hook(lambda _model, _inputs, outputs: seen.append(outputs))
        try:
            result = compute_loss()
        finally:
            hook.remove()
        logits = [outputs for outputs in seen if (made := logits_of(outputs)) is not None and made.requires_grad]
        output = self.model.output_of(batch, logits[0]) if logits else self.model(batch)
        terms = [term for method in adding for term in self._terms_of(method, batch, output)]
        if not terms:
            return result
        added = self._share(int(output.tokens.sum()), num_items_in_batch) * torch.stack(terms).sum()
        return (result[0] + added, *result[1:]) if isinstance(result, tuple) else result + added

    def _terms_of(self, method: Method, batch: Batch, output: Output) -> list[Tensor]:
        terms = terms_of(method, batch, output)
        for name, term in terms.items():
            self._logged.setdefault(f"{method.name}/{name}", []).append(float(term.detach()))
        return list(terms.values())

    def _share(self, tokens: int, num_items_in_batch: Any) -> Any:
        """What a mean over a micro-batch counts in the loss of an optimizer step, as the Trainer weighs its own loss.

        Where its loss is a sum over the tokens of the micro-batch, divided by those of the whole step, so is a term.
        """
        trainer = self._trainer
        scaled = trainer.loss_is_scaled_for_ga
        if scaled is None:
            counted = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = counted or trainer.compute_loss_func is not None
        if not scaled:
            return 1.0  # the Trainer divides by the number of micro-batches
        if num_items_in_batch is None:
            return 1 / trainer.current_gradient_accumulation_steps
        processes = trainer.accelerator.num_processes if trainer.args.average_tokens_across_devices else 1
        return tokens * processes / num_items_in_batch

    def after_backward(self) -> None:
        """The gradient of an optimizer step is there, and not clipped yet."""
        for method in self._methods:
            method.after_backward(self._parameters)

    def after_step(self) -> None:
        """The optimizer has taken its step."""
        for method in self._methods:
            method.after_step(self._parameters)
            for name, value in method.take_logged().items():
                self._logged.setdefault(name, []).append(value)

    def take_logged(self) -> dict[str, float]:
        """Means since the last call of the methods' loss terms and of the values that they log, by `METHOD/NAME`."""
        logged, self._logged = self._logged, {}
        return {name: sum(values) / len(values) for name, values in logged.items()}

    def end(self) -> dict[str, Any]:
        """Let the methods take in the task; returns their states, the same in all processes."""
        for method in self._methods:
            method.after_task(self._task)
        states = {method.name: method.state_dict() for method in self._methods}
        if self._trainer.args.world_size > 1:
            _broadcast(split_state(states).tensors.values(), self.model.device)
        return states

    def wait_for_everyone(self) -> None:
        """Until all processes are here: what one has written, another may read next."""
        self._trainer.accelerator.wait_for_everyone()

    def shapes(self) -> dict[str, list[int]]:
        """The shape of each trained parameter."""
        return {name: list(parameter.shape) for name, parameter in self._parameters.items()}

    def norms(self) -> dict[str, float]:
        """Of each trained parameter."""
        return {name: float(p.detach().float().norm()) for name, p in self._parameters.items()}

    def mid_task(self, saved: SavedState) -> SavedState:
        """What resumes the task from here, beside what the Trainer writes."""
        return replace(
            saved,
            task=self.name,
            start=self._start,
            progress={method.name: method.progress_dict() for method in self._methods},
            words=self.model.words,
        )

    def _collate(self, rows: list[Row]) -> Any:
        """As the Trainer's own loader makes a batch of rows."""
        return self._collate_fn(rows)

    @cached_property
    def _collate_fn(self) -> Any:
        """Its collator for a plain data set, which leaves out columns that the model does not read."""
        before = self._trainer.train_dataset
        self._trainer.train_dataset = PlannedDataset(self._rows, self._task.train)
        try:
            return self._trainer.get_train_dataloader().collate_fn
        finally:
            self._trainer.train_dataset = before

    def _refuse_other_parameters(self) -> None:
        """Stop a model whose trained parameters are not those that the methods know.

        Raises:
            UserError: nothing trains, or names or shapes differ; the message has the first that does.
        """
        if not self._parameters:
            raise UserError("ContinualCallback: no parameter of the model requires a gradient, so nothing trains")
        known = self._saved.norms
        if known and (other := sorted(set(known) ^ set(self._parameters))):
            where = "is not there" if other[0] in known else "did not train then"
            raise UserError(
                f"the model trains other parameters than in the task '{self._saved.tasks[-1]}': {other[0]} {where}. "
                "Continue with the same model, and the same LoRA configuration"
            )
        before, now = self._saved.shapes, self.shapes()
        if other := [name for name in before if before[name] != now[name]]:
            raise UserError(
                f"{other[0]} has the shape {tuple(now[other[0]])}, in the task '{self._saved.tasks[-1]}' it had "
                f"{tuple(before[other[0]])}: what the methods know is of that shape. Continue with the same model; if "
                "the vocabulary grows, resize the embeddings before the first task"
            )

    def _warn_of_other_weights(self) -> None:
        known, now = self._saved.norms, self.norms()
        far = [name for name, norm in known.items() if abs(now[name] - norm) > FAR * max(norm, now[name])]
        if far:
            warnings.warn(
                f"the weights are not those after the task '{self._saved.tasks[-1]}' (for example {far[0]}): load the "
                "model from the checkpoint of that task, or the methods protect weights that are not there",
                stacklevel=4,
            )


def _broadcast(tensors: Any, device: torch.device) -> None:
    """Take the tensors of the first process: processors round differently, and penalties must be the same."""
    for tensor in tensors:
        exchanged = tensor.detach().to(device, copy=True).contiguous().reshape(-1)
        torch.distributed.broadcast(exchanged.view(torch.uint8), src=0)
        tensor.copy_(exchanged.view_as(tensor))
