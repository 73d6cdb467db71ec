"""What is kept of an image for a chat LMM, and what its model takes in place of it.

Usually the frozen tower's output is kept, and connector and LM run on it (`CachedTower`). Where the installed library
has no way in behind the tower, pixels are kept and the whole model runs on them (`Pixels`): the same numbers up to
rounding, and more work per step.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evertune.models.connectors import Connector, capture_inputs, cast_to
from evertune.models.processors import Layout
from evertune.models.protocol import Size

DIFFERENT = 0.05
"""Relative distance of visual tokens that rounding of the kept rows does not explain: it is 0.01 in bfloat16."""


@dataclass(frozen=True)
class CachedTower:
    """The rows that enter the connector are kept; the model takes the visual tokens that are made of them."""

    connector: Connector
    tag: ClassVar[str] = "chat 1"
    """Part of the features' fingerprint."""

    def rows(self, base: Any, pixels: Mapping[str, Tensor], count: int) -> Sequence[Tensor]:
        """(V, D) of each of `count` images whose pixels have equal shapes: run the tower and read what enters the
        connector. `base` is the model without head."""
        with capture_inputs(self.connector, base) as captured:
            made = base.get_image_features(**pixels)
        inputs = [captured[module] for module in self.connector.modules(base)]
        return self.connector.kept(base, inputs, made, count)

    def inputs(self, base: Any, rows: Sequence[Tensor], sizes: Sequence[Size], layouts: Sequence[Layout]) -> Any:
        """{argument: value} for the model from the kept rows of all images of a batch: their visual tokens."""
        return {"mm_encoder_outputs": {"image": self.connector.tokens(base, rows, sizes)}}

    def vector(self, base: Any, rows: Tensor, layout: Layout) -> Tensor:
        """(D,) one frozen vector of an image, float32: the mean of its rows."""
        return rows.float().mean(0)

    @torch.inference_mode()
    def check(self, base: Any, pixels: Mapping[str, Tensor], rows: Tensor, size: Size) -> int:
        """How many visual tokens an image of this size has, after comparing them with what the library makes of it.

        Raises:
            ValueError: they differ by more than the rounding of the kept rows.
        """
        ours = torch.cat(list(self.connector.tokens(base, [rows], [size]).pooler_output)).flatten(0, -2)
        with capture_inputs(replace(self.connector, numbered=False), base):
            made = base.get_image_features(**pixels).pooler_output
        theirs = torch.cat(list(made)).flatten(0, -2)
        if ours.shape != theirs.shape or (ours - theirs).norm() > DIFFERENT * theirs.norm():
            raise ValueError("visual tokens made of kept rows are not those of the library")
        return len(ours)


class Pixels:
    """The prepared pixels are kept; the model runs its tower on them each time.

    Args:
        trained: modules of the tower or connector that train in float32, whatever enters them.
    """

    tag: ClassVar[str] = "chat pixels 1"

    def __init__(self, trained: Sequence[nn.Module]) -> None:
        for module in trained:
            module.register_forward_pre_hook(_cast)

    def rows(self, base: Any, pixels: Mapping[str, Tensor], count: int) -> Sequence[Tensor]:
        """The pixel values of each image, as rows of the length of their last dimension."""
        values = pixels["pixel_values"]
        return values.reshape(count, -1, values.shape[-1]).unbind()

    def inputs(self, base: Any, rows: Sequence[Tensor], sizes: Sequence[Size], layouts: Sequence[Layout]) -> Any:
        """Pixel values in the shapes that the processor gave them; images with fewer tiles end with empty ones."""
        first = next(base.parameters())
        shaped = [
            part.to(first.device, first.dtype).view(layout.shape) for part, layout in zip(rows, layouts, strict=True)
        ]
        if shaped[0].ndim == 5:  # (1, tiles, 3, height, width)
            most = max(part.shape[1] for part in shaped)
            shaped = [_filled(part, most) for part in shaped]
        return {"pixel_values": torch.cat(shaped)}

    @torch.inference_mode()
    def vector(self, base: Any, rows: Tensor, layout: Layout) -> Tensor:
        """Mean of the tower's last hidden states, which train as little as the tower."""
        taken = set(inspect.signature(base.get_image_features).parameters)
        facts = {name: value.to(rows.device) for name, value in layout.facts.items() if name in taken}
        made = base.get_image_features(**self.inputs(base, [rows], [], [layout]), **facts)
        hidden: Tensor = made.last_hidden_state
        return hidden.float().flatten(0, -2).mean(0)


def _filled(part: Tensor, tiles: int) -> Tensor:
    return torch.cat([part, part.new_zeros(1, tiles - part.shape[1], *part.shape[2:])], dim=1)


def _cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    floating = inputs and torch.is_floating_point(inputs[0])
    return (cast_to(module, inputs[0]), *inputs[1:]) if floating else inputs
