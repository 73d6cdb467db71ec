"""Where a run's metrics go: always a JSONL and TensorBoard files in its folder, and services for those who ask.

evertune run parcel --track trackio,mlflow
"""

from __future__ import annotations

from evertune.runs.tracking.callback import Tracking, all_of, retrack, tracking
from evertune.runs.tracking.protocol import Point, Tracked, Tracker
from evertune.runs.tracking.registry import TRACKERS, refuse_missing

__all__ = ["TRACKERS", "Point", "Tracked", "Tracker", "Tracking", "all_of", "refuse_missing", "retrack", "tracking"]
