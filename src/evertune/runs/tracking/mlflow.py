"""MLflow: a run in the experiment `evertune`, or `MLFLOW_EXPERIMENT_NAME`, wherever `MLFLOW_TRACKING_URI` points.

Through `MlflowClient` only, so that a run that the caller has open is not changed and no code is inspected. A resumed
run is found by its tag `evertune.key`, and its points are read back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evertune.runs.tracking.protocol import PROJECT, Point, RunInfo

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

KEY = "evertune.key"
SECONDS_KEPT = 1.0
MOST_KEPT = 500  # MLflow takes 1000 metrics at once
LONGEST = 500  # characters of a parameter; old stores take no more
MOST_PARAMETERS = 100  # at once


class Mlflow:
    """Points are sent in batches, once per second."""

    package: ClassVar[str | None] = "mlflow"
    waits: ClassVar[bool] = True

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._id = ""
        self._kept: list[Metric] = []
        self._sent = time.monotonic()

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """The run of this key, with the steps it has; else a new one with the configuration as parameters."""
        from mlflow.tracking import MlflowClient

        self._client = client = MlflowClient()
        experiment = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = client.search_runs([experiment], filter_string=f"tags.`{KEY}` = '{run.key}'")
        if not found:
            self._id = self._create(client, experiment, run)
            return {}
        self._id = found[0].info.run_id
        client.update_run(self._id, status="RUNNING")
        return {
            name: max(metric.step for metric in client.get_metric_history(self._id, name))
            for name in found[0].data.metrics
        }

    def _create(self, client: MlflowClient, experiment: str, run: RunInfo) -> str:
        from mlflow.entities import Param

        provenance = {f"provenance.{name}": value[:LONGEST] for name, value in flat(run.provenance)}
        tags = {KEY: run.key, "evertune.group": run.group, **provenance}
        made: str = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        parameters = [Param(name, value[:LONGEST]) for name, value in flat(run.config)]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            client.log_batch(made, params=parameters[start : start + MOST_PARAMETERS])
        return made

    def log(self, point: Point) -> None:
        """Buffered for at most a second while points arrive."""
        from mlflow.entities import Metric

        when = round(1000 * point.time)
        self._kept += [Metric(allowed(name), value, when, point.step) for name, value in point.values.items()]
        if len(self._kept) > MOST_KEPT or time.monotonic() - self._sent > SECONDS_KEPT:
            self._send()

    def _send(self) -> None:
        assert self._client is not None
        if self._kept:
            self._client.log_batch(self._id, metrics=self._kept)
        self._kept, self._sent = [], time.monotonic()

    def end(self, *, finished: bool) -> None:
        """Send the rest and close the run."""
        if self._client is not None:
            self._send()
            self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    made: str = found.experiment_id if found else client.create_experiment(name)
    return made


def allowed(name: str) -> str:
    """`name` with letters, digits and `_-./ :` only: MLflow takes no others."""
    return "".join(letter if letter.isalnum() or letter in "_-./ :" else "_" for letter in name)


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as pairs `train.epochs`, `1.0`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{allowed(str(name))}.")
        else:
            yield before + allowed(str(name)), str(value)
