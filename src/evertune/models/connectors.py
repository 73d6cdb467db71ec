"""Where a chat LMM is cut in two: the frozen tower's output on one side, connector and language model on the other.

A connector says what is kept of an image (the rows that enter the connector's first layer), and makes the visual
tokens of such rows with the library's own modules. Everything behind them (masks, positions) stays the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evertune.models.protocol import Size


@dataclass(frozen=True)
class Connector:
    """A connector whose layers treat every row alike (LLaVA, PaliGemma, InternVL, Idefics3).

    Attributes:
        first: path of the module that the kept rows enter.
        parts: prefixes of all parameters of the connector.
        stacked: the library wants the visual tokens of a batch as one tensor, not as one per image.
        numbered: the tower hands its rows on in an order of its own, which `capture_inputs` has to find out.
    """

    first: str = "multi_modal_projector"
    parts: tuple[str, ...] = ("multi_modal_projector.",)
    stacked: bool = False
    numbered: bool = False

    def modules(self, base: nn.Module) -> list[nn.Module]:
        """The modules whose inputs are kept."""
        return [base.get_submodule(self.first)]

    def kept(self, base: Any, inputs: Sequence[Tensor], output: Any, count: int) -> Sequence[Tensor]:
        """(V, D) rows of each of `count` images of equal shape, from what entered the modules and what came of it."""
        return inputs[0].reshape(count, -1, inputs[0].shape[-1]).unbind()

    def tokens(self, base: Any, rows: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """The visual tokens of images from their kept rows, in the form that the library takes."""
        flat = cast_to(self.modules(base)[0], torch.cat(list(rows)))
        return self.output(self.modules(base)[0](flat).split([len(part) for part in rows]))

    def output(self, parts: Sequence[Tensor], deepstack: Sequence[Any] = ()) -> Any:
        """What the library's own encoder step returns, as far as the rest of the model looks at it."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pooled: Any = torch.cat(list(parts))[None] if self.stacked else list(parts)
        made = BaseModelOutputWithPooling(pooler_output=pooled)
        if deepstack:
            made["deepstack_features"] = list(deepstack)
        return made


@dataclass(frozen=True)
class Tiled(Connector):
    """LLaVA-NeXT and OneVision: an overview and tiles, projected, then put together with a learned newline."""

    parts: tuple[str, ...] = ("multi_modal_projector.", "image_newline")

    def tokens(self, base: Any, rows: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """Project all tiles at once; put each image's together by its size."""
        flat = cast_to(self.modules(base)[0], torch.cat(list(rows)))
        projected = self.modules(base)[0](flat).split([len(part) for part in rows])
        vision = base.config.vision_config
        tile = (vision.image_size // vision.patch_size) ** 2
        packed = []
        for part, size in zip(projected, sizes, strict=True):
            tiles = part.view(-1, tile, part.shape[-1])
            packed.append(self._packed(base, tiles, torch.tensor([size], device=part.device)))
        return self.output(packed)

    def _packed(self, base: Any, tiles: Tensor, size: Tensor) -> Tensor:
        if hasattr(base.config, "vision_aspect_ratio"):
            options = {"vision_aspect_ratio": base.config.vision_aspect_ratio}
        else:
            options = {"vision_feature_select_strategy": base.config.vision_feature_select_strategy}
        packed, _ = base.pack_image_features([tiles], size, image_newline=base.image_newline, **options)
        return packed[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Merger(Connector):
    """Qwen-VL: a merger of four patches into one token; Qwen3-VL has more of them, fed from earlier layers."""

    first: str = "visual.merger"
    parts: tuple[str, ...] = ("visual.merger.", "visual.deepstack_merger_list.")
    numbered: bool = True

    def modules(self, base: nn.Module) -> list[nn.Module]:
        """The merger, then those of the earlier layers."""
        visual: Any = base.get_submodule("visual")
        return [visual.merger, *getattr(visual, "deepstack_merger_list", ())]

    def kept(self, base: Any, inputs: Sequence[Tensor], output: Any, count: int) -> Sequence[Tensor]:
        """Rows of the patches that become one token, in the order of the tokens (the tower works in windows)."""
        unit = base.visual.spatial_merge_size**2
        rows = torch.cat([part.reshape(len(part) // unit, -1) for part in inputs], dim=-1)
        orders = output.pooler_output  # the mergers returned their rows' numbers: see `capture_inputs`
        assert len(orders) == count
        return [rows[order.squeeze(-1).long()] for order in orders]

    def tokens(self, base: Any, rows: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """Every merger on its share of the rows."""
        mergers, counts = self.modules(base), [len(part) for part in rows]
        unit = base.visual.spatial_merge_size**2
        shares = torch.cat(list(rows)).chunk(len(mergers), dim=-1)
        made = [
            merger(cast_to(merger, share).reshape(-1, share.shape[-1] // unit)).split(counts)
            for merger, share in zip(mergers, shares, strict=True)
        ]
        return self.output(made[0], made[1:])


@dataclass(frozen=True)
class Pooled(Connector):
    """Gemma-3: patches are averaged, which trains nothing, before they are normed and projected."""

    stacked: bool = True

    def kept(self, base: Any, inputs: Sequence[Tensor], output: Any, count: int) -> Sequence[Tensor]:
        """The averaged patches: a sixteenth of the rows."""
        projector, side = base.multi_modal_projector, base.multi_modal_projector.patches_per_image
        grid = inputs[0].transpose(1, 2).reshape(count, -1, side, side).contiguous()
        return projector.avg_pool(grid).flatten(2).transpose(1, 2).unbind()  # type: ignore[no-any-return]

    def tokens(self, base: Any, rows: Sequence[Tensor], sizes: Sequence[Size]) -> Any:
        """Norm and projection."""
        projector = base.multi_modal_projector
        flat = projector.mm_soft_emb_norm(cast_to(projector, torch.cat(list(rows))))
        return self.output((flat @ projector.mm_input_projection_weight).split([len(part) for part in rows]))


def cast_to(module: nn.Module, rows: Tensor) -> Tensor:
    """Rows in the dtype and on the device of a module."""
    first = next(module.parameters())
    return rows.to(first.device, first.dtype)


@contextmanager
def capture_inputs(connector: Connector, base: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect what enters each module of a connector during one forward pass, in whatever order they are called.

    A numbered connector answers with the numbers of its rows instead of its product: so the order in which the tower
    hands them on can be read off the end of the pass.
    """
    captured: dict[nn.Module, Tensor] = {}

    def hear(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        captured[module] = inputs[0]
        return (cast_to(module, inputs[0]), *inputs[1:])  # a connector that trains is float32, whatever the tower is

    def number(_module: nn.Module, _inputs: tuple[Tensor, ...], made: Tensor) -> Tensor:
        return torch.arange(len(made), device=made.device)[:, None]

    modules = connector.modules(base)
    hooks = [module.register_forward_pre_hook(hear) for module in modules]
    if connector.numbered:
        hooks += [module.register_forward_hook(number) for module in modules]
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


TokenTypes = Callable[[Tensor, Tensor], Tensor]


def image_types(images: Tensor, labels: Tensor) -> Tensor:
    """1 where a visual token stands."""
    del labels
    return images.long()


def suffix_types(images: Tensor, labels: Tensor) -> Tensor:
    """1 where the answer stands: before it, all tokens see each other."""
    del images
    return (labels >= 0).long()


class Kind(NamedTuple):
    """How one model type of the library is taken apart.

    Attributes:
        tower: path of the vision tower in the base model.
        language: path of the LM in the base model.
        types: name of the argument that tells kinds of tokens apart, and what it is made of; None where there is none.
        plain: the prompt of a family that has no chat template.
        crops: an image is scaled by its short side and then cropped, so that a thin one is huge in between.
        unshared: why the keys and values of an image can't serve several questions; None where they can.
    """

    connector: Connector
    tower: str = "vision_tower"
    language: str = "language_model"
    types: tuple[str, TokenTypes] | None = None
    plain: str | None = None
    crops: bool = False
    unshared: str | None = None


_IDEFICS = Kind(Connector("connector.modality_projection", ("connector.",)), "vision_model", "text_model")
_QWEN = Kind(Merger(), "visual", types=("mm_token_type_ids", image_types))


KINDS = {
    "llava": Kind(Connector(), crops=True),
    "llava_next": Kind(Tiled()),
    "llava_onevision": Kind(Tiled()),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "internvl": Kind(Connector(stacked=True)),
    "paligemma": Kind(
        Connector(stacked=True),
        types=("token_type_ids", suffix_types),
        plain="{image}{bos}{instruction}\n",
        unshared="its visual tokens attend to the question",
    ),
    "gemma3": Kind(Pooled(), types=("token_type_ids", image_types)),
}
"""By `model_type` of a checkpoint."""
