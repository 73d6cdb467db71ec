"""Time and memory of `make real`, and of a second run with warm caches.

    evertune fetch smol parcel          # downloads are not part of the measurement
    python benchmarks/real.py     # about as long as `make real` takes

Prints one JSON object: seconds from the start of the process to the first row of the matrix, to the first training
step and to the end, and the peak memory, for the first run (features, trainings and answers not cached) and for the
first steps of a second run with warm caches. Not part of the tests: times belong to a machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = "sequential,replay,eproj"


def child(started: float, out: str, method: str, stop_at_first_step: bool) -> None:
    """One run in its own process; prints what it measured."""
    import evertune

    marks: dict[str, float] = {}

    class Clock(evertune.Callback):
        def on_step_end(self, step, *, samples):
            if "first_step" not in marks:
                marks["first_step"] = time.time() - started
                if stop_at_first_step:
                    report(marks)

        def on_row_end(self, stage, name, row, tasks):
            marks.setdefault("first_row", time.time() - started)

    def report(marks: dict[str, float]) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**{k: round(v, 1) for k, v in marks.items()}, "peak_gigabytes": round(peak / 1e9, 2)}))
        sys.stdout.flush()
        os._exit(0)

    evertune.run("parcel", model="smol", methods=method, out=out, settings=["dtype=float32"], callbacks=[Clock()])
    marks["end"] = time.time() - started
    report(marks)


def measured(cache: str, out: Path, method: str, *, stop_at_first_step: bool = False) -> dict[str, float]:
    """Run `child` in a new process with `cache` as evertune's cache."""
    command = [sys.executable, __file__, str(time.time()), str(out), method, str(int(stop_at_first_step))]
    said = subprocess.run(
        command, env={**os.environ, "EVERTUNE_CACHE": cache}, capture_output=True, text=True, check=True
    )
    return json.loads(said.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure in a cache that has the fetched weights and images, and nothing else."""
    from evertune.utils.files import cache_folder

    with tempfile.TemporaryDirectory() as place:
        cache = Path(place) / "cache"
        cache.mkdir()
        for name in ("models", "tasks", "packages"):
            (cache / name).symlink_to(cache_folder() / name)
        first = measured(str(cache), Path(place) / "first", METHODS)
        warm = measured(str(cache), Path(place) / "warm", "joint", stop_at_first_step=True)
        # `joint` shares row 0 and the features with what ran before, but no training.
        print(json.dumps({"first": first, "warm": warm}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 5:
        child(float(sys.argv[1]), sys.argv[2], sys.argv[3], bool(int(sys.argv[4])))
    else:
        main()
