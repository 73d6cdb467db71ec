"""`transformers.Trainer` and TRL's `SFTTrainer` on a peer: everything at its default but what has to be equal.

Equal have to be: the order of samples, AdamW with its rates and schedule (both handed over by `optimizers`), the norm
that gradients are clipped at, the dtype, and the loss: evertune's mean over samples of the mean over answer
tokens. Left out is what evertune's side does not do either: checkpoints, reports, and recomputed activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import Trainer, TrainingArguments

from evertune.models.decoder import IGNORE
from evertune.runs.config import RunConfig
from evertune.training.loop import Training, cosine
from peers.models import Peer, Row


def recipe_of(model: str, stream: str) -> Training:
    """How evertune trains a model where nobody says otherwise, for one epoch."""
    return replace(Training(**RunConfig(stream=stream, model=model).train.model_dump()), epochs=1.0)


class MeanOverSamples:
    """The loss of evertune, from the logits at all positions; `seen` are those of all steps so far."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        del num_items_in_batch
        logits = outputs.logits.float()
        wanted = pad(labels, (0, 1), value=IGNORE)[:, 1:]
        nll = cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="none")
        return self.add(nll.view_as(wanted), wanted != IGNORE)

    def add(self, nll: Tensor, counted: Tensor) -> Tensor:
        loss = (nll.sum(1) / counted.sum(1)).mean()
        self.seen.append(loss.detach())
        return loss


def optimizer_of(lmm: Any, training: Training, steps: int) -> tuple[Any, Any]:
    """AdamW and its schedule, as evertune's loop has them."""
    rates: dict[float, list[Tensor]] = {}
    for name, parameter in lmm.trainable().items():
        rates.setdefault(training.learning_rate * lmm.lr_scale(name), []).append(parameter)
    optimizer = torch.optim.AdamW([{"params": some, "lr": rate} for rate, some in rates.items()], weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(steps, training.warmup_ratio))


def arguments(folder: Path, training: Training, workers: int) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": training.batch_size,
        "num_train_epochs": 1,
        "max_grad_norm": training.max_grad_norm,
        "train_sampling_strategy": "sequential",  # the rows come in evertune's order
        "dataloader_num_workers": workers,
        "remove_unused_columns": False,  # the collator wants them all
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,  # no autocast: the frozen part has its dtype, as evertune's
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def make_trainer(
    peer: Peer, lmm: Any, rows: Sequence[Row], *, training: Training, workers: int, folder: Path
) -> tuple[Trainer, list[Tensor]]:
    """A trainer, and the list that its losses go to."""
    loss = MeanOverSamples()
    trainer = Trainer(
        model=peer.model,
        args=TrainingArguments(**arguments(folder, training, workers)),
        train_dataset=list(rows),
        data_collator=peer.collate,
        compute_loss_func=loss,
        optimizers=optimizer_of(lmm, training, training.steps(len(rows))),
    )
    return trainer, loss.seen


def make_sft_trainer(
    peer: Peer, lmm: Any, rows: Sequence[Row], *, training: Training, workers: int, folder: Path
) -> tuple[Trainer, list[Tensor]]:
    """TRL's trainer with a collator of one's own, and the list that its losses go to.

    Its own preparation wants a processor with a chat template, which neither model has: so `skip_prepare_dataset`. Its
    loss is overridden, as it advises: by its fused head where the model has a backbone, else (InstructBLIP, where that
    head finds no `last_hidden_state`) over all logits.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    loss = MeanOverSamples()
    fused = peer.model.base_model is not peer.model

    class SameLoss(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            del return_outputs
            if not fused:
                labels = inputs.pop("labels")
                return loss(model(**inputs), labels)
            outputs = model(**inputs, fused_lm_head=True)
            return loss.add(-outputs.log_probs, outputs.label_mask)

    config = SFTConfig(
        **arguments(folder, training, workers),
        gradient_checkpointing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SameLoss(
        model=peer.model,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        data_collator=peer.collate,
        processing_class=peer.processing,
        optimizers=optimizer_of(lmm, training, training.steps(len(rows))),
    )
    return trainer, loss.seen
