"""The file format of states: nested dicts as tensors by path and JSON, and tensors that stay on disk until used.

Tensors of an earlier stage (`LazyTensors`) are neither read to load a later stage nor to be referred to by the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evertune.models.weights import bytes_of, fingerprint_of
from evertune.utils.errors import RunFolderError, UserError, kind_of
from evertune.utils.files import digest_of
from evertune.utils.safetensors_header import BITS, read_header

TENSOR = "$tensor"

Place = Mapping[str, str]
"""The location of a tensor: `stage`, the name of its folder; `sha256`, its hash."""


class LazyTensors(Mapping[str, Tensor]):
    """Tensors of an earlier stage that a later one refers to: read and verified on first access.

    So the experts of a thousand tasks stay on disk until a question is routed to them.

    Args:
        file: of the later stage; the earlier one's has the same name.
        names: name of each tensor here -> name in the file.
        places: of at least these tensors, all in one stage.
    """

    def __init__(self, file: Path, names: Mapping[str, str], places: Mapping[str, Place]) -> None:
        self._file, self._names = file, dict(names)
        self.places = {name: places[name] for name in self._names.values()}
        self.path = place_of(file, next(iter(self.places.values())))
        self._tensors: dict[str, Tensor] | None = None

    @property
    def was_read(self) -> bool:
        """Whether they were read and so may have been changed."""
        return self._tensors is not None

    def __getitem__(self, key: str) -> Tensor:
        """The tensor.

        Raises:
            RunFolderError: the earlier stage is missing, damaged or was replaced.
        """
        if self._tensors is None:
            found, _ = read_tensors(self.path, only=list(self.places))
            if any(fingerprint_of({name: found[name]}) != place["sha256"] for name, place in self.places.items()):
                raise damaged(self._file, f"needs weights of {self.path} that are no longer there")
            self._tensors = {key: found[name] for key, name in self._names.items()}
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def nbytes(self) -> int:
        """Their size, from the file's header."""
        with _opened(self.path) as content:
            parts = [content.get_slice(name) for name in self.places]
            return sum(prod(part.get_shape()) * BITS[part.get_dtype()] // 8 for part in parts)


@dataclass(frozen=True)
class StateParts:
    """A state in parts.

    Attributes:
        values: nested dicts with `{"$tensor": name}` in place of every tensor; all else must be JSON.
        tensors: by name, as they are.
        held: tensors of earlier stages that have not been read.
    """

    values: Any
    tensors: dict[str, Tensor]
    held: tuple[LazyTensors, ...]

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        return bytes_of(self.tensors) + sum(group.nbytes() for group in self.held)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all tensors and values, whether they have been read or not."""
        prints = {name: fingerprint_of({name: tensor}) for name, tensor in self.tensors.items()}
        return digest_of([prints | {n: place["sha256"] for n, place in self.places.items()}, self.values])

    @property
    def places(self) -> dict[str, Place]:
        """Of what is held."""
        return {name: place for group in self.held for name, place in group.places.items()}


def split_state(state: Mapping[str, Any]) -> StateParts:
    """Nested dicts as tensors by path, and everything else."""
    tensors: dict[str, Tensor] = {}
    held: list[LazyTensors] = []

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if path in tensors:
                raise _wrong(path, "two tensors of this place: no name may contain a '/'")
            if value.layout is not torch.strided:
                raise _wrong(path, "a sparse tensor", "tensor.to_dense(), or its indices() and values()")
            tensors[path] = value
            return {TENSOR: path}
        if not isinstance(value, Mapping):
            _refuse_odd(value, path)
            return value
        _refuse_odd_keys(value, path)
        inside = {key: f"{path}/{key}" if path else str(key) for key in value}
        if isinstance(value, LazyTensors) and not value.was_read and set(inside.values()) == set(value.places):
            held.append(value)
            return {key: {TENSOR: name} for key, name in inside.items()}
        return {key: walk(value[key], name) for key, name in inside.items()}

    values = walk(state, "")
    return StateParts(values, tensors, tuple(held))


def _refuse_odd(value: Any, path: str) -> None:
    """Raise at what JSON can't hold, or would give back as something else; a tensor in a list has no name in a file."""
    if isinstance(value, list | tuple):
        if any(isinstance(each, Tensor) for each in value):
            raise _wrong(path, "a list of tensors", "a dictionary with texts as keys, or one tensor (torch.stack)")
        for each in value:
            _refuse_odd(each, path)
    elif isinstance(value, Mapping):
        _refuse_odd_keys(value, path)
        for each in value.values():
            _refuse_odd([each] if isinstance(each, Tensor) else each, path)
    elif value is not None and not isinstance(value, bool | int | float | str):
        remedy = (
            "torch.as_tensor(...)" if hasattr(value, "dtype") else "tensors, numbers, texts, lists and dictionaries"
        )
        raise _wrong(path, kind_of(value), remedy)


def _refuse_odd_keys(value: Mapping[Any, Any], path: str) -> None:
    if odd := next((key for key in value if not isinstance(key, str)), None):
        raise _wrong(path, f"a dictionary with the key {odd!r:.40}, which is read back as a text", "texts as keys")


def _wrong(path: str, what: str, remedy: str = "") -> UserError:
    method, _, name = path.partition("/")
    use = f": use {remedy}" if remedy else ""
    return UserError(f"the method '{method}' has {what} in its state ('{name}'){use}")


def join_state(
    tensors: Mapping[str, Tensor], values: Any, *, places: Mapping[str, Place] | None = None, file: Path = Path()
) -> Any:
    """The reverse of `split_state`.

    Args:
        tensors: by name.
        values: see `StateParts`.
        places: of tensors in earlier stages; if one stage has all tensors of a dict, they become `LazyTensors`.
        file: that names those places.
    """
    if not isinstance(values, dict):
        return values
    if set(values) == {TENSOR}:
        name = values[TENSOR]
        return tensors[name] if name in tensors else LazyTensors(file, {name: name}, places or {})[name]
    names: dict[str, str] = {
        key: inner.get(TENSOR, "") if isinstance(inner, dict) else "" for key, inner in values.items()
    }
    stages = {(places or {}).get(name, {}).get("stage", "") for name in names.values()}
    if len(stages) == 1 and "" not in stages:
        return LazyTensors(file, names, places or {})
    return {key: join_state(tensors, value, places=places, file=file) for key, value in values.items()}


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, as safetensors wants them."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def place_of(file: Path, place: Place) -> Path:
    """The file of the earlier stage that `file` refers to."""
    return file.parent.parent / place["stage"] / file.name


def read_tensors(path: Path, *, only: Sequence[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (all, or `only` those of these names) and metadata of a safetensors file.

    Raises:
        RunFolderError: it is missing, its header is not sound, or it has no such tensor; the message names both.
    """
    with _opened(path) as content:
        names = content.keys() if only is None else only
        return {name: content.get_tensor(name) for name in names}, content.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        read_header(path)
        with safe_open(path, framework="pt") as content:
            yield content
    except (SafetensorError, OSError, UserError) as problem:
        raise damaged(path, f"can't be read ({problem})") from problem


def damaged(path: Path, what: str) -> RunFolderError:
    """The error about a file of a stage, with advice."""
    return RunFolderError(
        f"{path} {what}. Run evertune doctor {path.parent.parent.parent} --repair, or delete {path.parent} (and any "
        "later stage) and run the same command again: earlier stages are still valid"
    )
