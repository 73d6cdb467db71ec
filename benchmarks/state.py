"""What one more task adds to what is stored, as a share of a large model, by the arithmetic of `evertune plan`.

    python benchmarks/state.py

A stage on disk, and an expert of an expansion method, is one copy of everything that trains, in float32 so that a run
goes on to the bit; the model counts as bfloat16.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evertune.api import configure
from evertune.planning import plan

LLAVA, QWEN = "llava-1.5-7b-hf", "Qwen2.5-VL-7B-Instruct"
CASES = (
    ("instructblip-vicuna-7b", "eproj", (), "an expert of eproj: the projection"),
    ("instructblip-vicuna-7b", "sequential", (), "Q-Former and projection"),
    (LLAVA, "sequential", ("model.scope=lora",), "LoRA"),
    (LLAVA, "sequential", ("model.scope=projection",), "projection"),
    (LLAVA, "sequential", (), "projection and LoRA"),
    (QWEN, "sequential", ("model.scope=lora",), "LoRA"),
    (QWEN, "sequential", ("model.scope=projection",), "merger"),
    (QWEN, "sequential", (), "merger and LoRA"),
)


def main() -> None:
    table = Table("model", "what trains", "parameters", "MB per task", "% of the model", box=None)
    for model, method, settings, title in CASES:
        made = plan(configure("parcel", model=model, method=method, limit=8, settings=list(settings)))[0]
        size, share = f"{made.stage_bytes / 1e6:.1f}", f"{100 * made.share_of_model:.2f}"
        table.add_row(model, title, f"{made.trained_parameters:,}", size, share)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
