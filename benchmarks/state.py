"""What one more task adds to what is stored, as a share of a large model, by the arithmetic of `evertune plan`.

    python benchmarks/state.py

A stage on disk is one copy of everything that trains, in float32 so that a run goes on to the bit; with an expansion it
is the task's expert, in the dtype of the model. The model counts as bfloat16.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evertune.runs.api import configure
from evertune.runs.plan.api import plan

LLAVA, QWEN = "llava-1.5-7b-hf", "Qwen2.5-VL-7B-Instruct"
BLIP, LEAST = "instructblip-vicuna-7b", ("model.scope=projection",)
CASES = (
    (BLIP, "eproj", (), "eproj: the projection"),
    (LLAVA, "eproj", LEAST, "eproj: the projection"),
    (LLAVA, "lora-router", (), "lora-router: LoRA and projection"),
    (QWEN, "eproj", LEAST, "eproj: the merger"),
    (QWEN, "lora-router", (), "lora-router: LoRA and merger"),
    (BLIP, "sequential", (), "a stage: Q-Former and projection"),
    (LLAVA, "sequential", ("model.scope=lora",), "a stage: LoRA"),
    (LLAVA, "sequential", ("model.scope=projection",), "a stage: projection"),
    (LLAVA, "sequential", (), "a stage: projection and LoRA"),
    (QWEN, "sequential", ("model.scope=lora",), "a stage: LoRA"),
    (QWEN, "sequential", ("model.scope=projection",), "a stage: merger"),
    (QWEN, "sequential", (), "a stage: merger and LoRA"),
)


def main() -> None:
    table = Table("model", "what is kept", "parameters", "MB", "% of the model", box=None)
    for model, method, settings, title in CASES:
        made = plan(configure("parcel", model=model, method=method, limit=8, settings=list(settings)))[0]
        size, share = f"{made.stage_bytes / 1e6:.1f}", f"{100 * made.share_of_model:.2f}"
        table.add_row(model, title, f"{made.trained_parameters:,}", size, share)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
