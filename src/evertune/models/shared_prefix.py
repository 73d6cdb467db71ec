"""One copy of an image's tokens for all samples about it: their keys and values are computed once.

Prompts about the same images begin with the same tokens. These run through the LM once, with gradients; their keys and
values are repeated for every sample, whose own tokens run behind them, at the positions that they have alone. Losses,
gradients and answers are those of separate passes where no token of the prefix attends to one behind it, as with
Prefix Grouper (arXiv 2506.05433). It needs only the cache of the library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evertune.models import compat
from evertune.models.decoder import pad_left
from evertune.models.protocol import SharedPrefix


class Part(NamedTuple):
    """A part of n sequences for the LM.

    Attributes:
        inputs: token ids or embeddings of S places, and what the LM takes with them.
        attention: (n, S) 1 for inputs, 0 for padding.
    """

    inputs: Mapping[str, Any]
    attention: Tensor


class Behind(NamedTuple):
    """B samples behind their prefixes: P places of the prefix, padded on the left, and L of their own.

    Attributes:
        hidden: (B, L, width) last hidden states of the own tokens.
        cache: keys and values of all places.
        attention: (B, P + L).
        positions: (B, P + L), or (3, B, P + L) of a model with multimodal positions.
    """

    hidden: Tensor
    cache: Any
    attention: Tensor
    positions: Tensor


Groups = list[tuple[list[int], int]]
"""Rows that share their first tokens, and how many these are."""


def groups_of(images: Sequence[Any], prompts: Sequence[Sequence[int]], image: int) -> Groups:
    """Which of n prompts share their first tokens; empty where no two do, or where nothing is behind an image.

    Args:
        images: equal for prompts about the same images; false for one without images.
        prompts: token ids without answers. The last one is never shared, because it predicts the answer's first.
        image: the token id that stands for images. Prompts about one image whose texts differ before it share nothing.
    """
    found: Groups = []
    for rows in rows_by_images(images):
        ids = [list(prompts[row]) for row in rows]
        common = len(os.path.commonprefix([row[:-1] for row in ids]))  # noqa: RUF071  of ids, not of paths
        head = len(ids[0]) - ids[0][::-1].index(image) if image in ids[0] else 1
        alone = len(rows) == 1 or common < head
        found += [([row], head) for row in rows] if alone else [(rows, common)]
    whole = all(length < len(prompts[rows[0]]) for rows, length in found)
    return found if whole and len(found) < len(prompts) else []


def rows_by_images(images: Sequence[Any]) -> list[list[int]]:
    """Rows with the same value together, each false one alone."""
    groups: dict[Any, list[int]] = {}
    for row, same in enumerate(images):
        groups.setdefault((same,) if same else row, []).append(row)
    return list(groups.values())


def prefix_of(prompts: Sequence[Sequence[int]], groups: Groups, fill: int) -> tuple[SharedPrefix, list[list[int]]]:
    """The shared prefixes of prompts, and what is behind them of each prompt."""
    ids, attention = pad_left([prompts[rows[0]][:length] for rows, length in groups], fill)
    group = {row: number for number, (rows, _) in enumerate(groups) for row in rows}
    own = [list(ids[groups[group[row]][1] :]) for row, ids in enumerate(prompts)]
    return SharedPrefix(ids, attention, tuple(group[row] for row in range(len(prompts)))), own


def same_images(features: Tensor, counts: Sequence[int]) -> list[int]:
    """A number for each of n rows with so many images: equal for neighbours with the same ones, 0 without images."""
    found: list[int] = []
    number, before = 0, features[:0]
    for part in torch.split(features, list(counts)):
        number += not torch.equal(part, before)
        before = part
        found.append(number if len(part) else 0)
    return found


def images_of(features: Tensor, counts: Sequence[int], rows: Sequence[int]) -> Tensor:
    """The images of some rows from those of all rows, of which each has so many."""
    parts = torch.split(features, list(counts))
    return torch.cat([parts[row] for row in rows])


def run_behind(decoder: Any, prefix: Part, own: Part, groups: Sequence[int], positions: Tensor | None = None) -> Behind:
    """Run each prefix once, and the own tokens of each sample behind it.

    Args:
        decoder: the library's model without its head.
        prefix: of G sequences, padded on the left.
        own: of B samples, padded on the right; text only.
        groups: which prefix each sample has.
        positions: of the prefixes, where the model does not simply count. Text counts on from the largest.
    """
    argument, cache = compat.cache_argument(decoder), compat.new_cache()
    if positions is None:
        positions = (prefix.attention.cumsum(1) - 1).clamp(min=0)
    caching = {argument: cache, "use_cache": True}
    made = decoder(**prefix.inputs, attention_mask=prefix.attention, position_ids=positions, **caching)
    rows = torch.tensor(groups, device=prefix.attention.device)
    cache.reorder_cache(rows)
    attention = torch.cat([prefix.attention[rows], own.attention], 1)
    start = _next(positions, prefix.attention)[rows]
    behind = start + torch.arange(own.attention.shape[1], device=start.device)
    behind = behind.expand(*positions.shape[:-2], -1, -1)
    if own.attention.shape[1]:
        made = decoder(**own.inputs, attention_mask=attention, position_ids=behind, **caching)
    return Behind(made.last_hidden_state, cache, attention, torch.cat([positions[..., rows, :], behind], -1))


def _next(positions: Tensor, attention: Tensor) -> Tensor:
    """(n, 1) the position of the text token after each sequence; 0 after an empty one.

    Of multimodal positions it is behind the largest, since an image may be wider than high.
    """
    largest = (positions * attention).amax(-1, keepdim=True)
    return (largest if largest.ndim == 2 else largest.amax(0)) + attention.any(1, keepdim=True)


def inputs_behind(lm: Any, behind: Behind, last: Sequence[int]) -> dict[str, Any]:
    """What the library's `generate` takes to continue B prompts.

    Args:
        lm: the library's model with its head.
        behind: all tokens of the prompts but the last.
        last: the last token of each prompt.
    """
    cache, attention, positions = _right_aligned(behind)
    ids = torch.tensor(last, device=attention.device)[:, None].expand(-1, attention.shape[1] + 1)
    return {
        "input_ids": ids,  # only the last place is read: the others are in the cache
        "attention_mask": torch.cat([attention, attention.new_ones(len(ids), 1)], 1),
        "position_ids": torch.cat([positions, _next(positions, attention).expand(*positions.shape[:-1], -1)], -1),
        compat.cache_argument(lm): cache,
    }


def _right_aligned(behind: Behind) -> tuple[Any, Tensor, Tensor]:
    """Cache, attention and positions with all padding on the left, as `generate` leaves them after a prompt.

    Padding between tokens would be part of a sliding window.
    """
    attention = behind.attention
    width, kept = attention.shape[1], int(attention.sum(1).max())
    ends = width - attention.flip(1).argmax(1, keepdim=True)
    places = torch.arange(kept, device=attention.device) + ends - kept
    at = places.clamp(min=0)
    cache = compat.new_cache()
    for number, (keys, values, *_) in enumerate(behind.cache):
        index = at[:, None, :, None]
        cache.update(torch.take_along_dim(keys, index, 2), torch.take_along_dim(values, index, 2), number)
    positions = torch.take_along_dim(behind.positions, at.expand(*behind.positions.shape[:-1], -1), -1)
    return cache, attention.gather(1, at) * (places >= 0), positions
