"""Peak memory of `evertune serve` under hostile load, beside its size at rest.

    evertune new runs/served --model tiny-aligned
    python benchmarks/server_memory.py runs/served

Every attack runs with many clients at once: bombs that are small as files, images just below the limit (transparent,
which takes most to convert), many small values, long texts, half-sent bodies, silent connections. Each second the
server must still answer `/health`. Linux only: the peak is `VmHWM` of the server's process.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from PIL import Image

REPLIES: Counter[str] = Counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a model's folder")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=10, help="of each attack")
    wanted = parser.parse_args()
    command = [sys.executable, "-m", "evertune", "serve", str(wanted.folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        host, port = re.findall(r"http://([\d.]+):(\d+)", next(line for line in server.stdout if "http" in line))[0]
        name, address = wanted.folder.resolve().name, (host, int(port))
        send(address, body(name, png(448, 448)))
        rest = memory(server.pid, "VmRSS")
        for what, attack in attacks(name).items():
            REPLIES.clear()
            slowest = under(attack, address, clients=wanted.clients, seconds=wanted.seconds)
            peak = memory(server.pid, "VmHWM")
            row = {"attack": what, "at_rest_mb": rest, "peak_mb": peak, "ratio": round(peak / rest, 2)}
            print(json.dumps({**row, "slowest_health_s": round(slowest, 2), "replies": dict(REPLIES)}), flush=True)
    finally:
        server.terminate()
        server.wait(30)


def memory(process: int, field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the peak so far), in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


def png(width: int, height: int, mode: str = "1") -> str:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def body(name: str, *urls: str, words: str = "what?", **more: object) -> bytes:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": words}, *images]
    return json.dumps({"model": name, "messages": [{"role": "user", "content": content}], **more}).encode()


def attacks(name: str) -> dict[str, list[bytes]]:
    """Bodies that clients send in turn; an empty one is a connection that says nothing, one without end is cut."""
    bomb, large = png(9400, 9400), png(4990, 4990, "RGBA")
    return {
        "silent connections": [b""],
        "14 images of 9400 x 9400": [body(name, *[bomb] * 14)],
        "one image of 4990 x 4990, transparent": [body(name, large)],
        "small values": [body(name, metadata={"a": [[]] * 6_000_000}), body(name, metadata={"a": [[]] * 20_000})],
        "long texts": [body(name, words="a b " * 4_000_000), body(name, words="a b " * 100_000)],
        "half of a body": [b"{" + b" " * (19 << 20)],
    }


def under(attack: list[bytes], address: tuple[str, int], *, clients: int, seconds: float) -> float:
    """Attack; the longest time that `/health` took meanwhile."""
    end, slowest = time.monotonic() + seconds, 0.0

    def one() -> None:
        while time.monotonic() < end:
            for each in attack:
                REPLIES[send(address, each, ends=not each.endswith(b"  "))] += 1

    threads = [threading.Thread(target=one, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        start = time.monotonic()
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/health", timeout=60) as reply:
            reply.read()
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(1)
    for thread in threads:
        thread.join(90)
    return slowest


def send(address: tuple[str, int], content: bytes, *, ends: bool = True) -> str:
    """The status of the reply to a request, or what happened instead."""
    try:
        with socket.create_connection(address, timeout=15) as line:
            if content:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(content) + (not ends)}\r\n\r\n"
                line.sendall(head.encode() + content)
            return line.recv(12).decode()[9:] or "closed"
    except TimeoutError:
        return "no reply within 15 s"
    except OSError:
        return "closed"


if __name__ == "__main__":
    main()
