"""`evertune serve` under load: requests per second, latencies and memory, with the load tool locust.

    pip install locust
    evertune run pocket-b1 --model tiny-aligned --method eproj --limit 64 --out runs/served
    python benchmarks/serving.py runs/served                        # 16 clients that ask for 20 requests/s together
    python benchmarks/serving.py runs/served --rate 100             # as fast as it goes
    python benchmarks/serving.py runs/served --requests 5000        # memory over many requests

The images are the run's own kept ones, all alike in size; every client waits for its answer.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    wanted = _arguments()
    command = [sys.executable, "-m", "evertune", "serve", str(wanted.folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = _address(server)
        environment = _question(wanted.folder) | {"RATE": str(wanted.rate / wanted.clients)}
        seconds = wanted.seconds if not wanted.requests else round(1.2 * wanted.requests / wanted.rate)
        memory = [_memory(server.pid)]
        with tempfile.TemporaryDirectory() as place:
            load = ["-f", str(HERE / "locustfile.py"), "--headless", "--only-summary", "--host", address]
            load += [
                "-u",
                str(wanted.clients),
                "-r",
                str(wanted.clients),
                "-t",
                f"{seconds}s",
                "--csv",
                f"{place}/load",
            ]
            running = subprocess.Popen(
                [*wanted.locust.split(), *load], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
            )
            while running.poll() is None:
                time.sleep(5)
                memory.append(_memory(server.pid))
            rows = list(csv.DictReader((Path(place) / "load_stats.csv").open()))
        total = next(row for row in rows if row["Name"] == "Aggregated")
        third = max(1, len(memory) // 3)
        print(
            json.dumps(
                {
                    "clients": wanted.clients,
                    "asked_per_second": wanted.rate,
                    "requests": int(total["Request Count"]),
                    "failures": int(total["Failure Count"]),
                    "per_second": round(float(total["Requests/s"]), 1),
                    "p50_ms": int(total["50%"]),
                    "p95_ms": int(total["95%"]),
                    "p99_ms": int(total["99%"]),
                    "memory_mb_start": memory[0],
                    "memory_mb_after_a_third": memory[third],
                    "memory_mb_end": memory[-1],
                }
            )
        )
    finally:
        server.terminate()
        server.wait(30)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model or a run")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second of all clients")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--requests", type=int, default=0, help="about so many instead of --seconds")
    parser.add_argument("--locust", default="locust", help="how locust is started")
    return parser.parse_args()


def _question(folder: Path) -> dict[str, str]:
    """A kept question of the model; opening it has kept some."""
    kept = json.loads(next(iter(sorted((folder / "kept").glob("*.json")))).read_text())["test"][0]
    image = folder / "kept" / "images" / kept["image"]
    return {"MODEL": folder.name, "IMAGE": str(image), "QUESTION": kept["instruction"]}


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://[\d.]+:\d+", line):
            return found.group()
    raise SystemExit("the server did not start")


def _memory(process: int) -> int:
    """Resident megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024


if __name__ == "__main__":
    main()
