"""evertune teaches a large multimodal model one new task after another, and keeps what it knew.

    import evertune
    result = evertune.run("parcel", model="smol", methods="sequential,replay,eproj", out="runs/first")

Names are loaded when they are used: `import evertune` costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evertune.data import Sample, Stream, Task, load_stream
    from evertune.methods import make_methods
    from evertune.methods.base import Context, Method, MethodInfo
    from evertune.metrics.metrics import metrics_of
    from evertune.metrics.own_rules import scoring_rule
    from evertune.models import load_lmm
    from evertune.models.protocol import Batch, Output
    from evertune.models.wrap import wrap
    from evertune.reporting.matrix import Matrix
    from evertune.reporting.page import write_report
    from evertune.reporting.tables import compare
    from evertune.runs.api import configure, run_config
    from evertune.runs.callback import Callback
    from evertune.runs.learner import Learner
    from evertune.runs.paired import Paired, paired
    from evertune.runs.plan.api import plan
    from evertune.runs.results import Result, Run, load_run
    from evertune.runs.run import run
    from evertune.tools.export import ExportResult, export
    from evertune.training.loop import Training
    from evertune.training.method_contract import check_method
    from evertune.training.stages import Stage
    from evertune.utils.errors import DataError, RunFolderError, UserError
    from evertune.utils.plugins import load_plugin

_HOME = {
    "runs.api": ("configure", "run_config"),
    "runs.run": ("run",),
    "runs.paired": ("Paired", "paired"),
    "runs.results": ("Result", "Run", "load_run"),
    "training.method_contract": ("check_method",),
    "utils.plugins": ("load_plugin",),
    "utils.errors": ("DataError", "RunFolderError", "UserError"),
    "runs.learner": ("Learner",),
    "models.protocol": ("Batch", "Output"),
    "models": ("load_lmm",),
    "tools.export": ("ExportResult", "export"),
    "models.wrap": ("wrap",),
    "training.loop": ("Training",),
    "training.stages": ("Stage",),
    "methods": ("make_methods",),
    "methods.base": ("MethodInfo", "Context", "Method"),
    "runs.plan.api": ("plan",),
    "reporting.tables": ("compare",),
    "reporting.matrix": ("Matrix",),
    "reporting.page": ("write_report",),
    "runs.callback": ("Callback",),
    "metrics.metrics": ("metrics_of",),
    "metrics.own_rules": ("scoring_rule",),
    "data": ("Sample", "Stream", "Task", "load_stream"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Batch",
    "Callback",
    "Context",
    "DataError",
    "ExportResult",
    "Learner",
    "Matrix",
    "Method",
    "MethodInfo",
    "Output",
    "Paired",
    "Result",
    "Run",
    "RunFolderError",
    "Sample",
    "Stage",
    "Stream",
    "Task",
    "Training",
    "UserError",
    "check_method",
    "compare",
    "configure",
    "export",
    "load_lmm",
    "load_plugin",
    "load_run",
    "load_stream",
    "make_methods",
    "metrics_of",
    "paired",
    "plan",
    "run",
    "run_config",
    "scoring_rule",
    "wrap",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'evertune' has no attribute '{name}'{_where(name)}")
    value = getattr(importlib.import_module(f"evertune.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def _where(name: str) -> str:
    """Where a class is that is not here, for an error; nothing is imported for a name that may be a submodule."""
    if name == "ContinualCallback":
        return ": from evertune.integrations.transformers import ContinualCallback"
    if name[:1].isupper() and hasattr(importlib.import_module("evertune.methods"), name):
        return f": from evertune.methods import {name}"
    close = difflib.get_close_matches(name, __all__, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
