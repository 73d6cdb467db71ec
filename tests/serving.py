"""A server of ours in a thread: what tests talk to."""

from __future__ import annotations

import threading

import uvicorn


class running:  # noqa: N801  reads as a word
    """A server in a thread."""

    def __init__(self, server):
        self._socket, self._url = server._socket, f"http://127.0.0.1:{server.port}"
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(server._app, log_level="warning", timeout_graceful_shutdown=server._patience)
        )
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self._url

    def __exit__(self, *_):
        self._uvicorn.should_exit = True
        self._thread.join(timeout=20)
