"""`train.compile`: the blocks of the LM as `torch.compile` makes them, while a task is trained.

Block by block, since blocks are alike and their code is compiled once; what is around them (the batch, the loss, hooks
of methods) stays as it is. The first steps compile, which takes a minute or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evertune.models.protocol import Trainable
from evertune.utils.errors import UserError


@contextmanager
def compiled_blocks(lmm: Trainable, *, wanted: bool) -> Iterator[None]:
    """Inside this context the library's blocks are compiled; afterwards they are as before.

    Raises:
        UserError: the model has no such blocks.
    """
    if not wanted:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in lmm.module().modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise UserError(f"{lmm.name} has no blocks of the library that could be compiled: leave out train.compile")
    try:
        for block in blocks:
            block.forward = torch.compile(block.forward, dynamic=True)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
