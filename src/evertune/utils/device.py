"""Where a model runs: threads, device, the speed of a product, determinism.

Here because a number's last bits are decided by all of them together, and by nothing else that a user can set.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from evertune.utils.errors import UserError


def use_threads(count: int | None = None) -> int:
    """Use `count` threads, else `OMP_NUM_THREADS`, else one per core of this process; called once per command."""
    if count:
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


def settle(*, deterministic: bool) -> None:
    """Threads of this process, and whether every operation must be bit-identical each time.

    Deterministic means one thread, whatever the machine has: the order of sums depends on their number. torch then
    refuses what it can't do in a fixed order; `no_fixed_order` says so.
    """
    use_threads(1 if deterministic else None)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(mode=True)


def is_deterministic() -> bool:
    """Whether `settle` or the caller made torch deterministic."""
    return torch.are_deterministic_algorithms_enabled()


@contextmanager
def as_before() -> Iterator[None]:
    """What `settle` changed is undone afterwards."""
    threads, strict, measured = torch.get_num_threads(), is_deterministic(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = measured
        torch.use_deterministic_algorithms(mode=strict)


@contextmanager
def no_fixed_order() -> Iterator[None]:
    """Say it in a line where an operation of the model can't be done deterministically.

    Raises:
        UserError: there is one; it is named.
    """
    try:
        yield
    except RuntimeError as problem:
        if "deterministic" not in str(problem) or not is_deterministic():
            raise
        what = str(problem).split(". ")[0].split(", but")[0]
        raise UserError(f"deterministic: {what}; leave it out, or run on a CPU") from problem


def processor() -> str:
    """The processor's name and what torch uses of it: two types may round differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def pick_device(wanted: str | torch.device | None = None) -> torch.device:
    """The device that is wanted; by default the GPU when there is one, else the CPU.

    Raises:
        UserError: torch knows no such device, or has none here.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise UserError(f"device {str(wanted)!r} can't be used: {reason}; take 'cpu', or leave it out") from problem
    return device


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
