"""Frozen weights spread over several processes (PyTorch's FSDP2), so that an LMM need not fit into one device.

What trains stays whole in every process: it is small beside the rest, and methods read and change it in every way. The
blocks of the LM are what is large; each is gathered when it is its turn, forward and backward, and let go again. The
vision tower stays whole too, because each process encodes images when it needs them.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from evertune.models.adapters import TOWERS
from evertune.models.protocol import Trainable
from evertune.models.quantization import refuse_quantized


def spread_frozen(lmm: Trainable) -> int:
    """Spread the frozen weights of the repeated blocks of `lmm` over the processes; changed in place.

    All processes must call it, and from then on go through the model together. Says how many blocks there are.

    Raises:
        UserError: weights are quantized.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    from evertune.utils.distributed import world_size

    module = lmm.module()
    refuse_quantized(module, "FSDP")
    trained = set(lmm.trainable().values())
    mesh = init_device_mesh(lmm.device.type, (world_size(),))
    found = 0
    for block in _blocks(module):
        found += 1
        if not isinstance(block, FSDPModule):
            spread: FSDPModule = fully_shard(block, mesh=mesh, ignored_params=trained & set(block.parameters()))
            # Made here once: answers are made in inference mode, and a tensor made in that can't be trained through.
            spread.unshard()
            spread.reshard()
    return found


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules, where something of them is frozen; none of a vision tower."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if any(not p.requires_grad for p in block.parameters()))
        elif name not in TOWERS:
            yield from _blocks(child)
