"""InstructBLIP with a Llama as plain modules, under the library's names: for a process that asks and ends.

Importing the library's classes takes longer than everything else that such a process does for a small model. Here are
the tower, the Q-Former and the weights of the decoder, which `llama.py` walks through; values are those of the
library's eager classes to the bit. Runs, and checkpoints of any other form (`reads`), go through the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, softmax

from evertune.files import read_json, read_object
from evertune.lmm import llama
from evertune.tensors import read_header

Config = Mapping[str, Any]
WEIGHTS = "model.safetensors"


def reads(folder: Path, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the weights of a checkpoint folder are answered here as the library would.

    They are in one file, for float32 on the CPU, and the configuration says nothing that is not read here.
    """
    if dtype != torch.float32 or device.type != "cpu" or not (folder / WEIGHTS).exists():
        return False
    config, tensors = read_json(folder / "config.json"), len(read_header(folder / WEIGHTS))
    text, qformer, tower = (config[part] for part in ("text_config", "qformer_config", "vision_config"))
    rotary = text["rope_parameters"]
    return bool(
        config["model_type"] == "instructblip"
        and config.keys() <= _KNOWN
        and type(config["num_query_tokens"]) is int
        and _is_sized(text, _TEXT, tensors=tensors)
        and text["model_type"] == "llama"
        and text["hidden_act"] == "silu"
        and not (text["attention_bias"] or text["mlp_bias"] or text["attention_dropout"])
        and rotary.keys() == {"rope_type", "rope_theta"}
        and rotary["rope_type"] == "default"
        and all(type(value) is float for value in (rotary["rope_theta"], text["rms_norm_eps"]))
        and _generation(folder).keys() <= llama.HARMLESS
        and _is_sized(qformer, _QFORMER, tensors=tensors)
        and _is_sized(tower, _TOWER, tensors=tensors)
        and tower["hidden_act"] == qformer["hidden_act"] == "gelu"
        and all(type(part["layer_norm_eps"]) is float for part in (tower, qformer))
        and tower["qkv_bias"]
    )


def load_plain(folder: Path) -> PlainBlip:
    """The model of a folder that `reads` takes, in float32 on the CPU.

    Raises:
        OSError, RuntimeError, SafetensorError: its weights are damaged, or not those that its configuration describes.
    """
    config = read_json(folder / "config.json")
    with torch.device("meta"):  # no numbers are drawn that the checkpoint's replace
        model = PlainBlip(config, _generation(folder))
    weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    tied = config["text_config"].get("tie_word_embeddings")
    words, head = (f"language_model.{name}.weight" for name in ("model.embed_tokens", "lm_head"))
    if tied and words in weights:
        weights.setdefault(head, weights[words])
    model.load_state_dict(weights, assign=True)
    if tied:  # assigning has made two parameters of them
        model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
    return model


def _generation(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_object(path) if path.exists() else {}


def _is_sized(config: Config, sizes: Mapping[str, str], *, tensors: int) -> bool:
    """Whether a part says its sizes in numbers, no more layers than its file has tensors for, and nothing unknown."""
    counts = [config[name] for name in (_SIZES + sizes["sizes"]).split()]
    return (
        config.keys() <= set((_SIZES + _BESIDE + sizes["sizes"] + sizes["beside"]).split())
        and all(type(count) is int and count > 0 for count in counts)
        and config["num_hidden_layers"] <= tensors
        and config["hidden_size"] % config["num_attention_heads"] == 0
    )


_SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads "
_BESIDE = "model_type dtype hidden_act initializer_range "
_TEXT = {
    "sizes": "vocab_size num_key_value_heads head_dim ",
    "beside": "rms_norm_eps rope_parameters attention_bias mlp_bias attention_dropout tie_word_embeddings "
    "max_position_embeddings bos_token_id eos_token_id pad_token_id use_cache pretraining_tp",
}
_QFORMER = {
    "sizes": "vocab_size cross_attention_frequency encoder_hidden_size max_position_embeddings ",
    "beside": "layer_norm_eps attention_probs_dropout_prob hidden_dropout_prob pad_token_id",
}
_TOWER = {"sizes": "image_size patch_size ", "beside": "layer_norm_eps qkv_bias attention_dropout"}
_KNOWN = set(
    "architectures model_type dtype transformers_version initializer_factor initializer_range image_token_index "
    "num_query_tokens use_decoder_only_language_model text_config qformer_config vision_config".split()
)


class PlainBlip(nn.Module):
    """Tower, Q-Former with its queries, projection and LM; `InstructBlip` asks the parts."""

    def __init__(self, config: Config, generation: Config) -> None:
        super().__init__()
        tower, qformer, text = (_settings(config[f"{part}_config"]) for part in ("vision", "qformer", "text"))
        self.config = SimpleNamespace(qformer_config=qformer, text_config=text)
        self.vision_model = Tower(tower)
        self.query_tokens = nn.Parameter(torch.empty(1, config["num_query_tokens"], qformer.hidden_size))
        self.qformer = QFormer(qformer)
        self.language_projection = nn.Linear(qformer.hidden_size, text.hidden_size)
        self.language_model = PlainLlamaWithHead(text, generation)


def _settings(config: Config) -> SimpleNamespace:
    return SimpleNamespace(**config, is_encoder_decoder=False, _attn_implementation="eager")  # neither is known above


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, Q, heads * width) what (B, heads, Q, width) queries hear of keys and values; `mask` is added to logits."""
    logits = torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + mask
    heard = torch.matmul(softmax(logits, dim=-1), value)
    return heard.transpose(1, 2).flatten(2)


def _table(rows: int, width: int) -> nn.Embedding:
    """Embeddings without numbers yet; to draw some, even on no device, torch would import its compiler."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


# ---- the tower


class Tower(nn.Module):
    """(B, 3, side, side) pixels -> hidden states of [CLS] and patches."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = Patches(config)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([TowerLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its weights."""
        return self.post_layernorm.weight.dtype

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        """`last_hidden_state`: (B, 1 + patches, width)."""
        hidden = self.embeddings(pixels)
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            hidden = layer(hidden)
        return SimpleNamespace(last_hidden_state=self.post_layernorm(hidden))


class Patches(nn.Module):
    """[CLS] and the patches of a picture, with their places."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        count = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + count, config.hidden_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1 + patches, width)."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(pixels), -1, -1), patches], dim=1) + self.position_embedding


class TowerLayer(nn.Module):
    """Attention and two linear layers, each behind a norm and beside a residual."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "projection": nn.Linear(width, width)})
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, S, width) -> the same."""
        asked = self.self_attn["qkv"](self.layer_norm1(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in asked.unbind(2))
        hidden = hidden + self.self_attn["projection"](attended(query, key, value))
        return hidden + self.mlp["fc2"](gelu(self.mlp["fc1"](self.layer_norm2(hidden))))  # type: ignore[no-any-return]


# ---- the Q-Former


class QFormer(nn.Module):
    """Queries and an instruction, which hear each other; in every `cross_attention_frequency`-th layer queries see."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": _table(config.vocab_size, width),
                "position_embeddings": _table(config.max_position_embeddings, width),
                "layernorm": nn.LayerNorm(width, eps=config.layer_norm_eps),
            }
        )
        self.encoder = nn.Module()
        numbers = range(config.num_hidden_layers)
        self.encoder.layer = nn.ModuleList([QFormerLayer(config, number) for number in numbers])

    def forward(
        self, *, query_embeds: Tensor, encoder_hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> SimpleNamespace:
        """`last_hidden_state`: (B, queries + L, width), the queries first.

        Args:
            query_embeds: (B, queries, width).
            encoder_hidden_states: (B, V, width of the tower).
            input_ids: (B, L) the instruction.
            attention_mask: (B, queries + L) 1 for what is there, 0 for padding.
        """
        parts: Any = self.embeddings
        text = parts["word_embeddings"](input_ids) + parts["position_embeddings"].weight[: input_ids.shape[1]]
        hidden = parts["layernorm"](torch.cat([query_embeds, text], dim=1))
        least = torch.finfo(hidden.dtype).min
        mask = torch.where(attention_mask.bool(), 0.0, least)[:, None, None].to(hidden.dtype)
        for layer in self.encoder.layer:  # type: ignore[union-attr]
            hidden = layer(hidden, encoder_hidden_states, mask, queries=query_embeds.shape[1])
        return SimpleNamespace(last_hidden_state=hidden)


class QFormerLayer(nn.Module):
    """Self-attention of all, cross-attention of the queries, and linear layers of their own for queries and text."""

    def __init__(self, config: Any, number: int) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.attention = QFormerAttention(config, seen=width)
        if number % config.cross_attention_frequency == 0:
            self.crossattention = QFormerAttention(config, seen=config.encoder_hidden_size)
        for suffix in ("", "_query"):
            self.add_module(f"intermediate{suffix}", nn.ModuleDict({"dense": nn.Linear(width, inner)}))
            self.add_module(f"output{suffix}", _normed_sum(inner, width, eps))

    def forward(self, hidden: Tensor, seen: Tensor, mask: Tensor, *, queries: int) -> Tensor:
        """(B, queries + L, width) -> the same."""
        heard = self.attention(hidden, hidden, mask)
        asking = heard[:, :queries]
        if hasattr(self, "crossattention"):
            asking = self.crossattention(asking, seen)
        return torch.cat([self._fed(asking, "_query"), self._fed(heard[:, queries:], "")], dim=1)

    def _fed(self, heard: Tensor, suffix: str) -> Tensor:
        first, second = (getattr(self, f"{part}{suffix}") for part in ("intermediate", "output"))
        return _added(second, gelu(first["dense"](heard)), heard)


class QFormerAttention(nn.Module):
    """What is heard of `seen`, added to what was there, behind a norm."""

    def __init__(self, config: Any, *, seen: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention = nn.ModuleDict(
            {"query": nn.Linear(width, width), "key": nn.Linear(seen, width), "value": nn.Linear(seen, width)}
        )
        self.output = _normed_sum(width, width, config.layer_norm_eps)

    def forward(self, hidden: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Q, width) of (B, S, width of what is seen)."""
        query, key, value = (
            self.attention[name](states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name, states in (("query", hidden), ("key", seen), ("value", seen))
        )
        return _added(self.output, attended(query, key, value, mask), hidden)


def _normed_sum(inner: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def _added(part: Any, inner: Tensor, hidden: Tensor) -> Tensor:
    return part["LayerNorm"](part["dense"](inner) + hidden)  # type: ignore[no-any-return]


# ---- the weights of the decoder, in the places where `llama.py` looks for them


class PlainLlamaWithHead(nn.Module):
    """A decoder and its head; `llama.greedy_tokens` answers with them."""

    def __init__(self, config: Any, generation: Config) -> None:
        super().__init__()
        self.config = config
        self.generation_config = SimpleNamespace(to_diff_dict=lambda: dict(generation))
        self.model = PlainLlama(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        """Token ids -> embeddings."""
        return self.model.embed_tokens


class PlainLlama(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = _table(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([PlainLlamaLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = PlainNorm(config)

    def rotary_emb(self, embeds: Tensor, *, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, width of a head) cosines and sines of positions (Su et al. 2021, arXiv 2104.09864)."""
        width, base = self.config.head_dim, self.config.rope_parameters["rope_theta"]
        slow = 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float) / width))
        angles = (position_ids[..., None].float() * slow).repeat(1, 1, 2)
        return angles.cos().to(embeds), angles.sin().to(embeds)


class PlainLlamaLayer(nn.Module):
    """Projections of attention, the gated linear layers and two norms."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn = PlainLlamaAttention(config)
        self.mlp = PlainGated(config)
        self.input_layernorm = PlainNorm(config)
        self.post_attention_layernorm = PlainNorm(config)


class PlainLlamaAttention(nn.Module):
    """The projections, and how they are cut into heads."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        heads, kept, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.num_key_value_groups, self.scaling = heads // kept, self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kept * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kept * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, config.hidden_size, bias=False)


class PlainGated(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(.., width) -> the same."""
        return self.down_proj(nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))  # type: ignore[no-any-return]


class PlainNorm(nn.Module):
    """The weight and the epsilon of an RMSNorm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.hidden_size))
        self.variance_epsilon: float = config.rms_norm_eps
