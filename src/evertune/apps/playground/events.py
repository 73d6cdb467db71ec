"""Gradio's queue of events: no event that is posted ends it, and one that fails is one line of the log."""

from __future__ import annotations

import re
import sys
from typing import Any

from gradio import queueing

from evertune.apps.playground.access import LOG, one_line

SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class OneLine:
    """Stands for the module `traceback` in Gradio's queue, which prints a whole one for each event that is refused."""

    @staticmethod
    def print_exc() -> None:
        """The exception that is being handled, as one line."""
        problem = sys.exc_info()[1]
        if problem is not None:
            LOG.error("an event of the page failed: %s", one_line(problem))


queueing.traceback = OneLine


class Events(queueing.Queue):  # type: ignore[misc]  # Gradio has no types here
    """Gradio's queue of events. An exception in its loop would end it for every session until the server is restarted.

    It looks up a session's messages under the name that was posted, and assumes that they are there as long as an event
    of the session waits. A session without a name, or one whose client has left, was such an exception.
    """

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Called by Gradio for each event that is posted."""
        if not SESSION.fullmatch(body.session_hash or ""):
            return False, "session_hash: 1 to 64 letters, digits, - and _", "error"
        if body.fn_index not in self.blocks.fns:
            return False, "fn_index: the page has no such event", "error"
        return await super().push(body, request, username)

    def send_message(self, event: Any, event_message: Any) -> None:
        """Called by Gradio in its loop."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)
