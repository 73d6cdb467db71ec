"""Out again: what a run has learned, as files that others load - merged checkpoints, and adapters for peft."""

from __future__ import annotations

from evertune.tools.export.adapters import export_adapters
from evertune.tools.export.merged import ExportResult, export

__all__ = ["ExportResult", "export", "export_adapters"]
