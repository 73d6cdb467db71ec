"""`model.quantization`: the linear layers of the frozen LM in 4 bits (NF4, as in QLoRA) or in 8 (LLM.int8()).

`transformers` loads them and bitsandbytes computes with them. Tower, connector, word embeddings and head stay in the
model's dtype, and what trains is float32. Whatever reads or changes such a weight itself is refused here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from evertune.utils.errors import UserError, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("none", "4bit", "8bit")
BLOCK, BLOCKS = 64, 256
"""NF4: weights that share a scale of 8 bits, and scales that share one of 32 (double quantization)."""


def quantization_of(options: Mapping[str, Any]) -> str:
    """The kind of quantization among the options of a model.

    Raises:
        UserError: there is no such kind, or the other options would train or change quantized weights.
    """
    kind = str(options.get("quantization", "none"))
    if kind not in KINDS:
        raise unknown("model.quantization", kind, KINDS)
    if kind == "none":
        return kind
    parts = {part.strip() for part in str(options.get("scope", "")).split("+")}
    for part in sorted(parts & {"full", "dora"}):
        why = "trains the quantized weights" if part == "full" else "needs the norms of exact weights"
        raise UserError(
            f"model.quantization={kind}: model.scope={part} {why}; take model.scope=lora or projection, or leave "
            "model.quantization out"
        )
    if options.get("adapter") and options.get("adapter_mode") == "merge":
        raise UserError(
            f"model.quantization={kind}: an adapter can't be merged into quantized weights; take "
            "model.adapter_mode=continue or stack, or merge it first with peft (merge_and_unload) and give that folder"
        )
    return kind


def refuse_missing(kind: str) -> None:
    """Stop when the package that computes with quantized weights is not installed.

    Raises:
        UserError: it is not.
    """
    if kind != "none" and find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantization={kind} needs bitsandbytes: pip install 'evertune[quantization]'")


def refuse_for_loaded(options: Mapping[str, Any]) -> None:
    """Stop when a model that is loaded already is to be quantized.

    Raises:
        UserError: it is.
    """
    if (kind := quantization_of(options)) != "none":
        raise UserError(
            f"quantization={kind}: wrap takes a model as it is; evertune.load_lmm(FOLDER, "
            f"options={{'quantization': '{kind}'}}) loads it quantized"
        )


def loading_arguments(config: Any, kind: str, *, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` takes in addition, to quantize the LM while its weights are read; nothing for 'none'.

    Args:
        config: of the model.
        kind: one of `KINDS`.
        dtype: what the layers compute in.
        device: where the model is put.
    """
    if kind == "none":
        return {}
    import torch
    from torch import nn
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    _import_without_kernels()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager", trust_remote_code=False)
    chosen = layers_of_lm(model)
    exact = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in chosen]
    if kind == "4bit":
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=exact,
        )
    else:
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=exact)
    return {"quantization_config": how, "device_map": {"": device}}


def _import_without_kernels() -> None:
    """Import bitsandbytes: on some CPUs it would fetch code from the hub if the package `kernels` is installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    before = sys.modules.get("kernels")
    sys.modules["kernels"] = cast(Any, None)  # importing it raises ImportError, which bitsandbytes expects
    try:
        import bitsandbytes  # noqa: F401
    finally:
        del sys.modules["kernels"]
        if before is not None:
            sys.modules["kernels"] = before


def finish(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew on a CPU, when the first answers are generated.

    What it packs is rounded again, so numbers would depend on whether a model had answered before it was trained.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def layers_of_lm(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the LM that are quantized, by name: all but the head."""
    from torch import nn

    from evertune.models.connectors import KINDS as FAMILIES

    unquantized = cast(Any, model)
    family = FAMILIES.get(unquantized.config.model_type)
    language = f"model.{family.language}." if family else "language_model."
    head = unquantized.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(language) and isinstance(module, nn.Linear) and module is not head and ".lora_" not in name
    }


def is_quantized(layer: nn.Module) -> bool:
    """Whether a module is a linear layer with a quantized weight."""
    from torch import nn

    return isinstance(layer, nn.Linear) and not layer.weight.is_floating_point()


def refuse_quantized(module: nn.Module, what: str) -> None:
    """Stop when a layer of `module`, or `module` itself, is quantized.

    Raises:
        UserError: it is; `what` needs exact weights.
    """
    if any(is_quantized(layer) for layer in module.modules()):
        raise UserError(f"{what} needs exact weights, and the model is quantized: leave out model.quantization")


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module; of quantized weights the numbers that they stand for."""
    packed = {id(layer.weight): layer for layer in module.modules() if is_quantized(layer)}
    return sum(
        layer.in_features * layer.out_features if (layer := cast(Any, packed.get(id(p)))) else p.numel()
        for p in module.parameters()
    )


class Held(NamedTuple):
    """Quantized weights: how many, and the bytes that they take with their scales."""

    parameters: int = 0
    bytes: int = 0


NOTHING = Held()


def planned(model: nn.Module, kind: str) -> Held:
    """What would be quantized of a model on the meta device."""
    if kind == "none":
        return NOTHING
    weights = [layer.weight for layer in layers_of_lm(model).values()]
    numbers = sum(weight.numel() for weight in weights)
    if kind == "4bit":
        return Held(numbers, numbers // 2 + numbers // BLOCK + 4 * numbers // (BLOCK * BLOCKS))
    return Held(numbers, numbers + 4 * sum(len(weight) for weight in weights))
