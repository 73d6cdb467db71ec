"""`provenance.json`: the environment in which a run's numbers were made, and what changed when it was resumed.

Another model is refused. Other versions, another CPU or number of threads may change the last bits, so they are noted.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evertune.data import Stream
from evertune.models.protocol import Described
from evertune.utils import distributed
from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_json, write_json

MAY_CHANGE = (
    *("evertune", "python", "torch", "transformers", "peft", "accelerate", "safetensors"),
    *("machine", "cpu", "threads", "processes", "device"),
)
"""What can change the last bits of numbers: a difference at resume is noted, but no error."""


def write_provenance(folder: Path, lmm: Described, stream: Stream) -> list[str]:
    """Write what the numbers depend on; at resume, refuse another model and note other differences.

    Returns:
        the differences to the start of the run: `torch 2.12.0, now 2.13.0`. They are also written to the provenance.

    Raises:
        RunFolderError: the weights are not those that the run was started with.
    """
    content = _circumstances(lmm, stream)
    path = folder / "provenance.json"
    if not path.exists():
        write_json(path, content)
        return []
    before = read_json(path)
    for key in ("model_fingerprint", "dtype"):
        if before.get(key) != content[key]:
            raise RunFolderError(
                f"{path}: the run was begun with {key} {before.get(key)}, this machine has {content[key]}; "
                "its numbers would not be comparable: choose another folder (--out, out=...)"
            )
    earlier = [before, *(note["now"] for note in before.get("resumed", []))]
    prompts = {**content["prompts"], **before.get("prompts", {})}  # tasks may have been added to the stream
    last = {key: next((note[key] for note in reversed(earlier) if key in note), None) for key in MAY_CHANGE}
    now = {key: content[key] for key in MAY_CHANGE if last[key] not in (None, content[key])}
    note = {"time": time.time(), "after_stage": len(list(folder.glob("stages/*/done.json"))), "now": now}
    resumed = {"resumed": [*before.get("resumed", []), note]} if now else {}
    if now or prompts != before.get("prompts"):
        write_json(path, {**before, "prompts": prompts, **resumed})
    return [f"{key} {last[key]}, now {value}" for key, value in now.items()]


def _circumstances(lmm: Described, stream: Stream) -> dict[str, Any]:
    import torch

    from evertune.utils.device import is_deterministic, processor

    return {
        "evertune": version("evertune"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "safetensors")},
        "machine": platform.machine(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "device": str(lmm.device),
        **({"deterministic": True} if is_deterministic() else {}),
        "dtype": str(lmm.dtype).removeprefix("torch."),
        "model_fingerprint": lmm.fingerprint,
        "prompts": {
            task.name: lmm.prompt(first.instruction, images=len(first.images))
            for task in stream.all_tasks
            for first in [(task.train or task.test)[0]]
        },
        **({"skipped": stream.skipped.counts} if len(stream.skipped) else {}),
    }


def running_facts(lmm: Described) -> dict[str, str]:
    """Device, threads and dtype of a loaded model; `evertune doctor` shows what was measured for the dtype."""
    import torch

    threads, many = torch.get_num_threads(), distributed.world_size()
    return {
        "device": str(lmm.device),
        **({"processes": f"{many} processes"} if many > 1 else {}),
        "threads": f"{threads} thread{'s' if threads > 1 else ''}",
        "dtype": str(lmm.dtype).removeprefix("torch."),
    }
