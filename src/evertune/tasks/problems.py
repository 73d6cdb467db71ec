"""What can't be used of a stream's data: counted by kind, the first of each shown, all of it written down.

Default: the run stops before training and says everything at once. With `--skip-bad` the rest is trained on, and
`skipped.json` in the run folder says what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evertune.errors import DataError

SHOWN = 5
LISTED = 10_000
"""Messages of one kind that are kept; the count goes on."""


class Problems:
    """Problems by kind, in the order in which they were found."""

    def __init__(self) -> None:
        self._messages: dict[str, list[tuple[str, str]]] = {}
        self.counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, problems: Iterable[DataError], *, task: str) -> None:
        """Take problems of a task."""
        for problem in problems:
            self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
            messages = self._messages.setdefault(problem.kind, [])
            if len(messages) < LISTED:
                messages.append((task, str(problem)))

    def refuse(self, *, stream: str) -> None:
        """Stop when there are any.

        Raises:
            DataError: the one problem, or the report of all of them.
        """
        if len(self) == 1:
            ((_, message),) = next(iter(self._messages.values()))
            raise DataError(message, kind=next(iter(self.counts)))
        if self.counts:
            raise DataError(self.report(stream=stream), kind="several problems")

    def report(self, *, stream: str) -> str:
        """Count by kind, and the first five of each with file and line."""
        lines = [
            f"{len(self)} rows of '{stream}' can't be used, and nothing was trained. Mend them, or leave them out with "
            "--skip-bad:"
        ]
        for kind, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            lines.append(f"  {kind}: {count}")
            lines += [f"    {message}" for _, message in self._messages[kind][:SHOWN]]
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
