"""A model in service: train it on new tasks, see what each one cost the others, roll back.

    new(folder, model="smol")            a model that has learned nothing yet
    advice(folder, "july.jsonl")         similar tasks and the expected cost; nothing is changed
    learn(folder, "july.jsonl")          trains a task, measures its effect, keeps or discards it
    check(folder)                        evaluates every learned task against its best score
    rollback(folder, to=3)               restores the state after the third task
    forget(folder, "july")               removes what it learned on one task

A run folder of `evertune run` is such a model.
"""

from __future__ import annotations

from evertune.service.advice import Advice, advice
from evertune.service.gate import GateCondition, parsed
from evertune.service.lifecycle import LearnResult, check, complete, learn, new, rollback
from evertune.service.new_task import TaskOptions
from evertune.service.regression_report import Change, RegressionReport
from evertune.service.service import Service
from evertune.service.unlearning import ForgetResult, forget

__all__ = [
    "Advice",
    "Change",
    "ForgetResult",
    "GateCondition",
    "LearnResult",
    "RegressionReport",
    "Service",
    "TaskOptions",
    "advice",
    "check",
    "complete",
    "forget",
    "learn",
    "new",
    "parsed",
    "rollback",
]
