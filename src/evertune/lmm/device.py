"""Where and in which number format a model runs: threads, device, and the dtype chosen by measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache

import torch

from evertune.errors import UserError

CLEARLY_FASTER = 1.5


def use_threads(count: int | None = None) -> int:
    """Use `count` threads, else `OMP_NUM_THREADS`, else one per core of this process; called once per command."""
    if count:
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def pick_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype called `wanted`; 'auto' takes bfloat16 where it is clearly faster than float32.

    On a CPU with AMX bfloat16 is two to three times faster, on one without it is slower: so measure. Clearly, because
    the measurement is noisy on a busy machine, and the number format must not change from run to run.
    """
    if wanted == "auto":
        return faster_dtype(seconds_per_product(device.type))
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if wanted not in known:
        raise UserError(f"dtype must be auto, float32 or bfloat16, not '{wanted}'")
    return known[wanted]


def faster_dtype(seconds: Mapping[torch.dtype, float]) -> torch.dtype:
    """The choice of 'auto' for measured times per product."""
    clearly = seconds[torch.float32] > CLEARLY_FASTER * seconds[torch.bfloat16]
    return torch.bfloat16 if clearly else torch.float32


@cache
def seconds_per_product(device: str) -> dict[torch.dtype, float]:
    """Seconds of one (256 x 576) @ (576 x 1536) product by dtype: the shape that the LM of `smol` is made of."""
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(256, 576, dtype=dtype, device=device)
        weights = [torch.ones(1536, 576, dtype=dtype, device=device) for _ in range(8)]
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(left, weight)
            if device == "cuda":
                torch.cuda.synchronize()
            rounds.append((time.perf_counter() - start) / len(weights))
        result[dtype] = min(rounds)
    return result
