"""How long evertune takes to begin: import, --help, plan, a cold `ask`, and a warm run up to its first step.

    python benchmarks/start.py                        # tiny-aligned on pocket-b1, 5 rounds
    python benchmarks/start.py --rounds 7 --only ask,step

Each is a process of its own. They alternate with `import torch, transformers` with the classes of the model, which no
program with such a model does without. Printed are the medians with their spread, and the median ratio to that import.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL, STREAM, LIMIT = "tiny-aligned", "pocket-b1", "8"
CLASSES = "import torch; from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor"
GOALS = {"import": 0.1, "--help": 0.3, "plan": 9.0, "ask": 8.0, "step": 8.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(GOALS), help="of " + ", ".join(GOALS))
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        starts = {name: way for name, way in ways(Path(place)).items() if name in wanted.only.split(",")}
        for way in starts.values():
            ended(way)  # once for what is cached
        seconds: dict[str, list[float]] = {name: [] for name in starts}
        baseline = []
        for _ in range(wanted.rounds):
            baseline.append(ended([sys.executable, "-c", CLASSES]))
            for name, way in starts.items():
                seconds[name].append(ended(way))
    print(f"{MODEL} on {STREAM}, {wanted.rounds} rounds, each in a process of its own")
    print(f"{'the classes':12} {shown(baseline)}")
    for name, taken in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(taken, baseline, strict=True))
        print(f"{name:12} {shown(taken)}   {ratio:5.2f} of the classes   goal {GOALS[name]} s")


def ways(place: Path) -> dict[str, list[str]]:
    """The commands; a short run is made for `ask`."""
    import evertune

    run = place / "run"
    settings = ["train.epochs=0.5"]
    evertune.run(STREAM, model=MODEL, methods="sequential", limit=int(LIMIT), out=run, settings=settings)
    answers = (run / "answers" / "00").glob("*.jsonl")
    image = json.loads(next(answers).read_text().splitlines()[0])["image"]
    command = [sys.executable, "-m", "evertune"]
    return {
        "import": [sys.executable, "-c", "import evertune"],
        "--help": [*command, "--help"],
        "plan": [*command, "plan", STREAM, "--model", MODEL, "--limit", LIMIT],
        "ask": [*command, "ask", str(run), image, "what is this?"],
        "step": [sys.executable, __file__, "first-step", str(place)],
    }


def first_step(place: Path) -> None:
    """A run up to the end of its first step; answers of the base model and features are there already."""
    import evertune

    class Stop(evertune.Callback):
        def on_step_end(self, step, *, samples):
            os._exit(0)

    out = place / f"step-{os.getpid()}"
    settings = [f"train.learning_rate={1e-4 + 1e-9 * os.getpid()}"]  # a training that no cache has
    evertune.run(
        STREAM, model=MODEL, methods="sequential", limit=int(LIMIT), out=out, callbacks=[Stop()], settings=settings
    )


def ended(command: list[str]) -> float:
    """Seconds until a process has ended well."""
    start = time.perf_counter()
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if said.returncode:
        sys.exit(f"{' '.join(command)}:\n{said.stderr}")
    return taken


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["first-step"]:
        first_step(Path(sys.argv[2]))
    else:
        main()
