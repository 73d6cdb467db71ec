"""Out again: what a run has learned, as files that others load - merged checkpoints, and adapters for peft."""

from __future__ import annotations

from evertune.tools.export.api import ExportResult, export

__all__ = ["ExportResult", "export"]
