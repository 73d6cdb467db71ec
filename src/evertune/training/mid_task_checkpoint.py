"""Mid-task checkpoints: `mid_task.safetensors` in the run folder holds the training of a task until it is finished.

Only an identical training resumes from it: same start weights, samples, methods' state, settings, seed, library. A
method's state of earlier tasks (buffers, importances, keys) is in the last stage and is part of this training's key;
the checkpoint holds only what changes from step to step. On SIGTERM, which a cluster sends some time before SIGKILL,
the training is saved after the current step.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors.torch import save

from evertune.models.weights import fingerprint_of
from evertune.training.loop import Step
from evertune.training.states import join_state, read_tensors, split_state, whole
from evertune.utils import distributed
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import write_atomically
from evertune.utils.parsing import json_value

FILE = "mid_task.safetensors"
SECONDS_BETWEEN = 60.0
SHARE = 20.0
"""The interval between saves is this many times the duration of a save, so that saves take less than 5 % of the
time."""
BYTES_PER_SECOND = 1e8
"""Assumed disk speed before the first save is timed."""
STEPS_BETWEEN_LOOKS = 25
STOPPED = 143


class TrainingInterrupted(SystemExit):
    """SIGTERM was received; `message` is for the terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(STOPPED)
        self.message = message


class MidTaskCheckpoints:
    """Saves a training periodically inside its context, and finds an earlier save.

    Args:
        folder: the run's.
        key: hash of everything that decides the training.
        every: optimizer steps between two saves; 0: only on SIGTERM; None: as often as costs little.
        size: bytes of the trained parameters, for a first estimate of a save's duration.
    """

    def __init__(self, folder: Path, *, key: str, every: int | None, size: int) -> None:
        self.path = folder / FILE
        self.seconds = 0.0
        self._key, self._every = key, every
        self._began = self._last = time.monotonic()
        self._pause = max(SECONDS_BETWEEN, SHARE * 3 * size / BYTES_PER_SECOND)
        self._stop_requested = False
        self._before: Any = None

    def __enter__(self) -> MidTaskCheckpoints:
        alone = distributed.world_size() == 1  # several would have to stop at the same step
        if alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._stop_requested and kind is None:  # the signal came in the last step
            raise TrainingInterrupted("stopped by SIGTERM after the last step of a task; it is trained again")

    def found(self) -> Mapping[str, Any] | None:
        """The saved state of this training."""
        kept = self._read()
        if distributed.broadcast(kept is None):
            return None
        if kept is None:
            raise RunFolderError(f"{self.path}: the first process reads it, process {distributed.rank()} does not")
        self.seconds = kept["seconds"]
        return kept

    def after_step(self, step: Step, state: Callable[[], dict[str, Any]]) -> None:
        """Save when it is due.

        Raises:
            TrainingInterrupted: SIGTERM came; the training is saved.
        """
        if self._stop_requested:
            self._save(state())
            raise TrainingInterrupted(f"stopped by SIGTERM after step {step.step} of {step.steps}, which is saved")
        if self._is_time(step.step):
            self._save(state())

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requested = True

    def _is_time(self, step: int) -> bool:
        if self._every is not None:
            return self._every > 0 and step % self._every == 0
        if distributed.world_size() > 1 and step % STEPS_BETWEEN_LOOKS:
            return False
        return distributed.broadcast(time.monotonic() - self._last > self._pause)

    def _save(self, state: dict[str, Any]) -> None:
        started = time.monotonic()
        if distributed.is_main_process():
            parts = split_state(state)
            assert not parts.held, "what an earlier stage holds is no progress"
            tensors = whole(parts.tensors)
            facts = {
                "key": self._key,
                "sha256": fingerprint_of(tensors),
                "seconds": self.seconds + started - self._began,
            }
            write_atomically(self.path, save(tensors, metadata={"mid_task": json.dumps({**parts.values, **facts})}))
        distributed.barrier()
        self._last = time.monotonic()
        self._pause = max(SECONDS_BETWEEN, SHARE * (self._last - started))

    def _read(self) -> dict[str, Any] | None:
        """The checkpoint, if it is undamaged and of this training; else the task starts again."""
        if not self.path.exists():
            return None
        try:
            tensors, metadata = read_tensors(self.path)
            values = json_value(metadata["mid_task"])
        except (UserError, KeyError, ValueError):
            return None
        if values.get("key") != self._key or values.get("sha256") != fingerprint_of(tensors):
            return None
        kept: dict[str, Any] = join_state(tensors, values)
        return kept
