"""Parts of any model by name: `attention`, `mlp`, `gate-up`, `last-4`, `one-per-block`, instead of regular expressions.

Names of parameters say where they are: `model.layers.3.self_attn.q_proj.weight` is in block 3 of the stack
`model.layers`, in its attention. Regions are joined by colons, each a part of the one before: `attention:last-4`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

LAST = re.compile(r"last-([1-9]\d{0,3})")
OF_MLP = {
    *("mlp", "ffn", "feed_forward", "densereludense", "fc1", "fc2", "intermediate", "intermediate_query", "output"),
    "output_query",
}
OF_GATE_UP = {
    *("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "wi", "wi_0", "wi_1", "fc1", "c_fc", "dense_h_to_4h"),
    *("linear_1", "linear_fc1", "intermediate", "intermediate_query"),
}
"""Of an MLP, the layers that read the residual stream."""
NAMES = (
    "attention, mlp, gate-up (the first layers of each mlp), last-K (the last K blocks of every stack), one-per-block "
    "(the last layer of each)"
)


def is_region(word: str) -> bool:
    """Whether `word` names a region of any model."""
    return word in ("attention", "mlp", "gate-up", "one-per-block") or LAST.fullmatch(word) is not None


def in_region(names: Sequence[str], word: str) -> list[str]:
    """The parameters among `names`, in their order, that are in the region `word`.

    Args:
        names: of parameters; of low-rank matrices too, which are where the layer is that they stand beside.
        word: for which `is_region` holds.
    """
    if last := LAST.fullmatch(word):
        return _last(names, int(last[1]))
    regions: dict[str, Callable[[Sequence[str]], list[str]]] = {
        "attention": lambda given: [name for name in given if _in_attention(name)],
        "mlp": lambda given: [name for name in given if _in_mlp(name)],
        "gate-up": lambda given: [name for name in given if _in_gate_up(name)],
        "one-per-block": _one_per_block,
    }
    return regions[word](names)


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to, or stands beside."""
    plain = re.split(r"\.(?:lora_|adapter\.|base_layer\.)", parameter, maxsplit=1)[0]
    return plain if plain != parameter else parameter.rpartition(".")[0]


def _in_attention(name: str) -> bool:
    return any(part.endswith(("attn", "attention")) for part in layer_of(name).lower().split("."))


def _in_mlp(name: str) -> bool:
    return not _in_attention(name) and not OF_MLP.isdisjoint(layer_of(name).lower().split("."))


def _in_gate_up(name: str) -> bool:
    return _in_mlp(name) and not OF_GATE_UP.isdisjoint(layer_of(name).lower().split("."))


def _block_of(name: str) -> tuple[str, int] | None:
    """The stack and the number of the block that a parameter is in; a layer with a number is no block."""
    parts = layer_of(name).split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[:place]), int(part)
    return None


def _last(names: Sequence[str], count: int) -> list[str]:
    numbers: dict[str, set[int]] = {}
    for name in names:
        if block := _block_of(name):
            numbers.setdefault(block[0], set()).add(block[1])
    kept = {(stack, number) for stack, found in numbers.items() for number in sorted(found)[-count:]}
    return [name for name in names if _block_of(name) in kept]


def _one_per_block(names: Sequence[str]) -> list[str]:
    last = {block: layer_of(name) for name in names if (block := _block_of(name))}
    return [name for name in names if (block := _block_of(name)) and layer_of(name) == last[block]]
