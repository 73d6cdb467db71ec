r"""A comparison as a LaTeX table; it needs `\usepackage{booktabs}`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evertune.reporting.tables import ComparisonRow, cells_of, header_of, notes_of

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "†": r"$\dagger$",
    "λ": r"$\lambda$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
"""Letters beyond ASCII stay: every engine of today reads UTF-8."""


def as_latex(rows: Sequence[ComparisonRow]) -> str:
    """The comparison as a `tabular`, one line per method; what has to be known besides is a comment below it."""
    header, names = header_of(rows)
    lines = [_line(header), r"\midrule", *(_line(cells_of(row, rows)) for row in rows)]
    start = f"\\begin{{tabular}}{{{'l' * names}{'r' * (len(header) - names)}}}"
    notes = [f"% {' '.join(note.split())}" for note in notes_of(rows)]
    return "\n".join([start, r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


def escaped(text: str) -> str:
    """A text that LaTeX sets as it is written."""
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda found: SPECIAL[found.group()], " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
