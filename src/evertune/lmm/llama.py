"""A Llama decoder's forward pass in fewer passes over memory, on the library's own modules, and greedy answers with it.

On a CPU much of a training step goes into norms, rotations and their gradients, and much of a short answer into what
`generate` does between tokens. What trains sits in linear layers, which are called as they are. Values and gradients
are those of the library's eager attention to the bit; where that can't be promised (`walks`), its own forward is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DECODERS, LAYERS, NORMS = (
    {"LlamaModel", "PlainLlama"},
    {"LlamaDecoderLayer", "PlainLlamaLayer"},
    {"LlamaRMSNorm", "PlainNorm"},
)
WITH_HEAD = {"LlamaForCausalLM", "PlainLlamaWithHead"}
"""The library's classes, and those of `plain.py`, by name: neither is imported for this."""
_TOKENS = {f"{name}_token_id" for name in ("bos", "eos", "pad")}
_SAMPLING = {"do_sample", "temperature", "top_p", "top_k"}  # nothing is drawn
HARMLESS = {
    "transformers_version",
    "_from_model_config",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    *_TOKENS,
    *_SAMPLING,
}
Turns = tuple[Tensor, Tensor]
"""(B or 1, 1, S, width of a head) cosines and sines of the rotary positions."""
NARROW, ENOUGH = 256, 32
COMPACT = 0.75
"""Rows that have ended are dropped when at most this share of a batch still answers: dropping copies the cache."""


def walks(decoder: Any) -> bool:
    """Whether `decoder` is a plain Llama in float32 on a CPU, its norms frozen, no activations computed twice."""
    if type(decoder).__name__ not in DECODERS:
        return False
    config = decoder.config
    norms = [decoder.norm, *(norm for layer in decoder.layers for norm in _norms(layer))]
    plain = {type(layer).__name__ for layer in decoder.layers} <= LAYERS
    return (
        plain
        and {type(norm).__name__ for norm in norms} <= NORMS
        and not any(module._forward_hooks or module._forward_pre_hooks for module in (decoder, *decoder.layers, *norms))
        and not any(norm.weight.requires_grad for norm in norms)
        and {norm.weight.dtype for norm in norms} == {torch.float32}
        and decoder.norm.weight.device.type == "cpu"
        and config._attn_implementation == "eager"
        and config.rope_parameters["rope_type"] == "default"
        and not config.attention_dropout
        and not any(getattr(layer, "gradient_checkpointing", False) for layer in (decoder, *decoder.layers))
    )


def says_plainly(lm: Any) -> bool:
    """Whether `greedy_tokens` says what the library's `generate` would: nothing configured bends the choice."""
    said = lm.generation_config.to_diff_dict().keys()
    return type(lm).__name__ in WITH_HEAD and walks(lm.model) and said <= HARMLESS


def _norms(layer: Any) -> tuple[Any, Any]:
    return layer.input_layernorm, layer.post_attention_layernorm


def hidden_states(decoder: Any, embeds: Tensor, attention: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """(N, width) last hidden states at N places: (rows, columns) of (B, S, width) embeddings.

    Behind its attention, the last layer is computed at these places only, where that changes no bit (`_only_there`).
    `attention` is (B, S), 1 for inputs and 0 for padding.
    """
    there = _only_there(embeds, places)
    positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
    turns, mask = _turns(decoder, embeds, positions), _mask(attention, embeds.dtype)
    hidden = embeds
    for number, layer in enumerate(decoder.layers):
        before, behind = _norms(layer)
        heard = _heard(layer.self_attn, number, _normed(before, hidden), embeds.shape[1], turns, mask, None)
        if there and number == len(decoder.layers) - 1:
            hidden, heard = hidden[places], heard[places]
        hidden = hidden + layer.self_attn.o_proj(heard)
        hidden = hidden + layer.mlp(_normed(behind, hidden))
    last = _normed(decoder.norm, hidden)
    return last if there else last[places]


def _only_there(embeds: Tensor, places: tuple[Tensor, Tensor]) -> bool:
    """Whether a row of a product is the same to the bit among fewer rows: found so for small products of not too few.

    Wider ones are cut otherwise among two threads. They belong to models of many layers, whose last one counts little.
    """
    return embeds.shape[-1] <= NARROW and len(places[0]) >= ENOUGH


@torch.inference_mode()
def greedy_tokens(lm: Any, embeds: Tensor, attention: Tensor, *, max_new_tokens: int, end: int) -> list[list[int]]:
    """Greedy continuations of B prompts, each up to the token `end`, which is part of it.

    Args:
        lm: the decoder with its head.
        embeds: (B, S, width), padded on the left.
        attention: (B, S) 1 for inputs, 0 for padding.
        max_new_tokens: at most as many.
        end: the token that ends an answer.
    """
    said: list[list[int]] = [[] for _ in range(len(embeds))]
    rows = torch.arange(len(embeds))
    cache = Cache.of(lm.model, len(embeds), embeds.shape[1] + max_new_tokens)
    attention = nn.functional.pad(attention, (0, max_new_tokens), value=1)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    begin, stop = 0, embeds.shape[1]
    for _ in range(max_new_tokens):
        mask = _mask(attention[:, :stop], embeds.dtype, begin=begin)
        turns = _turns(lm.model, embeds, positions[:, begin:stop])
        tokens = lm.lm_head(_last(lm.model, embeds, turns, mask, cache)).float().argmax(-1)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            if said[row][-1:] != [end]:
                said[row].append(token)
        going = torch.tensor([said[row][-1] != end for row in rows.tolist()])
        if not going.any():
            break
        if going.float().mean() <= COMPACT:
            rows, tokens, attention, positions = rows[going], tokens[going], attention[going], positions[going]
            cache.keep(going)
        embeds = lm.get_input_embeddings()(tokens)[:, None]
        begin, stop = stop, stop + 1
    return said


@dataclass
class Cache:
    """Keys and values of every layer, (rows, heads, room, width) each; `filled` places of the room are written."""

    keys: list[Tensor]
    values: list[Tensor]
    filled: int = 0

    @staticmethod
    def of(decoder: Any, rows: int, room: int) -> Cache:
        """An empty one."""
        config = decoder.config
        shape = (rows, config.num_key_value_heads, room, decoder.layers[0].self_attn.head_dim)
        made = [[torch.empty(shape, dtype=decoder.norm.weight.dtype) for _ in decoder.layers] for _ in range(2)]
        return Cache(keys=made[0], values=made[1])

    def add(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write what is new of a layer, and return all of it so far."""
        stop = self.filled + key.shape[2]
        self.keys[layer][:, :, self.filled : stop] = key
        self.values[layer][:, :, self.filled : stop] = value
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows."""
        self.keys = [part[rows] for part in self.keys]
        self.values = [part[rows] for part in self.values]


def _turns(decoder: Any, embeds: Tensor, positions: Tensor) -> Turns:
    cos, sin = decoder.rotary_emb(embeds, position_ids=positions)
    return cos[:, None], sin[:, None]


def _mask(attention: Tensor, dtype: torch.dtype, *, begin: int = 0) -> Tensor:
    """(B, 1, S - begin, S) what is added to attention's logits: 0, or the least number at what is later or padding."""
    places = torch.arange(attention.shape[1], device=attention.device)
    seen = (places[None] <= places[begin:, None]) & attention.bool()[:, None, None]
    return torch.where(seen, torch.zeros((), dtype=dtype, device=attention.device), torch.finfo(dtype).min)


def _last(decoder: Any, hidden: Tensor, turns: Turns, mask: Tensor, cache: Cache) -> Tensor:
    """(B, width) last hidden states of the last position; nothing else of the last layer is computed."""
    for number, layer in enumerate(decoder.layers):
        before, behind = _norms(layer)
        read = _normed(before, hidden)
        if number == len(decoder.layers) - 1:
            hidden = hidden[:, -1:].contiguous()
        heard = _heard(layer.self_attn, number, read, hidden.shape[1], turns, mask, cache)
        hidden = hidden + layer.self_attn.o_proj(heard)
        hidden = hidden + layer.mlp(_normed(behind, hidden))
    cache.filled = mask.shape[-1]
    return _normed(decoder.norm, hidden[:, 0])


def _heard(
    part: Any, number: int, read: Tensor, asking: int, turns: Turns, mask: Tensor, cache: Cache | None
) -> Tensor:
    """(B, asking, heads * width) what the last `asking` positions of (B, S, width) hear, before it is projected."""
    asked = read if asking == read.shape[1] else read[:, -asking:].contiguous()
    query, key, value = (
        project(states).view(*states.shape[:2], -1, part.head_dim).transpose(1, 2)
        for project, states in ((part.q_proj, asked), (part.k_proj, read), (part.v_proj, read))
    )
    query = _Rotated.apply(query, *(turn[:, :, -asking:] for turn in turns))  # type: ignore[no-untyped-call]
    key = _Rotated.apply(key, *turns)  # type: ignore[no-untyped-call]
    if cache:
        key, value = cache.add(number, key, value)
    key, value = (_for_each_query(each, part.num_key_value_groups) for each in (key, value))
    logits = torch.matmul(query, key.transpose(2, 3)).mul_(part.scaling).add_(mask[:, :, -asking:])
    heard = torch.matmul(nn.functional.softmax(logits, dim=-1), value)
    return heard.transpose(1, 2).reshape(len(read), asking, -1)


def _for_each_query(heads: Tensor, times: int) -> Tensor:
    """Each head of keys or values as often as it has heads of queries."""
    if times == 1:
        return heads
    rows, count, length, width = heads.shape
    return heads[:, :, None].expand(rows, count, times, length, width).reshape(rows, count * times, length, width)


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    return _Normed.apply(hidden, hidden, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return, no-untyped-call]


class _Normed(torch.autograd.Function):
    """w x / sqrt(mean(x²) + eps) with w frozen.

    x comes twice, so that its two gradients, through the product and through the mean, are added to what else reaches x
    in the order of the library's: sums of three rounded numbers depend on it.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, again: Tensor, weight: Tensor, eps: float) -> Tensor:
        """(..., width) -> the same."""
        del again
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(hidden, scale, weight)
        return (hidden * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Both gradients of x."""
        hidden, scale, weight = ctx.saved_tensors
        outer = gradient * weight
        inner = (outer * hidden).sum(-1, keepdim=True)
        inner = (-0.5 * inner) * scale.pow(3) / hidden.shape[-1]
        return outer.mul_(scale), hidden * (2 * inner), None, None


class _Rotated(torch.autograd.Function):
    """x cos + rotate(x) sin with rotate((a, b)) = (-b, a), whose transpose turns back."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, heads, S, width) -> the same."""
        ctx.save_for_backward(cos, sin)
        half = heads.shape[-1] // 2
        turned = heads * cos
        turned[..., :half].sub_(heads[..., half:] * sin[..., :half])
        turned[..., half:].add_(heads[..., :half] * sin[..., half:])
        return turned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient, turned back."""
        cos, sin = ctx.saved_tensors
        half = gradient.shape[-1] // 2
        back = gradient * cos
        back[..., :half].add_(gradient[..., half:] * sin[..., half:])
        back[..., half:].sub_(gradient[..., :half] * sin[..., :half])
        return back, None, None
