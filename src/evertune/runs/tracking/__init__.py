"""Trackers of a run's metrics: always JSONL and TensorBoard files in its folder; services with `--track`.

evertune run parcel --track trackio,mlflow
"""

from __future__ import annotations

from evertune.runs.tracking.callback import TrackingCallback, all_of, retrack, tracking
from evertune.runs.tracking.protocol import Point, RunInfo, Tracker
from evertune.runs.tracking.registry import TRACKERS, refuse_missing

__all__ = [
    "TRACKERS",
    "Point",
    "RunInfo",
    "Tracker",
    "TrackingCallback",
    "all_of",
    "refuse_missing",
    "retrack",
    "tracking",
]
