"""The dtype of a run: what the user says, or for `auto` the faster one, measured once per machine and kept.

First one matrix product is measured. Where it is clearly faster in bfloat16, a training step and a batch of answers are
measured with a decoder of two layers, because a product says little about a run: on a machine with AMX a step was 1.5
times as fast in bfloat16, and answers took 1.6 to 1.9 times as long. The choice is kept in the cache, so that it does
not change from one start to the next.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from evertune.utils.device import is_deterministic, processor, seconds_per_product
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import cache_folder, digest_of, note_damage, read_object, write_json

AUTO = "EVERTUNE_AUTO_DTYPE"
"""Environment variable: the dtype that 'auto' takes instead of measuring, so that machines agree on one."""
CLEARLY_FASTER, FASTER = 1.5, 1.2
"""How many times as fast bfloat16 must be to be taken: in a product, then in a step and an answer on average."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Seconds = Mapping[str, Mapping[str, float]]
"""By what was measured (`product`, `step`, `answer`) the seconds in each dtype."""
DECODER = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 9, "num_key_value_heads": 3}
SAMPLES, QUESTIONS, TOKENS, ANSWER, ROUNDS = 4, 32, 96, 8, 3


def pick_dtype(wanted: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype called `wanted`; for 'auto' what `AUTO` says, else the choice of this machine.

    Raises:
        UserError: it is none of auto, float32 and bfloat16.
    """
    wanted = str(wanted).removeprefix("torch.")
    if wanted == "auto" and is_deterministic():
        return torch.float32  # a measurement would decide the bits
    if wanted == "auto":
        wanted = os.environ.get(AUTO, "auto")
    if wanted == "auto":
        wanted = faster_dtype(measured_on(device))
    if wanted not in DTYPES:
        raise UserError(f"dtype must be auto, float32 or bfloat16, not '{wanted}'")
    return DTYPES[wanted]


def faster_dtype(seconds: Seconds) -> str:
    """The choice of 'auto' for measured times; a run spends about as long on steps as on answers."""
    if not _is_clear(seconds["product"]):
        return "float32"
    shares = [seconds[what]["bfloat16"] / seconds[what]["float32"] for what in ("step", "answer")]
    return "bfloat16" if sum(shares) / len(shares) < 1 / FASTER else "float32"


def _is_clear(product: Mapping[str, float]) -> bool:
    return product["float32"] > CLEARLY_FASTER * product["bfloat16"]


def measured_on(device: torch.device) -> Seconds:
    """What this machine takes, from the cache, else measured now and kept there."""
    if (kept := _kept(device)) is not None:
        return kept
    seconds: Seconds = {"product": _product(device)}
    if _is_clear(seconds["product"]):
        seconds = {**seconds, **seconds_of_run(device)}
    with suppress(UserError, OSError):  # a cache that can't be written: measured again next time
        write_json(_file(device), {"machine": _machine(device), "dtype": faster_dtype(seconds), "seconds": seconds})
    return seconds


def _product(device: torch.device) -> dict[str, float]:
    return {str(dtype).removeprefix("torch."): taken for dtype, taken in seconds_per_product(device.type).items()}


def _kept(device: torch.device) -> Seconds | None:
    """What an earlier start has measured; None where there is nothing, or something else."""
    path = _file(device)
    if not path.exists():
        return None
    try:
        seconds: Seconds = read_object(path)["seconds"]
        faster_dtype(seconds)
    except (RunFolderError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        note_damage(path)
        return None
    return seconds


def _file(device: torch.device) -> Path:
    return cache_folder() / "dtype" / f"{digest_of(_machine(device))[:16]}.json"


def _machine(device: torch.device) -> dict[str, str]:
    """What decides the speed. The number of threads is left out: one machine has one choice."""
    from transformers import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": device.type, "name": name, "torch": torch.__version__, "transformers": __version__}


def seconds_of_run(device: torch.device, *, shape: Mapping[str, int] | None = None) -> Seconds:
    """Seconds of a training step and of a batch of answers in each dtype, the best of `ROUNDS` in turn.

    Args:
        device: where.
        shape: of the decoder, as `LlamaConfig` takes it; default: two layers of the LM of `smol`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = LlamaForCausalLM(LlamaConfig(**(shape or {**DECODER, **HEADS}), tie_word_embeddings=True)).eval()
    decoders = {name: copy.deepcopy(whole).requires_grad_(False).to(device, dtype) for name, dtype in DTYPES.items()}
    seconds: dict[str, dict[str, float]] = {"step": {}, "answer": {}}
    for _ in range(ROUNDS):
        for name, decoder in decoders.items():
            for what, action in (("step", _step), ("answer", _answer)):
                taken = _timed(action, decoder)
                seconds[what][name] = min(taken, seconds[what].get(name, taken))
    return seconds


def _timed(action: Callable[[Any], None], decoder: Any) -> float:
    start = time.perf_counter()
    action(decoder)
    if decoder.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _inputs(decoder: Any, rows: int) -> torch.Tensor:
    width = decoder.config.hidden_size
    return torch.ones(rows, TOKENS, width, dtype=decoder.dtype, device=decoder.device)


def _step(decoder: Any) -> None:
    """Forward and backward through frozen weights, as far as the visual tokens."""
    embeds = _inputs(decoder, SAMPLES).requires_grad_()
    hidden = decoder.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    decoder.lm_head(hidden[:, -ANSWER:]).float().logsumexp(-1).sum().backward()


@torch.inference_mode()
def _answer(decoder: Any) -> None:
    """Greedy answers to a batch of questions."""
    embeds = _inputs(decoder, QUESTIONS)
    attention = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    length = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER}
    decoder.generate(inputs_embeds=embeds, attention_mask=attention, do_sample=False, pad_token_id=0, **length)
