"""What a client of `evertune serve` does under load: asks about an image, again and again. Read by locust.

See serving.py. MODEL is the folder's name, IMAGE a file, QUESTION what is asked, RATE requests per second and client.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from locust import HttpUser, constant_throughput, task  # type: ignore[import-not-found]

IMAGE = base64.b64encode(Path(os.environ["IMAGE"]).read_bytes()).decode()
CONTENT = [
    {"type": "text", "text": os.environ["QUESTION"]},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
]


class Client(HttpUser):  # type: ignore[misc]
    wait_time = constant_throughput(float(os.environ["RATE"]))

    @task
    def ask(self) -> None:
        body = {"model": os.environ["MODEL"], "messages": [{"role": "user", "content": CONTENT}]}
        self.client.post("/v1/chat/completions", json=body)
