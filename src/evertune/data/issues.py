"""Unusable rows and images of a stream: counted by kind; messages show the first of each kind.

By default the run stops before training and reports all of them at once. With `--skip-invalid` they are left out and
listed in `skipped.json` in the run folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from evertune.utils.errors import DataError

SHOWN = 5
LEAVE_OUT = (
    "Fix them, or leave them out (--skip-invalid of evertune run, learn, try and data convert; in Python "
    "skip_invalid=True)"
)
LISTED = 10_000
"""Messages of one kind that are kept; the count continues."""


class ReportedError(DataError):
    """An error whose content is in a list of problems already."""


class Issues:
    """Problems by kind, in the order in which they were found."""

    def __init__(self) -> None:
        self._messages: dict[str, list[tuple[str, str]]] = {}
        self.counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, problems: Iterable[DataError], *, task: str) -> None:
        """Add problems of a task."""
        for problem in problems:
            self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
            messages = self._messages.setdefault(problem.kind, [])
            if len(messages) < LISTED:
                messages.append((task, str(problem)))

    def add_counted(self, kind: str, count: int, messages: Iterable[str], *, task: str) -> None:
        """Add `count` problems of a kind; only as many messages are made as are kept."""
        if not count:
            return
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self._messages.setdefault(kind, [])
        kept += [(task, message) for message in islice(messages, LISTED - len(kept))]

    def merge(self, others: Issues) -> None:
        """Add the problems of another list."""
        for kind, count, messages in others.kinds():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self._messages.setdefault(kind, [])
            kept += messages[: LISTED - len(kept)]

    def kinds(self) -> Iterator[tuple[str, int, Sequence[tuple[str, str]]]]:
        """Each kind with its count and its (task, message) pairs, the most frequent first."""
        for kind, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            yield kind, count, self._messages[kind]

    def refuse(self, *, stream: str, outcome: str = "trained", remedy: str = LEAVE_OUT) -> None:
        """Raise if there are any problems; `remedy` is the advice at the end of a report.

        Raises:
            ReportedError: the one problem, or the report of all of them.
        """
        if len(self) == 1:
            ((_, message),) = next(iter(self._messages.values()))
            raise ReportedError(message, kind=next(iter(self.counts)))
        if self.counts:
            report = self.report(stream=stream, outcome=outcome, remedy=remedy)
            raise ReportedError(report, kind="several problems")

    def report(self, *, stream: str, outcome: str = "trained", remedy: str = LEAVE_OUT) -> str:
        """Count by kind, and the first five of each with file and line."""
        lines = [f"{len(self)} rows of '{stream}' can't be used, and nothing was {outcome}. {remedy}:"]
        for kind, count, messages in self.kinds():
            lines.append(f"  {kind}: {count}")
            lines += [f"    {message}" for _, message in messages[:SHOWN]]
            lines += [f"    ... and {count - SHOWN} more"] if count > SHOWN else []
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For `skipped.json`."""
        return {
            "rows": len(self),
            "kinds": dict(self.counts),
            "problems": [
                {"task": task, "kind": kind, "message": message}
                for kind, messages in self._messages.items()
                for task, message in messages
            ],
        }
