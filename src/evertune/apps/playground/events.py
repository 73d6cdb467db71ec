"""Gradio's queue of events: no event that is posted ends it or fills the memory, and one that fails is one log line."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import deque
from typing import Any

import orjson
from gradio import queueing

from evertune.apps.playground.access import LOG, one_line

SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_UNREAD = 64 << 20
"""Bytes of all messages that clients have not read: Gradio keeps them for 2,000 sessions, whatever they hold."""
MESSAGE = 2 << 10
"""Bytes that a message takes beside its content."""


class OneLine:
    """Replaces the module `traceback` inside Gradio's queue, which prints a full traceback for each refused event."""

    @staticmethod
    def print_exc() -> None:
        """The exception that is being handled, as one line."""
        problem = sys.exc_info()[1]
        if problem is not None:
            LOG.error("an event of the page failed: %s", one_line(problem))


queueing.traceback = OneLine


class Unread(asyncio.Queue[Any]):
    """Messages to a session, with their size."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self.size, self._sizes = 0, deque[int]()

    def _put(self, item: Any) -> None:
        self._sizes.append(MESSAGE + len(orjson.dumps(item.model_dump(), default=str)))
        self.size += self._sizes[-1]
        super()._put(item)

    def _get(self) -> Any:
        self.size -= self._sizes.popleft()
        return super()._get()


class Events(queueing.Queue):  # type: ignore[misc]  # Gradio has no types here
    """Gradio's event queue. An exception in its loop would stop it for every session until the server is restarted.

    Gradio looks up a session's messages by the posted session name and assumes that they exist as long as an event
    of the session waits. A session without a name, or one whose client has left, raises such an exception.
    """

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Called by Gradio for each event that is posted."""
        if not SESSION.fullmatch(body.session_hash or ""):
            return False, "session_hash: 1 to 64 letters, digits, - and _", "error"
        if body.fn_index not in self.blocks.fns:
            return False, "fn_index: the page has no such event", "error"
        messages = self.pending_messages_per_session
        if body.session_hash not in messages:
            messages[body.session_hash] = Unread()
        for gone in self.pending_event_ids_session.keys() - messages.keys():  # Gradio forgets its messages only
            del self.pending_event_ids_session[gone]
        return await super().push(body, request, username)

    def send_message(self, event: Any, event_message: Any) -> None:
        """Called by Gradio in its loop."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)
            self._drop_unread()

    def _drop_unread(self) -> None:
        """Forget the sessions that leave most unread, until the rest is within the limit."""
        messages = self.pending_messages_per_session
        left = sum(each.size for each in messages.values())
        while left > MOST_UNREAD:
            most = max(messages, key=lambda session: messages[session].size)
            left -= messages.pop(most).size
            self.pending_event_ids_session.pop(most, None)
