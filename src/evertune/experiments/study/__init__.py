"""A paper's questions, answered from grids of runs: settings chosen on held-out seeds, tables, findings with intervals.

A study is one YAML of parts, each a list of grids; `paper` comes with evertune. docs/study.md says what it asks.

    evertune study paper --out runs/paper
"""

from __future__ import annotations

from evertune.experiments.study.file import StudyFile, read_study, study_names
from evertune.experiments.study.run import PlannedRun, Study, StudyOutcome

__all__ = ["PlannedRun", "Study", "StudyFile", "StudyOutcome", "read_study", "study_names"]
