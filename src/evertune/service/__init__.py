"""The model that remembers, kept in service: teach it what is new, see what that cost, go back.

    new(folder, model="smol")            a model that has learned nothing yet
    advice(folder, "july.jsonl")         what that resembles and would cost; nothing is changed
    learn(folder, "july.jsonl")          one more task, with a verdict; kept or discarded
    check(folder)                        every task it ever learned, against the best it ever had
    rollback(folder, to=3)               as it was after its third task

A run folder of `evertune run` is such a model.
"""

from __future__ import annotations

from evertune.service.advice import Advice, advice
from evertune.service.gate import GateCondition, parsed
from evertune.service.lifecycle import LearnResult, check, complete, learn, new, rollback
from evertune.service.regression_report import Change, RegressionReport
from evertune.service.service import Service

__all__ = [
    "Advice",
    "Change",
    "GateCondition",
    "LearnResult",
    "RegressionReport",
    "Service",
    "advice",
    "check",
    "complete",
    "learn",
    "new",
    "parsed",
    "rollback",
]
