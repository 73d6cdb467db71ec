"""Scores as pandas frames. Pandas is imported when a frame is made; nothing else of evertune needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evertune.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def long_frame(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """One row per value."""
    return _pandas().DataFrame(list(rows), columns=list(columns))


def wide_frame(R: Sequence[Sequence[float | None]], *, stages: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Rows are stages, columns tasks."""
    pandas = _pandas()
    index, columns = pandas.Index(stages, name="stage"), pandas.Index(tasks, name="task")
    return pandas.DataFrame([list(row) for row in R], index=index, columns=columns, dtype=float)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as problem:
        raise UserError("to_frame() needs pandas: pip install pandas, or pip install 'evertune[data]'") from problem
    return pandas
