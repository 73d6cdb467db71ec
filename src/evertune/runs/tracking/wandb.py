"""Weights & Biases: a run in the project `evertune`, or `WANDB_PROJECT`; with `WANDB_MODE=offline` below `RUN/wandb/`.

It gets only metrics, configuration and provenance: no console output, code, git remote or command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from evertune.runs.tracking.protocol import PROJECT, Point, RunInfo
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from wandb import Run

STEP, ROW_STEP = "step", "row_step"
SECONDS_TO_BEGIN = 60


class Wandb:
    """Steps are a separate value and the axis of all others, since wandb's own counter must increase."""

    package: ClassVar[str | None] = "wandb"
    waits: ClassVar[bool] = True

    def __init__(self) -> None:
        self._run: Run | None = None

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """Online the run of this key resumes; offline each start writes the whole history under the same key."""
        import wandb

        offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
        if not offline and not wandb.api.api_key:  # it would ask on the terminal, in the middle of a run
            raise UserError("not logged in: wandb login, or WANDB_MODE=offline")
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            init_timeout=SECONDS_TO_BEGIN,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.key,
            name=run.name,
            group=run.group,
            config={**run.config, "provenance": dict(run.provenance)},
            dir=str(run.folder),
            resume=None if offline else "allow",
            settings=settings,
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        return {} if offline or not self._run.resumed else _there(self._run)

    def log(self, point: Point) -> None:
        """The library has its own process for sending."""
        assert self._run is not None
        row = {ROW_STEP: point.step} if point.after is not None else {}
        self._run.log({STEP: point.step, **row, **point.values})

    def end(self, *, finished: bool) -> None:
        """Wait until all is sent."""
        if self._run:
            self._run.finish(exit_code=0 if finished else 1)


def _there(run: Run) -> dict[str, int]:
    """Last steps by name: what stands in the run's summary was logged with the last step, or that of the last row."""
    summary = dict(run.summary)
    last, row = int(summary.get(STEP, -1)), int(summary.get(ROW_STEP, -1))
    return {name: last if name.startswith("train/") else row for name in summary}
