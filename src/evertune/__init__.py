"""evertune teaches a large multimodal model one new task after another, and keeps what it knew.

    import evertune
    result = evertune.run("parcel", model="smol", method="sequential,replay,eproj", out="runs/first")

Names are loaded when they are used: `import evertune` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evertune.api import Result, configure, run, run_config
    from evertune.checks import check_method
    from evertune.errors import DataError, RunFolderError, UserError
    from evertune.learner import Learner
    from evertune.lmm import load_lmm
    from evertune.loop import Training
    from evertune.methods import make_methods
    from evertune.methods.base import About, Context, Method
    from evertune.planning import plan
    from evertune.report import compare, write_report
    from evertune.runner import Watcher
    from evertune.scoring.metrics import metrics_of
    from evertune.tasks import Sample, Stream, Task, load_stream

_HOME = {
    "api": ("Result", "configure", "run", "run_config"),
    "checks": ("check_method",),
    "errors": ("DataError", "RunFolderError", "UserError"),
    "learner": ("Learner",),
    "lmm": ("load_lmm",),
    "loop": ("Training",),
    "methods": ("make_methods",),
    "methods.base": ("About", "Context", "Method"),
    "planning": ("plan",),
    "report": ("compare", "write_report"),
    "runner": ("Watcher",),
    "scoring.metrics": ("metrics_of",),
    "tasks": ("Sample", "Stream", "Task", "load_stream"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "About",
    "Context",
    "DataError",
    "Learner",
    "Method",
    "Result",
    "RunFolderError",
    "Sample",
    "Stream",
    "Task",
    "Training",
    "UserError",
    "Watcher",
    "check_method",
    "compare",
    "configure",
    "load_lmm",
    "load_stream",
    "make_methods",
    "metrics_of",
    "plan",
    "run",
    "run_config",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'evertune' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"evertune.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
