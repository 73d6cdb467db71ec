"""Methods that bring adapters, among others in one run over one loaded model, and in a plan."""

from __future__ import annotations

import json

from matrices import matrices_of

import evertune
from evertune.runs.api import configure
from evertune.runs.plan.api import plan

SETTINGS = ["train.epochs=3", "train.learning_rate=0.01", "dtype=float32"]
METHODS = "lora,sequential,olora,moelora,lora-router"


def test_one_model_for_all_methods(toy_stream, tmp_path):
    """A run takes off the adapters of the one before it: `sequential` ends as it does alone."""

    def run(method, out):
        return evertune.run(str(toy_stream), model="random", methods=method, out=tmp_path / out, settings=SETTINGS)

    together, alone = run(METHODS, "five"), run("sequential", "one")
    assert [matrix.method for matrix in matrices_of(together)] == METHODS.split(",")
    ends = [
        [path.read_bytes() for path in sorted(place.glob("stages/*/trainable.safetensors"))]
        for place in (tmp_path / "five" / "sequential", tmp_path / "one")
    ]
    assert len(ends[0]) == 3 and ends[0] == ends[1]
    zero = [matrix.R[0] for matrix in matrices_of(together)]
    assert zero == [alone.runs["sequential"].matrix.R[0]] * 5, "adapters start without effect"
    cells = together.runs["lora-router"].matrix.cells
    assert {cell["task_id"] for cell in cells} == {"inferred"}
    last = [cell for cell in cells if cell["stage"] == 3]
    assert [cell["own_expert"] for cell in last] == [cell["task"] for cell in last]
    assert all(cell["router_accuracy"] == 100.0 for cell in last), "the toy tasks' instructions differ"
    assert json.loads((tmp_path / "five" / "lora" / "matrix.json").read_text())["finished"]


def test_a_plan_counts_what_trains(toy_stream):
    config = configure(str(toy_stream), model="random", method="sequential,lora,olora,moelora", settings=SETTINGS)
    trained = {plan_of.method: plan_of.trained_parameters for plan_of in plan(config)}
    # q and v of two layers of the LM, 64 -> 64, with rank 8; the projector in full.
    adapters = 4 * 8 * (64 + 64)
    projector = sum((2 * 1280, 1280 * 64 + 64, 64 * 64 + 64, 2 * 64))
    assert trained["lora"] == adapters + projector
    assert trained["moelora"] == trained["lora"] + 4 * 4 * 64
    assert trained["olora"] == adapters + 8 * (1280 + 64) + 8 * (64 + 64)
    assert trained["sequential"] == projector + 2 * adapters, "its own LoRA has rank 16"
