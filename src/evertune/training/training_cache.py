"""The cache of trainings: the result of an identical earlier training on this machine is loaded.

Methods share many trainings: the first stage of methods that only change the data, every expert of `eproj`, the same
task under `direct`. Identical means: same start weights, samples in the same order, hyper-parameters, seed, dtype and
library, and no method that adds to the loss. The cache key is also the key of the mid-task checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from evertune.data.task import Sample, Task, fingerprints_of
from evertune.methods import Method, code_of_methods
from evertune.models.features import FeatureStore
from evertune.models.protocol import LMM
from evertune.models.weights import bytes_of, copy_of, fingerprint_of, restore
from evertune.training.loop import OnStep, Step, Training, logged_by, train, trained_parameters
from evertune.training.mid_task_checkpoint import MidTaskCheckpoints
from evertune.training.stages import SEAL
from evertune.training.states import read_tensors, split_state
from evertune.utils import distributed
from evertune.utils.cache_files import note_use
from evertune.utils.device import no_fixed_order
from evertune.utils.errors import RunFolderError
from evertune.utils.files import cache_folder, digest, digest_of, make_folder, note_damage, write_atomically
from evertune.utils.parsing import json_value
from evertune.utils.temporary_files import sweep_cache


def train_or_reuse(
    lmm: LMM,
    methods: Sequence[Method],
    task: Task,
    plan: Sequence[Sample],
    features: FeatureStore,
    *,
    training: Training,
    seed: int,
    folder: Path,
    reuse: bool,
    on_step: OnStep | None = None,
) -> tuple[list[Step], float, bool]:
    """Train `lmm` on `plan` as `train` does, or load the weights of an identical training from the cache.

    Args:
        lmm: changed in place.
        methods: after `before_task`.
        task: its name decides the order of the samples, together with `seed`.
        plan: one epoch's data plan.
        features: has seen every sample of `plan`.
        training: the hyper-parameters of this task.
        seed: the run's.
        folder: the run's, where a mid-task checkpoint is written and found.
        reuse: whether to read and write the cache.
        on_step: called after each optimizer step.

    Returns:
        The log, the seconds that the training took, and whether it was reused.

    Raises:
        UserError, NotFiniteError: as `train`. TrainingInterrupted: by SIGTERM; the training is saved.
    """
    seed = int(digest(str(seed), task.name)[:8], 16)
    deciding = _deciding(lmm, methods, plan, training, seed)
    plain = not any(method.adds_to_loss() for method in methods)
    alone = distributed.world_size() == 1  # several processes sum in another order
    cached = cache_folder() / "trained" / f"{digest_of(deciding)[:32]}.safetensors"
    reuse = reuse and plain and alone
    if reuse and (found := load_training(cached)):
        tensors, record = found
        restore(lmm.trainable(), tensors)  # of this model: both are in the name
        log = [Step(**step) for step in record["log"]]
        return [replace(log[0], logged=logged_by(methods)), *log[1:]], record["seconds"], True
    state = split_state({method.name: method.state_dict() for method in methods}).fingerprint
    key = digest_of({**deciding, "task": task.name, "state": state, "processes": distributed.world_size()})
    saves = MidTaskCheckpoints(folder, key=key, every=training.save_every, size=bytes_of(lmm.trainable()))
    started = time.perf_counter()
    with no_fixed_order(), saves as mid_task:
        log = train(lmm, methods, plan, features, training=training, seed=seed, on_step=on_step, mid_task=mid_task)
    seconds = time.perf_counter() - started + mid_task.seconds
    if reuse and log[-1].pieces == 1:
        save_training(cached, copy_of(lmm.trainable()), log, seconds)
    return log, seconds, False


def _deciding(
    lmm: LMM, methods: Sequence[Method], plan: Sequence[Sample], training: Training, seed: int
) -> dict[str, Any]:
    """Everything that decides the weights after a training, except the methods' loss terms."""
    return {
        "model": lmm.fingerprint,
        "start": fingerprint_of(lmm.trainable()),
        "trained": sorted(trained_parameters(lmm, methods)),
        "samples": list(fingerprints_of(plan)),
        "training": training.as_dict(),
        "seed": seed,
        "dtype": str(lmm.dtype),
        "device": lmm.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **code_of_methods(methods),
    }


def save_training(path: Path, trained: dict[str, Tensor], log: Sequence[Step], seconds: float) -> None:
    """Write the weights after a training, its log and its duration."""
    plain = [replace(step, logged={}) for step in log]  # what methods logged is theirs: another may reuse this
    record = {"log": [step.full() for step in plain], "seconds": seconds, "sha256": fingerprint_of(trained)}
    sealed = {**record, SEAL: digest_of(record)}
    sweep_cache(cache_folder())
    write_atomically(make_folder(path.parent) / path.name, save(trained, metadata={"record": json.dumps(sealed)}))


def load_training(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and record of a training in the cache; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
        record = json_value(metadata["record"])
        seal = record.pop(SEAL)
        if seal == digest_of(record) and record["sha256"] == fingerprint_of(tensors):
            note_use(path)
            return tensors, record
    except (RunFolderError, KeyError, ValueError, TypeError, AttributeError):
        pass
    note_damage(path)  # a cache: damaged entries are made again
    return None
