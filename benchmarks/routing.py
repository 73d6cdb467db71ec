"""What `evertune route` adds to a request: each question goes to the server directly and through the proxy, in turn.

    evertune run pocket-b1 --model tiny-aligned --method eproj --limit 64 --out runs/served
    python benchmarks/routing.py runs/served
    python benchmarks/routing.py runs/served --requests 2000 --stub     # a server behind that answers at once

Directly, a request names the adapter that the proxy would choose. One client, one request at a time, another image each
time, kept connections. `proxy_cpu_ms` is the processor time of the proxy for a request, which other work on the machine
does not change. Models and questions are the run's own.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image


def main() -> None:
    wanted = _arguments()
    name = wanted.folder.resolve().name
    with ExitStack() as stack:
        behind, _ = stack.enter_context(_stub(name) if wanted.stub else _started("serve", wanted.folder))
        proxy, process = stack.enter_context(_started("route", wanted.folder, "--upstream", behind))
        questions = _questions(wanted.folder, wanted.requests + wanted.warm)
        direct, through = _Client(behind), _Client(proxy)
        times: dict[str, list[float]] = {"direct": [], "through": []}
        for number, content in enumerate(questions):
            if number == wanted.warm:
                begun = _cpu(process)
            seconds, reply = through.ask(name, content)
            other, _ = direct.ask(reply["evertune_route"]["adapter"], content)
            if number >= wanted.warm:
                times["through"].append(1000 * seconds)
                times["direct"].append(1000 * other)
        used = 1000 * (_cpu(process) - begun) / wanted.requests
    found = {
        f"{way}_p{part}_ms": round(_quantile(values, part), 2) for way, values in times.items() for part in (50, 95)
    }
    added = {
        f"added_p{part}_ms": round(found[f"through_p{part}_ms"] - found[f"direct_p{part}_ms"], 2) for part in (50, 95)
    }
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"requests": wanted.requests, **found, **added, "proxy_cpu_ms": round(used, 2), "load": load}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model or a run with experts")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warm", type=int, default=20, help="requests before those that count")
    parser.add_argument("--stub", action="store_true", help="a server behind that answers at once")
    return parser.parse_args()


class _Client:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        self._line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(self, model: str, content: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
        """Seconds until the whole reply, and the reply."""
        body = json.dumps({"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": content}]})
        begun = time.perf_counter()
        self._line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        reply = self._line.getresponse()
        text = reply.read()
        seconds = time.perf_counter() - begun
        if reply.status != 200:
            raise SystemExit(f"{reply.status}: {text[:500]!r}")
        found: dict[str, Any] = json.loads(text)
        return seconds, found


def _questions(folder: Path, count: int) -> Iterator[list[dict[str, Any]]]:
    """Kept questions, each time with another image: a kept one with a pixel changed."""
    kept = [
        row for path in sorted((folder / "eval_set").glob("*.json")) for row in json.loads(path.read_text())["test"]
    ]
    choose = random.Random(0)
    for _ in range(count):
        row = choose.choice(kept)
        with Image.open(folder / "eval_set" / "images" / row["image"]) as opened:
            image = opened.convert("RGB")
        image.putpixel((0, 0), (choose.randrange(256), choose.randrange(256), choose.randrange(256)))
        held = io.BytesIO()
        image.save(held, "PNG")
        url = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
        yield [{"type": "text", "text": row["instruction"]}, {"type": "image_url", "image_url": {"url": url}}]


@contextmanager
def _started(command: str, folder: Path, *more: str) -> Iterator[tuple[str, int]]:
    """A command of ours: its address and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "evertune", command, str(folder), "--port", "0", *more],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = (re.search(r"answers on\s+(http://[\d.]+:\d+)", line) for line in process.stdout)
        yield next(found[1] for found in lines if found), process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _stub(name: str) -> Iterator[tuple[str, int]]:
    """A server that has every adapter and answers at once."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": name}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
            self._send({"id": "x", "object": "chat.completion", "model": asked["model"], "choices": [choice]})

        def _send(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", os.getpid()
    server.shutdown()


def _cpu(process: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _quantile(values: list[float], part: int) -> float:
    return statistics.quantiles(values, n=100)[part - 1]


if __name__ == "__main__":
    main()
