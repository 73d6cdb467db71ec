"""From the matrix of a finished run to what people read: tables, plots, one self-contained page.

`tables` compares runs (terminal, Markdown), `plots` draws them (SVG), `page` puts everything into one HTML file that
opens without a network; `examples` chooses the answers that are shown, `words` says the numbers in plain language.

    write_report([Path("runs/sequential"), Path("runs/replay")], Path("report.html"))
"""

from __future__ import annotations

from evertune.reporting.loaded import load_matrix
from evertune.reporting.page import write_report
from evertune.reporting.tables import as_markdown, compare, rich_matrix, rich_table

__all__ = ["as_markdown", "compare", "load_matrix", "rich_matrix", "rich_table", "write_report"]
