"""Bounds on the files of a model folder other than weights: what no real model needs is refused before it is used.

The libraries build what a configuration says: 10,000,000 layers one after another, a million labels as a dictionary, an
image of 10^6 x 10^6 pixels. The bounds are several times what the largest published models have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evertune.utils.errors import UserError
from evertune.utils.files import read_json
from evertune.utils.safetensors_header import read_header

MOST_BYTES = 64 << 20
"""Of one file; the tokenizer.json of Gemma-3 has 33 MB."""
MOST_BYTES_OF_TEXT = 4 << 20
"""Of a configuration or a chat template."""
MOST_ENTRIES = 4_096
"""Of a list in a configuration."""
MOST_UNITS = 65_536
"""Layers times experts; each may be a module of its own."""
LARGEST = 1 << 24
LONGEST_SIDE = 8_192
MOST_PIXELS = 1 << 25
MOST_GROWTH = 64
"""Times that a tokenizer's `Replace` steps together may lengthen a text."""
MOST_STEPS = 256
SPARE = 1 << 24
_LAYERS = re.compile(r"(?:^|_)(?:layers?|depths?|blocks|stages)(?:_|$)")
_EXPERTS = re.compile("experts")
_CONFIG = (
    (re.compile("coefficient"), 8),
    (_LAYERS, 1_024),
    (_EXPERTS, 1_024),
    (re.compile("rank|side|vision_width"), LONGEST_SIDE),
    (re.compile("labels|quer(?:y|ies)"), 1 << 17),
    (re.compile("theta|param|pixels|flops|seed|base"), math.inf),
    (
        re.compile(
            "size|dim|width|height|hidden|channel|head|position|ctx|patch|vocab|inner|inter|feature|kernel|latent|frame"
            "|codebook|window|seq|num_|^n_"
        ),
        LARGEST,
    ),
)
_EDGES = re.compile("longest_edge|shortest_edge|max_pixels|min_pixels")
_PROCESSOR = (
    (_EDGES, MOST_PIXELS),
    (re.compile("height|width|size|patch|tile|split|crop|frame|merge|pinpoint"), LONGEST_SIDE),
    (re.compile("seq|tokens|num_|max_|min_"), 1 << 16),
)
_VETTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|processor_config"
    r"|(\w+_)?preprocessor_config|chat_template)\.json|.*\.(jinja|txt|model)"
)


def refuse_unbounded(folder: Path) -> None:
    """Vet the files that the libraries read beside the weights, in the folder and in the folders of its parts.

    Raises:
        UserError: one is no regular file, too large, no sound JSON, nested too deeply, or has a number that is too
            large; the message names file and key.
    """
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in sorted(path for path in place.iterdir() if _VETTED.fullmatch(path.name) and not path.is_dir()):
            _refuse_file(path)


def refuse_config(path: Path) -> None:
    """`refuse_unbounded` of one `config.json`.

    Raises:
        UserError: as there.
    """
    _refuse_file(path)


def refuse_larger(folder: Path, kind: Any) -> None:
    """Raise when the model of a folder's configuration is larger than its weights: the rest would be made up.

    Args:
        folder: of the checkpoint.
        kind: the library's class that makes the model, such as `AutoModelForCausalLM`.

    Raises:
        UserError: it has more than twice the numbers that its weights hold.
    """
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False)
    wanted = sum(part.numel() for parts in (model.parameters(), model.buffers()) for part in parts)
    headers = [read_header(file) for file in folder.glob("*.safetensors")]
    held = sum(math.prod(tensor.shape) for header in headers for tensor in header.values())
    if wanted > 2 * held + SPARE:
        raise UserError(
            f"{folder / 'config.json'}: the model that it describes has {wanted:,} parameters, the weights beside it "
            f"have {held:,}: take both from one checkpoint"
        )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """What a library raises here, while it reads `what`, is a UserError; errors of our own and a full memory are not.

    Raises:
        UserError: "`what`: " and the first line of the library's message.
    """
    import torch

    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as problem:  # what a broken file raises is not a closed list
        raise UserError(f"{what}: {one_line(problem)}") from problem


def one_line(problem: BaseException) -> str:
    """The first line of an error of a library; its kind where it says nothing."""
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)


def _refuse_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is no regular file")
    most = MOST_BYTES if path.name.startswith(("tokenizer.", "vocab", "merges", "added_")) else MOST_BYTES_OF_TEXT
    most = MOST_BYTES if path.suffix in (".model", ".txt") else most
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path} has {size:,} bytes; at most {most:,} are read of a model's file of this kind")
    if path.suffix != ".json":
        return
    content = read_json(path)
    if path.name == "config.json":
        _refuse_numbers(content, path, _CONFIG)
        _refuse_units(content, path)
    elif path.name.endswith("processor_config.json"):
        _refuse_numbers(content, path, _PROCESSOR)
        _refuse_upscaling(content, path)
    elif path.name == "tokenizer.json":
        _refuse_growth(content, path)


def _values(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Lists and numbers of a JSON value with the keys that lead to each."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("label2id", "id2label"):  # its keys are words of a data set
                continue
            yield from _values(inner, (*keys, key))
    elif isinstance(value, list):
        yield keys, value
        for inner in value:
            yield from _values(inner, keys)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield keys, value


def _refuse_numbers(content: Any, path: Path, rules: tuple[tuple[re.Pattern[str], float], ...]) -> None:
    for keys, value in _values(content):
        if isinstance(value, list):
            found, most, unit = len(value), float(MOST_ENTRIES), " entries"
        else:
            limits = (most for pattern, most in rules if keys and pattern.search(keys[-1]))
            found, most, unit = value, next(limits, math.inf), ""
        if abs(found) > most:
            name = ".".join(keys)[:100]
            raise UserError(f"{path}: '{name}' is {found:,}{unit}; at most {most:,.0f} are taken from a model folder")


def _refuse_units(content: Any, path: Path) -> None:
    """Every layer may have every expert."""
    numbers = [(keys[-1], value) for keys, value in _values(content) if keys and not isinstance(value, list)]
    layers = max((value for name, value in numbers if _LAYERS.search(name)), default=1)
    experts = max((value for name, value in numbers if _EXPERTS.search(name)), default=1)
    if layers * experts > MOST_UNITS:
        raise UserError(f"{path}: {layers:,} layers of {experts:,} experts; at most {MOST_UNITS:,} of both together")


def _refuse_upscaling(content: Any, path: Path) -> None:
    """`shortest_edge` and `longest_edge` are pixels in all where patches are merged (Qwen), else a side."""
    named = {keys[-1] for keys, _ in _values(content) if keys}
    if "merge_size" in named or "min_pixels" in named:
        return
    for keys, value in _values(content):
        if keys and keys[-1].endswith("_edge") and not isinstance(value, list) and value > LONGEST_SIDE:
            raise UserError(
                f"{path}: '{'.'.join(keys)[:100]}' is {value:,}; images have at most {LONGEST_SIDE:,} a side"
            )


def _refuse_growth(content: Any, path: Path) -> None:
    """Steps that lengthen a text multiply: sixty of `a` -> `aa` are 2^60."""
    parts = content if isinstance(content, dict) else {}
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        growth, steps = 1.0, 0
        for step in _steps(parts.get(part)):
            steps += 1
            if step.get("type") == "Replace":
                growth *= _growth(step)
        if growth > MOST_GROWTH or steps > MOST_STEPS:
            raise UserError(
                f"{path}: its {part} has {steps:,} steps, which lengthen a text up to {growth:,.0f} times; "
                f"at most {MOST_STEPS} steps and {MOST_GROWTH} times are taken from a model"
            )
    padding = parts.get("padding")
    for keys, value in _values({"padding": padding, "truncation": parts.get("truncation")}):
        if not isinstance(value, list) and value > LARGEST:
            raise UserError(f"{path}: '{'.'.join(keys)[:100]}' is {value:,}; at most {LARGEST:,} is read")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Every step below a part of a tokenizer."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _steps(inner)


def _growth(step: dict[str, Any]) -> float:
    """How much longer a `Replace` makes a text; a regular expression may match where nothing is."""
    pattern, text = step.get("pattern"), step.get("content")
    added = len(text) if isinstance(text, str) else 1
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1.0, added / len(literal)) if isinstance(literal, str) and literal else 1.0 + added
