"""Fuzz the two HTTP servers, `evertune serve` and `evertune app`: 100,000 hostile requests, each must be answered.

`python scripts/fuzz_http.py --out DIR`; the same command again resumes. DIR/counts.json has the numbers by server,
DIR/findings/SERVER-N what a request sent and what was wrong. An input follows from seed, server and number alone.

Each server is a process of its own on this machine, which is closed and started anew where it dies. After each batch:
it runs and answers, its memory is below its size at rest + 1 GB, nothing was written outside of its own folders, and
the log of `serve` has no traceback (those that Gradio logs for `app` are counted). In each answer: no content of a file
outside, no traceback, and it came in time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import _counts, _findings, _write
from fuzzing.http_requests import KINDS, Request, Server, http, requests_of, usual_event
from fuzzing.world import built

REQUESTS = {"server": 70_000, "playground": 40_000}
BATCH, CLIENTS = 500, 16
SECONDS = 75.0  # for a whole answer: 60 until a body without end is refused, and some for a machine with much to do
MOMENT, STREAM = 0.5, 3.0  # seconds until a client says that nothing follows, and until it leaves a stream
MEMORY_MB = 1000  # above the size at rest
MARKER = b"content-of-a-file-outside-7c1f"
LEAKS = (MARKER, b"root:x:0:0", b"Traceback (most recent call last)")


class Attacked:
    """A server in a process of its own.

    Args:
        kind: `server` or `playground`.
        place: for its world, and for what it writes.
    """

    def __init__(self, kind: str, place: Path) -> None:
        self.kind, self.place = kind, place
        world = built(place / "world")
        self.log = place / f"{kind}.log"
        self._own = place / f"{kind}-own"
        shutil.rmtree(self._own, ignore_errors=True)
        for name in ("tmp", "cache"):
            (self._own / name).mkdir(parents=True)
        self._outside = _planted(place / "outside")
        words = ["serve", str(world.run), "--port", "0", "--tokens", "2"]
        words = words if kind == "server" else ["app", str(world.run), "--port", "0"]
        env = {**os.environ, "HOME": str(place / "outside"), "TMPDIR": str(self._own / "tmp"), "OMP_NUM_THREADS": "1"}
        env |= {"EVERTUNE_CACHE": str(place / "world" / "cache"), "SECRET": MARKER.decode(), "PYTHONUNBUFFERED": "1"}
        self.logged, self._log = 0, self.log.open("ab")
        self.log_at = self.log.stat().st_size
        command = [sys.executable, "-m", "evertune", *words]
        self.process = subprocess.Popen(command, cwd=place / "outside", env=env, stdout=self._log, stderr=self._log)
        self.port = self._port()
        self.about = self._about(world.run.name)
        self.written = self._files()
        self._soundings()
        self.rest = self.memory("VmRSS")

    def close(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()
        self._log.close()

    def memory(self, name: str) -> int:
        """Of the process, in MB."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))
        except (OSError, StopIteration):
            return 0

    def ask(self, request: Request, upload: str = "") -> tuple[bytes, float, str]:
        """What is answered, in how many seconds, and `late` where it is not in time."""
        begun = time.monotonic()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as client:
            with suppress(OSError):  # it may be refused before all of it is sent
                client.sendall(self._filled(request.content, upload))
            return _answer(client, request, begun)
        return b"", time.monotonic() - begun, "late" if time.monotonic() - begun >= SECONDS else ""

    def wrong(self) -> list[str]:
        """What a batch did to the server."""
        found = []
        if self.process.poll() is not None:
            return [f"the process ended with {self.process.returncode}"]
        content, seconds, late = self.ask(Request(http("GET", "/health" if self.kind == "server" else "/config")))
        if b" 200 " not in content[:20] or late or seconds > SECONDS / 3:
            found.append(f"after the batch it answers {content[:80]!r} in {seconds:.1f} s")
        if self.kind == "playground" and not self._events_go_on():
            found.append("no event is answered any more")
        if (peak := self.memory("VmHWM")) > self.rest + MEMORY_MB:
            found.append(f"{peak} MB at the peak, {self.rest} MB at rest")
        if strangers := self._files() - self.written:
            found.append(f"written outside: {sorted(strangers)[:5]}")
        return found + self._copies() + self._tracebacks()

    def _events_go_on(self) -> bool:
        """Whether the page answers what it sends itself."""
        for request in usual_event(self.about, f"after{time.monotonic_ns()}"):
            content = self.ask(request)[0]
        return b"process_completed" in content

    def _filled(self, content: bytes, upload: str) -> bytes:
        """Placeholders replaced, and the length with them."""
        names = {
            b"{HOST}": f"127.0.0.1:{self.port}",
            b"{UPLOAD}": upload,
            b"{UPLOADS}": str(Path(upload).parent.parent),
        }
        head, blank, body = content.partition(b"\r\n\r\n")
        before = len(body)
        for name, value in names.items():
            head, body = head.replace(name, value.encode()), body.replace(name, value.encode())
        length = f"Content-Length: {before}\r\n".encode()
        return head.replace(length[:-2], f"Content-Length: {len(body)}".encode(), 1) + blank + body

    def _port(self) -> int:
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            text = self.log.read_bytes()[self.log_at :].decode(errors="replace")
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", text):
                return int(found[1])
            time.sleep(0.2)
        raise SystemExit(f"the {self.kind} did not start: see {self.log}")

    def _about(self, name: str) -> Server:
        outside = (*map(str, self._outside), "/etc/passwd", "/proc/self/environ", "/dev/zero", "/proc/self/mem")
        if self.kind == "server":
            from evertune.apps.server.chat import ChatRequest

            return Server(outside, name, ChatRequest.model_json_schema())
        head, _, body = self.ask(Request(http("GET", "/config")))[0].partition(b"\r\n\r\n")
        config = json.loads(_unchunked(head, body))
        stages = {part["id"] for part in config["components"] if part["props"].get("elem_id") == "stage"}
        kinds = {part["id"]: part["type"] for part in config["components"]} | dict.fromkeys(stages, "stage")
        events = {event["id"]: tuple(kinds[part] for part in event["inputs"]) for event in config["dependencies"]}
        return Server(outside, name, events=events)

    def _soundings(self) -> None:
        """Requests of each kind, so that what is loaded late is there: memory at rest is that of a server at work."""
        for number in range(40):
            for request in requests_of(self.about, self.kind, seed="at rest", number=number):
                self.ask(request)

    def _files(self) -> set[str]:
        """Everything beside the server's own folders."""
        roots = (self.place / "outside", self.place / "world" / "run")
        return {str(path) for root in roots for path in root.rglob("*")}

    def _copies(self) -> list[str]:
        """Files of the machine that were copied into the server's own folders."""
        found = []
        for path in (self._own / "tmp").rglob("*"):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size < 1 << 20 and MARKER in path.read_bytes():
                    found.append(f"{path.relative_to(self._own)} is a copy of a file outside")
        return found

    def _tracebacks(self) -> list[str]:
        """Errors in the log since the last time; Gradio logs some for values that the page did not send."""
        text = self.log.read_bytes()[self.log_at :]
        self.log_at += len(text)
        parts = text.decode(errors="replace").split("Traceback (most recent call last)")[1:]
        self.logged += len(parts)
        if self.kind == "playground":
            return []
        return [f"a traceback in its log:{part[:3000]}" for part in parts]


def _planted(place: Path) -> list[Path]:
    """Files outside of all that a server may give away; each has the marker."""
    from PIL import Image, PngImagePlugin

    place.mkdir(exist_ok=True)
    about = PngImagePlugin.PngInfo()
    about.add_text("comment", MARKER.decode())
    Image.new("RGB", (8, 8)).save(place / "secret.png", pnginfo=about)
    for name in ("secret.txt", ".env", "secret.html", "secret.json"):
        (place / name).write_bytes(MARKER)
    return sorted(place.iterdir())


def _answer(client: socket.socket, request: Request, begun: float) -> tuple[bytes, float, str]:
    """All of an answer, or the first part of one that has no end."""
    content, late, closes = b"", "late", request.closes
    most = STREAM if request.streams else SECONDS
    while (left := begun + most - time.monotonic()) > 0:
        client.settimeout(min(left, MOMENT) if closes else left)
        try:
            part = client.recv(1 << 16)
        except TimeoutError:
            if closes:
                closes = False
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
            continue
        except OSError:
            part = b""
        content += part
        if not part or _is_whole(content) or (request.streams and b"process_completed" in content):
            late = ""
            break
        if len(content) > 64 << 20:
            return content, time.monotonic() - begun, "without end"
    return content, time.monotonic() - begun, "" if request.streams else late


def _is_whole(content: bytes) -> bool:
    head, blank, body = content.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(blank and found and len(body) >= int(found[1]))


def _unchunked(head: bytes, body: bytes) -> bytes:
    if b"chunked" not in head.lower():
        return body
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        parts.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return b"".join(parts)


def sent(server: Attacked, number: int, seed: str) -> tuple[Counter[str], list[tuple[bytes, str]]]:
    """Send input `number`: counts of its answers by status, and findings."""
    counts: Counter[str] = Counter()
    found: list[tuple[bytes, str]] = []
    upload = str(server.place / "nothing" / "was" / "dropped.png")
    for request in requests_of(server.about, server.kind, seed=seed, number=number):
        content, seconds, late = server.ask(request, upload)
        if dropped := re.search(rb'\r\n\["(/[^"\\]+)"\]', content):
            upload = dropped[1].decode(errors="replace")
        status = content[9:12].decode("latin-1") if content.startswith(b"HTTP/1.") else "closed"
        counts["read"] += 1
        counts[status] += 1
        counts["slowest_ms"] = max(counts["slowest_ms"], int(seconds * 1000))
        leaks = [leak.decode() for leak in LEAKS if leak in content]
        wrong = [late, *leaks, status if status == "500" and server.kind == "server" else ""]
        found += [(request.content, f"{why} ({status}, {seconds:.1f} s): {content[:2000]!r}") for why in wrong if why]
    return counts, found


def batches(wanted: int, count: dict[str, Any]) -> Iterator[range]:
    """Numbers of inputs, until as many requests were sent as are wanted."""
    while count["read"] < wanted:
        yield range(count["inputs"], count["inputs"] + min(BATCH, wanted))


def attack(kind: str, asked: argparse.Namespace, out: Path) -> None:
    """Send a server its share, in batches; what is counted is written after each."""
    counts = _counts(out)
    count = counts.setdefault(kind, {"inputs": 0, "read": 0, "findings": 0, "slowest_ms": 0})
    server = Attacked(kind, out)
    try:
        for numbers in batches(asked.requests or REQUESTS[kind], count):
            if server.process.poll() is not None:
                server.close()
                server = Attacked(kind, out)
            _batch(server, numbers, asked.seed, count)
            _write(out, counts)
            told = f"{count['read']:,} requests, {count['findings']} findings, {count['peak_mb']} MB"
            print(f"{time.strftime('%H:%M:%S')} {kind}: {told}", flush=True)
    finally:
        server.close()


def _batch(server: Attacked, numbers: range, seed: str, count: dict[str, Any]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        told = list(pool.map(lambda number: sent(server, number, seed), numbers))
    for number, (statuses, found) in zip(numbers, told, strict=True):
        count["slowest_ms"] = max(count["slowest_ms"], statuses.pop("slowest_ms"))
        for key, value in statuses.items():
            count[key] = count.get(key, 0) + value
        for content, why in found:
            _keep(server.place, server.kind, number, content, why, count)
    for why in server.wrong():
        _keep(server.place, server.kind, numbers[0], b"", f"inputs {numbers}: {why}", count)
    count |= {"inputs": numbers[-1] + 1, "rest_mb": server.rest, "logged": count.get("logged", 0) + server.logged}
    server.logged = 0
    count["peak_mb"] = max(count.get("peak_mb", 0), server.memory("VmHWM"))


def _keep(out: Path, kind: str, number: int, content: bytes, why: str, count: dict[str, Any]) -> None:
    count["findings"] += 1
    folder = out / "findings"
    folder.mkdir(exist_ok=True)
    stem = f"{kind}-{number}-{count['findings']}"
    (folder / stem).write_bytes(content)
    (folder / f"{stem}.txt").write_text(why)


def main() -> None:
    """The command."""
    asks = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asks.add_argument("--out", type=Path, default=Path("runs/fuzz-http"))
    asks.add_argument("--requests", type=int, help="to each server; default: 70,000 and 40,000")
    asks.add_argument("--seed", default="0")
    asks.add_argument("--only", choices=sorted(KINDS), help="one of the two servers")
    asked = asks.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for kind in [asked.only] if asked.only else KINDS:
        attack(kind, asked, out)
    counts = _counts(out)
    for kind, count in counts.items():
        print(kind, json.dumps(count))
    raise SystemExit(int(_findings(counts) > 0))


if __name__ == "__main__":
    main()
