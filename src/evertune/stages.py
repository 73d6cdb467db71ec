"""Stages on disk: what a model knew after each task, whole or absent, checked when read.

    stages/02-numbers/trainable.safetensors   the trained weights
                      method.safetensors      the methods' state, without what an earlier stage holds already
                      training.jsonl          loss by step
                      done.json               checksums of the three and of itself; written last

A tensor of the methods' state that the stage before had too, bit for bit, is written once: later stages name the stage
that holds it. So an expansion adds one expert per stage to the folder, not all of them again. Weights are safetensors
only; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evertune.errors import RunFolderError
from evertune.files import digest_of, digest_of_file, make_folder, read_json, write_atomically, write_json
from evertune.lmm.weights import fingerprint_of

FILES = ("trainable.safetensors", "method.safetensors")
LOG, DONE, SEAL = "training.jsonl", "done.json", "seal"
PLACES = "$places"  # beside the methods' names in the state; no method can be called so


@dataclass(frozen=True, slots=True)
class Stage:
    """One finished stage.

    Attributes:
        samples: training samples per epoch, those that a method added included.
        seconds: training time; with `reused`, of the run whose identical training was taken over.
        stored_bytes: what the methods' state takes; on disk this counts for all stages up to this one together, as
            far as earlier tensors did not change.
        data: `data_digest` of the task; empty in folders of earlier versions.
    """

    number: int
    task: str
    samples: int
    steps: int
    seconds: float
    reused: bool
    stored_bytes: int
    trained_parameters: int
    data: str = ""


def stage_folder(run: Path, number: int, task: str) -> Path:
    """`stages/02-numbers` of a run folder."""
    return run / "stages" / f"{number:02d}-{task}"


def save_stage(
    run: Path, stage: Stage, *, trainable: Mapping[str, Tensor], state: Mapping[str, Any], log: Sequence[dict[str, Any]]
) -> None:
    """Write a stage; it exists from the moment `done.json` does."""
    folder = make_folder(stage_folder(run, stage.number, stage.task))
    tensors, values = split_state(state)
    places = _places(run, stage, tensors)
    own = {name: tensor for name, tensor in tensors.items() if places[name]["stage"] == folder.name}
    # One entry only: safetensors writes several in random order, and equal stages must be equal files.
    metadata = {"state": json.dumps({**values, PLACES: places})}
    contents = {
        FILES[0]: save(_whole(trainable)),
        FILES[1]: save(own, metadata=metadata),
        LOG: "".join(json.dumps(row) + "\n" for row in log).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    # Of what was meant, not of what the disk made of it.
    facts = {**asdict(stage), "sha256": {name: sha256(content).hexdigest() for name, content in contents.items()}}
    write_json(folder / DONE, {**facts, SEAL: digest_of(facts)})


def _places(run: Path, stage: Stage, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """The stage that holds each tensor, and its hash: an earlier one where the stage before had the very same."""
    before: dict[str, dict[str, str]] = {}
    for earlier in saved_stages(run, upto=stage.number - 1):
        if earlier.number == stage.number - 1:
            path = stage_folder(run, earlier.number, earlier.task) / FILES[1]
            before = json.loads(read_tensors(path, only=())[1]["state"]).get(PLACES, {})
    here = stage_folder(run, stage.number, stage.task).name
    places = {name: {"stage": here, "sha256": fingerprint_of({name: t})} for name, t in tensors.items()}
    known = {name for name, place in places.items() if before.get(name, {}).get("sha256") == place["sha256"]}
    return {name: before[name] if name in known else place for name, place in places.items()}


def stage_folders(run: Path) -> list[Path]:
    """The folders of all stages, finished or not, in order."""
    return sorted((place for place in (run / "stages").glob("*-*") if place.is_dir()), key=number_of)


def number_of(folder: Path) -> int:
    """2 of `stages/02-numbers`.

    Raises:
        RunFolderError: it is no stage's folder.
    """
    number = folder.name.partition("-")[0]
    if not number.isdigit():
        raise RunFolderError(f"{folder} is no stage's folder: take it out of {folder.parent}")
    return int(number)


def saved_stages(run: Path, *, upto: int | None = None) -> list[Stage]:
    """The finished stages of a run, in order, or the first `upto` of them.

    Raises:
        RunFolderError: one is damaged, or missing though a later one is there.
    """
    folders = [place for place in stage_folders(run) if (place / DONE).exists()]
    stages = [read_stage(place) for place in folders[:upto]]
    for number, stage in enumerate(stages, start=1):
        if stage.number != number:
            raise RunFolderError(
                f"{run}: stage {number} is missing, though stage {stage.number} is there. "
                f"See evertune doctor {run} --repair"
            )
    return stages


def read_stage(folder: Path) -> Stage:
    """The facts about a finished stage."""
    content = sealed(folder / DONE)
    content.pop("sha256", None)
    try:
        return Stage(**content)
    except TypeError as problem:
        raise _broken(folder / DONE, f"is damaged: {problem}") from problem


def sealed(path: Path) -> dict[str, Any]:
    """The content of a `done.json` whose own checksum is right; those of earlier versions have none.

    Raises:
        RunFolderError: it was changed, or is damaged.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise _broken(path, "is damaged")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != digest_of(content):
        raise _broken(path, "was changed: its checksum is not the one written down")
    return content


def load_stage(run: Path, stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trained weights and methods' state after `stage`.

    Raises:
        RunFolderError: a file is missing, truncated or changed; the message names it.
    """
    folder = stage_folder(run, stage.number, stage.task)
    for file in FILES:
        verify(folder, file)
    trainable, _ = read_tensors(folder / FILES[0])
    tensors, metadata = read_tensors(folder / FILES[1])
    values = json.loads(metadata["state"])
    tensors |= _from_earlier(folder, values.pop(PLACES, {}))
    return trainable, join_state(tensors, values)


def verify(folder: Path, file: str) -> None:
    """Compare a file of a stage with its checksum.

    Raises:
        RunFolderError: it is missing, truncated or changed.
    """
    path = folder / file
    if not path.exists() or not (folder / DONE).exists():
        raise _broken(path, "is missing")
    if digest_of_file(path) != sealed(folder / DONE)["sha256"].get(file):
        raise _broken(path, "is truncated or was changed: its checksum is not the one written down")


def _from_earlier(folder: Path, places: Mapping[str, Mapping[str, str]]) -> dict[str, Tensor]:
    """The tensors that earlier stages hold for the one in `folder`; each must be the one that was meant."""
    found: dict[str, Tensor] = {}
    for holder in sorted({place["stage"] for place in places.values()} - {folder.name}):
        names = [name for name, place in places.items() if place["stage"] == holder]
        verify(folder.parent / holder, FILES[1])
        path = folder.parent / holder / FILES[1]
        found |= read_tensors(path, only=names)[0]
        if any(fingerprint_of({name: found[name]}) != places[name]["sha256"] for name in names):
            raise _broken(folder / FILES[1], f"needs weights of {path} that are no longer there")
    return found


def _broken(path: Path, what: str) -> RunFolderError:
    return RunFolderError(
        f"{path} {what}. Run evertune doctor {path.parent.parent.parent} --repair, or delete {path.parent} (and any "
        "later stage) and run the same command again: earlier stages are still valid"
    )


def read_tensors(path: Path, *, only: Sequence[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (all, or `only` those of these names) and metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as content:
            names = content.keys() if only is None else only
            return {name: content.get_tensor(name) for name in names}, content.metadata() or {}
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
