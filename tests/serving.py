"""A server of ours in a thread, what tests talk to, and the official client."""

from __future__ import annotations

import base64
import threading

import openai
import pytest


class running:  # noqa: N801  reads as a word
    """A server in a thread."""

    def __init__(self, server):
        self._socket, self._url = server._socket, f"http://127.0.0.1:{server.port}"
        self._uvicorn = server.uvicorn()
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self._url

    def __exit__(self, *_):
        self._uvicorn.should_exit = True
        self._thread.join(timeout=20)


def client(address, key="none"):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


def image_url(sample):
    return "data:image/png;base64," + base64.b64encode(sample.images[0].read_bytes()).decode()


def message(words, *urls):
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": words}, *images]}]


def status_of(call):
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value.status_code, caught.value.body["message"]
