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
MOST_WEIGHTS = 4
"""Times that the weights may hold a model: some folders hold them in two dtypes or layouts."""
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
_DECIDING = (".json", ".jinja", ".txt", ".model", ".safetensors")
_PART = re.compile(r"lm|additional_chat_templates|\w*(tokenizer|processor)|feature_extractor")
"""Folders in the folder that are read."""
_PARSED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|processor_config"
    r"|(\w+_)?preprocessor_config|chat_template)\.json"
)
_TOKENS = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Their keys are tokens, which may hold anything."""
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")
_LEADS_ELSEWHERE = re.compile("quantization_config|compression_config|transformers_weights|audio_tokenizer")
"""Keys for which the libraries import other packages, or load other files, repositories or kernels."""
_NAMES_CODE = re.compile("implementation(_internal)?$|^architecture$|^backbone$")
"""Keys whose value is a name that the library has; with a slash it is a repository of kernels or of timm."""


def deciding_files(folder: Path) -> list[Path]:
    """The files that decide what a checkpoint predicts, of the folder and of its parts; they are vetted."""
    places = (folder, *sorted(path for path in folder.iterdir() if _PART.fullmatch(path.name) and path.is_dir()))
    return [
        path for place in places for path in sorted(place.iterdir()) if path.suffix in _DECIDING and not path.is_dir()
    ]


def refuse_unbounded(folder: Path) -> None:
    """Vet the files that the libraries read beside the weights, in the folder and in the folders of its parts.

    Raises:
        UserError: one is no regular file, too large, no sound JSON, nested too deeply, or has a number that is too
            large; the message names file and key.
    """
    if (folder / "audio_tokenizer_config.json").exists():
        raise UserError(f"{folder} holds audio_tokenizer_config.json, which names another model: remove it")
    for path in deciding_files(folder):
        if path.suffix == ".safetensors":
            read_header(path)
        else:
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
        UserError: it has more than twice the numbers that its weights hold, or they hold far more than it has.
    """
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = kind.from_config(config, attn_implementation="eager", trust_remote_code=False)
    wanted = sum(part.numel() for parts in (model.parameters(), model.buffers()) for part in parts)
    files = [path for path in deciding_files(folder) if path.suffix == ".safetensors"]
    sizes = {path: sum(math.prod(tensor.shape) for tensor in read_header(path).values()) for path in files}
    held = sum(size for path, size in sizes.items() if path.parent == folder)
    if wanted > 2 * held + SPARE:
        raise UserError(
            f"{folder / 'config.json'}: the model that it describes has {wanted:,} parameters, the weights beside it "
            f"have {held:,}: take both from one checkpoint"
        )
    if sum(sizes.values()) > MOST_WEIGHTS * wanted + SPARE:
        raise UserError(
            f"{folder}: its weights (*.safetensors) have {sum(sizes.values()):,} numbers, the model of its config.json "
            f"{wanted:,}: remove those that it does not use"
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
    small = _PARSED.fullmatch(path.name) or path.suffix == ".jinja"
    most = most if small else MOST_BYTES  # what is only hashed may be the log of a training
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path} has {size:,} bytes; at most {most:,} are read of a model's file of this kind")
    if not _PARSED.fullmatch(path.name):
        return
    content = read_json(path)
    if path.name not in _TOKENS:
        _refuse_keys(content, path)
    elif path.name == "tokenizer.json" and isinstance(content, dict):
        _refuse_keys(content.get("added_tokens"), path)
    if path.name == "config.json":
        _refuse_numbers(content, path, _CONFIG)
        _refuse_units(content, path)
    elif path.name.endswith("processor_config.json"):
        _refuse_numbers(content, path, _PROCESSOR)
        _refuse_upscaling(content, path)
    elif path.name == "tokenizer.json":
        _refuse_growth(content, path)


def _refuse_keys(content: Any, path: Path, *, names_code: bool = False) -> None:
    """Keys that lead the libraries elsewhere, or that steer a terminal: tokenizers prints unknown ones as they are."""
    if isinstance(content, list):
        for inner in content:
            _refuse_keys(inner, path, names_code=names_code)
    elif isinstance(content, str) and names_code and "/" in content:
        raise UserError(f"{path} names code outside of the library ({content[:60]!r}): remove it")
    elif isinstance(content, dict):
        for key, inner in content.items():
            if _CONTROL.search(key):
                raise UserError(f"{path}: the key {key[:60]!r} has control characters")
            if _LEADS_ELSEWHERE.fullmatch(key) and inner:
                raise UserError(f"{path}: '{key}' is not supported: it names other code or files")
            _refuse_keys(inner, path, names_code=names_code or bool(_NAMES_CODE.search(key)))


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
