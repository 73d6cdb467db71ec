"""Several processes that train one model: which one this is, and how they agree. `accelerate launch` starts them.

The first process leads: it alone decides what is done next, writes files and talks. The others follow it and take part
in every training step and every answer. A process that is alone leads, and every function here is then as good as free.
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from evertune.utils.errors import UserError
from evertune.utils.heartbeat import Heartbeat, ends_after

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""How long one process waits for another that is alive: the first may work alone for hours, over all answers say."""
SILENCE = 300.0
"""Seconds after which a process that gives no sign of life counts as stopped, and the others end."""
SILENCE_VARIABLE = "EVERTUNE_PROCESS_TIMEOUT"
MEETING = 300.0
"""Seconds within which processes find each other, unless the variable says more: a launcher starts them together."""
MOMENT = 0.2
"""Seconds that a process stays after its work, for the threads of the connection; they need far less."""


def world_size() -> int:
    """How many processes there are: what the launcher says, and 1 where there is none."""
    launched = all(name in os.environ for name in ("RANK", "MASTER_ADDR"))
    return int(os.environ.get("WORLD_SIZE", "1")) if launched else 1


def rank() -> int:
    """Which one this is, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process decides, writes and talks."""
    return rank() == 0


def uses_fsdp() -> bool:
    """Whether the frozen weights are spread over the processes: `accelerate launch --use_fsdp --fsdp_version 2`.

    Raises:
        UserError: the older version is requested.
    """
    if world_size() == 1 or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise UserError("evertune spreads weights by FSDP2 only: say --fsdp_version 2 to accelerate launch")
    return True


def refuse_several(what: str) -> None:
    """Stop a command that several processes can't do together.

    Raises:
        UserError: there are several.
    """
    if world_size() > 1:
        raise UserError(f"several processes take part in `evertune run` only: start {what} without accelerate launch")


def init() -> None:
    """Find the other processes; called once, before a model is loaded."""
    if world_size() == 1:
        return
    import torch
    from accelerate import PartialState

    silence = _silence()
    meeting = max(MEETING, silence)
    with ends_after(meeting, partial(_alone, meeting)):
        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not _hearts:
        _hearts.append(Heartbeat(rank(), world_size(), silence=silence, describe=partial(_gone, silence)))
        atexit.register(_part)
    _hearts[0].watch(on=True)


def shutdown() -> None:
    """The run has ended: from here on the others may end when they like."""
    for heart in _hearts:
        heart.watch(on=False)


_hearts: list[Heartbeat] = []
"""Of this process: one, once it has found the others."""
RESUME = "What is finished stays: the same command again resumes"


def _silence() -> float:
    text = os.environ.get(SILENCE_VARIABLE, str(SILENCE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= PATIENCE.total_seconds():
        raise UserError(f"{SILENCE_VARIABLE}={text:.40}: write seconds, from 1 to {PATIENCE.total_seconds():.0f}")
    return seconds


def _alone(seconds: float) -> str:
    return (
        f"evertune (process {rank()}): the other processes were not found at {os.environ['MASTER_ADDR']}:"
        f"{os.environ.get('MASTER_PORT', '?')} within {seconds:g} s: they, or the launcher, have ended. Start the same "
        f"command again; {SILENCE_VARIABLE}, in seconds, lets a process wait longer"
    )


def _gone(silence: float, other: int) -> str:
    return (
        f"evertune (process {rank()}): process {other} gave no sign of life for {silence:g} s: it is stopped, or its "
        f"machine is out of reach, so this one ends too. {RESUME}"
    )


@contextmanager
def _exchange() -> Iterator[None]:
    """Around an exchange with the others.

    Raises:
        UserError: one of them has ended.
    """
    try:
        yield
    except RuntimeError as problem:
        reason = str(problem).partition("\n")[0]
        raise UserError(
            f"another process of this run has ended, and its own message says why ({reason:.120}). {RESUME}"
        ) from problem


def _part() -> None:
    """Close the connection to the other processes, before the interpreter goes down.

    A thread of gloo gives back the tensors of the last exchange a moment after it is done, and takes the interpreter's
    lock for that. Where the interpreter is already going down, that thread is ended and takes the process with it
    ("terminate called without an active exception"), although all work is done. So it gets that moment here.
    """
    from torch.distributed import destroy_process_group, is_initialized

    for heart in _hearts:
        heart.stop()
    time.sleep(MOMENT)
    if is_initialized():
        destroy_process_group()


def broadcast(value: T) -> T:
    """The main process's `value`, in every process."""
    if world_size() == 1:
        return value
    from torch.distributed import broadcast_object_list

    message = [value if is_main_process() else None]
    with _exchange():
        broadcast_object_list(message, src=0)
    return message[0]  # type: ignore[return-value]


def all_gather(value: T) -> list[T]:
    """The `value` of every process, in every process."""
    if world_size() == 1:
        return [value]
    from torch.distributed import all_gather_object

    found: list[Any] = [None] * world_size()
    with _exchange():
        all_gather_object(found, value)
    return found


def send_command(*order: Any) -> None:
    """Tell the other processes the next step; they get it from `receive_command`."""
    if is_main_process():
        broadcast(order)


def receive_command() -> tuple[Any, ...]:
    """The next step, from the main process."""
    order: tuple[Any, ...] = broadcast(())
    return order


def barrier() -> None:
    """Until every process is here."""
    all_gather(None)


def shard(items: Sequence[T]) -> Sequence[T]:
    """The part of `items` that this process takes: every n-th."""
    return items[rank() :: world_size()] if world_size() > 1 else items


def chunk(items: Sequence[T]) -> Sequence[T]:
    """The part of `items` that this process takes: neighbours. The first processes have one more where it must be."""
    size, more = divmod(len(items), world_size())
    start = rank() * size + min(rank(), more)
    return items[start : start + size + (rank() < more)]


def all_reduce_sum(values: Sequence[float], *, device: torch.device) -> list[float]:
    """Each value summed over all processes, in every process; `device` is where they exchange tensors."""
    if world_size() == 1:
        return list(values)
    import torch
    from torch.distributed import all_reduce

    sums = torch.tensor(values, dtype=torch.float64, device=device)
    with _exchange():
        all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def all_reduce_gradients(parameters: Mapping[str, Tensor]) -> None:
    """Make each `.grad` the sum over all processes, in one exchange; where no process has one, there is none."""
    if world_size() == 1 or not parameters:
        return
    import torch
    from torch.distributed import all_reduce

    wanted = list(parameters.values())
    there = torch.tensor([float(p.grad is not None) for p in wanted], device=wanted[0].device)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
    whole = torch.cat([there, *(part.float().flatten() for part in parts)])
    with _exchange():
        all_reduce(whole)
    sizes = [len(there), *(p.numel() for p in wanted)]
    there, *sums = torch.split(whole, sizes)
    for parameter, any_has, summed in zip(wanted, there.tolist(), sums, strict=True):
        if any_has:
            parameter.grad = summed.view_as(parameter).to(parameter.dtype)
