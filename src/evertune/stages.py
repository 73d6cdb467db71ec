"""Stages on disk: what a model knew after each task, whole or absent, checked when read.

    stages/02-numbers/trainable.safetensors   the trained weights
                      method.safetensors      the methods' state
                      training.jsonl          loss by step
                      done.json               checksums; written last

Weights are safetensors only; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evertune.errors import RunFolderError
from evertune.files import digest_of_file, make_folder, read_json, write_atomically, write_json, write_jsonl

FILES = ("trainable.safetensors", "method.safetensors")


@dataclass(frozen=True, slots=True)
class Stage:
    """One finished stage.

    Attributes:
        samples: training samples per epoch, those that a method added included.
        seconds: training time; with `reused`, of the run whose identical training was taken over.
        stored_bytes: what the methods' state takes on disk.
    """

    number: int
    task: str
    samples: int
    steps: int
    seconds: float
    reused: bool
    stored_bytes: int
    trained_parameters: int


def stage_folder(run: Path, number: int, task: str) -> Path:
    """`stages/02-numbers` of a run folder."""
    return run / "stages" / f"{number:02d}-{task}"


def save_stage(
    run: Path, stage: Stage, *, trainable: Mapping[str, Tensor], state: Mapping[str, Any], log: Sequence[dict[str, Any]]
) -> None:
    """Write a stage; it exists from the moment `done.json` does."""
    folder = make_folder(stage_folder(run, stage.number, stage.task))
    write_atomically(folder / FILES[0], save(_whole(trainable)))
    tensors, values = split_state(state)
    write_atomically(folder / FILES[1], save(tensors, metadata={"state": json.dumps(values)}))
    write_jsonl(folder / "training.jsonl", log)
    write_json(folder / "done.json", {**asdict(stage), "sha256": {f: digest_of_file(folder / f) for f in FILES}})


def saved_stages(run: Path) -> list[Stage]:
    """The finished stages of a run, in order."""
    return [read_stage(path.parent) for path in sorted((run / "stages").glob("*/done.json"))]


def read_stage(folder: Path) -> Stage:
    """The facts about a finished stage."""
    content = read_json(folder / "done.json")
    content.pop("sha256", None)
    return Stage(**content)


def load_stage(run: Path, stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trained weights and methods' state after `stage`.

    Raises:
        RunFolderError: a file is missing, truncated or changed; the message names it.
    """
    folder = stage_folder(run, stage.number, stage.task)
    wanted = read_json(folder / "done.json")["sha256"]
    for file in FILES:
        path = folder / file
        if not path.exists():
            raise _broken(path, "is missing")
        if digest_of_file(path) != wanted[file]:
            raise _broken(path, "is truncated or was changed: its checksum is not the one written down")
    trainable, _ = read_tensors(folder / FILES[0])
    tensors, metadata = read_tensors(folder / FILES[1])
    return trainable, join_state(tensors, json.loads(metadata["state"]))


def _broken(path: Path, what: str) -> RunFolderError:
    return RunFolderError(
        f"{path} {what}. Delete {path.parent} (and any later stage) and run the same command again: "
        "earlier stages are still valid"
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as content:
            return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise _broken(path, f"can't be read ({problem})") from problem


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split nested dicts into tensors by path and everything else, which must be JSON."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"$tensor": path}
        if isinstance(value, Mapping):
            return {key: walk(inner, f"{path}/{key}" if path else str(key)) for key, inner in value.items()}
        return value

    values = walk(state, "")
    return _whole(tensors), values


def join_state(tensors: Mapping[str, Tensor], values: Any) -> Any:
    """The reverse of `split_state`."""
    if isinstance(values, dict):
        if set(values) == {"$tensor"}:
            return tensors[values["$tensor"]]
        return {key: join_state(tensors, inner) for key, inner in values.items()}
    return values


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
