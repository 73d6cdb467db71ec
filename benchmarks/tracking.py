"""What tracking adds to an optimizer step: the time for which the training waits. A thousand steps of 5 ms between.

python benchmarks/tracking.py            # JSONL and TensorBoard, which are always there
python benchmarks/tracking.py trackio mlflow
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from evertune.runs.callback import Callback
from evertune.runs.tracking import tracking
from evertune.training.loop import Step

STEPS = 1000


def main(services):
    folder = Path(tempfile.mkdtemp())
    (folder / "config.yaml").write_text("model: random\n")
    (folder / "provenance.json").write_text("{}")
    waited = []
    with tracking(folder, to=services, name="cost", group="cost", callback=Callback()) as tracks:
        tracks.on_task_begin(1, None)
        for number in range(1, STEPS + 1):
            time.sleep(0.005)
            started = time.perf_counter()
            tracks.on_step_end(Step(number, STEPS, 1 / number, 1e-3, 50.0, 2.0), samples=4)
            waited.append(1e3 * (time.perf_counter() - started))
    print(f"{statistics.median(waited):.2f} ms a step (median), {statistics.fmean(waited):.2f} ms (mean)")


if __name__ == "__main__":
    main(sys.argv[1:])
