"""Stages on disk: the checkpoints after each task, written atomically and verified when read.

    stages/02-numbers/trainable.safetensors   the trained weights that are in no other file
                      method.safetensors      the methods' state, without tensors of earlier stages
                      training.jsonl          loss by step
                      done.json               checksums of the three and of itself, the run, the stage before; last

Bit-identical tensors of the methods' state are written once: later stages refer to the stage with the tensor. A weight
that equals the start point, or is in the methods' state, is also a reference. So an expansion adds one expert per stage
to the folder. Loading a stage reads only its own files: tensors of earlier stages (`LazyTensors`) are read on first
use. Weights are safetensors only; nothing is ever unpickled.

A stage belongs to one run and follows one stage: `done.json` has digests of the run's origin (`origin_of`) and of the
previous stage (`link_of`), which are verified whenever stages are read. They are computed from checksums only and do
not depend on time or paths: a stage that is retrained bit-identically fits in its old place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors.torch import save
from torch import Tensor

from evertune.models.weights import fingerprint_of
from evertune.training.run_origin import origin_of
from evertune.training.states import TENSOR, Place, damaged, join_state, place_of, read_tensors, split_state, whole
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import (
    digest_of,
    digest_of_file,
    make_folder,
    read_object,
    read_text,
    write_atomically,
    write_json,
)
from evertune.utils.parsing import json_value, written_lines
from evertune.utils.safe_names import is_name

FILES = ("trainable.safetensors", "method.safetensors")
LOG, DONE, SEAL = "training.jsonl", "done.json", "seal"
THINNED = "thinned.json"
"""A note in a stage whose weights were deleted on purpose (`thinning`)."""
SUMS, RUN, AFTER = "sha256", "run", "after"
"""Keys of `done.json`: checksums of the files, origin of the run, `link_of` the previous stage."""
ELSEWHERE, STATE, BASE = "elsewhere", "state", "base"
PLACES = "$places"  # beside the methods' names in the state; not a valid name of a method


@dataclass(frozen=True, slots=True)
class Stage:
    """One finished stage.

    Attributes:
        samples: training samples per epoch, those that a method added included.
        seconds: training time; with `reused`, of the run whose identical training was reused.
        stored_bytes: size of the methods' state; on disk all stages up to this one share it, as far as earlier tensors
            did not change.
        data: `data_digest` of the task.
    """

    number: int
    task: str
    samples: int
    steps: int
    seconds: float
    reused: bool
    stored_bytes: int
    trained_parameters: int
    data: str


def stage_folder(run: Path, number: int, task: str) -> Path:
    """`stages/02-numbers` of a run folder."""
    return run / "stages" / f"{number:02d}-{task}"


def save_stage(
    run: Path,
    stage: Stage,
    *,
    trainable: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    state: Mapping[str, Any],
    log: Sequence[dict[str, Any]],
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Write a stage; it exists as soon as `done.json` exists.

    Args:
        run: the run folder.
        stage: facts about it.
        trainable: the weights now.
        start: the weights before the first stage.
        state: of the methods.
        log: loss by step.
        renamed: the folders here of stages that the state refers to by another name.
    """
    folder = make_folder(stage_folder(run, stage.number, stage.task))
    parts, before = split_state(state), _before(run, stage.number)
    held = {
        name: {**place, "stage": (renamed or {}).get(place["stage"], place["stage"])}
        for name, place in parts.places.items()
    }
    places = _places(before, folder.name, parts.tensors) | held
    own = {name: tensor for name, tensor in parts.tensors.items() if places[name]["stage"] == folder.name}
    # One entry only: safetensors writes several in random order, and equal stages must be equal files.
    metadata = {"state": json.dumps({**parts.values, PLACES: dict(sorted(places.items()))})}
    contents = {
        FILES[0]: _weights(trainable, start, parts.tensors),
        FILES[1]: save(whole(own), metadata=metadata),
        LOG: "".join(json.dumps(row) + "\n" for row in log).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    # Checksum of the data in memory, so that a write error is found.
    facts = {
        **asdict(stage),
        RUN: origin_of(run),
        AFTER: link_of(sealed(before / DONE)) if before else "",
        SUMS: {name: sha256(content).hexdigest() for name, content in contents.items()},
    }
    write_json(folder / DONE, {**facts, SEAL: digest_of(facts)})


def _before(run: Path, number: int) -> Path | None:
    """The folder of the stage before stage `number`; None for the first. Earlier ones are not read.

    Raises:
        RunFolderError: it is missing or not finished.
    """
    if number == 1:
        return None
    found = [place for place in (run / "stages").glob(f"{number - 1:02d}-*") if (place / DONE).exists()]
    if not found:
        raise RunFolderError(f"{run}: stage {number - 1} is missing. See evertune doctor {run} --repair")
    return found[0]


def _weights(trainable: Mapping[str, Tensor], start: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bytes:
    """The weights as a file; its metadata refer to those that are stored elsewhere."""
    same: dict[str, list[str]] = {}  # an expert is in the state under the parameters' own names
    for path in state:
        same.setdefault(path.rpartition("/")[2], []).append(path)
    own, in_state, unchanged = {}, {}, {}
    for name, tensor in trainable.items():
        kept = next((path for path in same.get(name, []) if _equal(tensor, state[path])), None)
        if name in start and _equal(tensor, start[name]):
            unchanged[name] = fingerprint_of({name: start[name]})
        elif kept is not None:
            in_state[name] = kept
        else:
            own[name] = tensor
    elsewhere = {STATE: dict(sorted(in_state.items())), BASE: dict(sorted(unchanged.items()))}
    written: bytes = save(whole(own), metadata={ELSEWHERE: json.dumps(elsewhere)})
    return written


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are bit-identical after `restore`."""
    return tensor.shape == other.shape and torch.equal(tensor, other.to(tensor))


def _places(before: Path | None, here: str, tensors: Mapping[str, Tensor]) -> dict[str, Place]:
    """The stage that stores each tensor, and its hash: an earlier one if the previous stage had a bit-identical
    tensor."""
    old = _places_in(before) if before else {}
    places: dict[str, Place] = {n: {"stage": here, "sha256": fingerprint_of({n: t})} for n, t in tensors.items()}
    known = {name for name, place in places.items() if old.get(name, {}).get("sha256") == place["sha256"]}
    return {name: old[name] if name in known else place for name, place in places.items()}


def _places_in(folder: Path) -> dict[str, Place]:
    """The stages that store the tensors of a stage's state, by tensor."""
    places: dict[str, Place] = json_value(read_tensors(folder / FILES[1], only=())[1]["state"]).get(PLACES, {})
    return places


def refuse_references(state: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> None:
    """Raise if a state refers to tensors of stages other than `names`.

    Raises:
        UserError: it does.
    """
    others = {place["stage"] for place in split_state(state).places.values()} - {folder.name, *names}
    if others:
        raise UserError(f"{folder} refers to weights that {', '.join(sorted(others))} holds")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The loss by step of a stage."""
    text = read_text(folder / LOG)
    return [json_value(line) for _, line in written_lines(text)]


def referenced_by(folder: Path) -> set[str]:
    """The names of the earlier stages that store tensors of a stage."""
    return {place["stage"] for place in _places_in(folder).values()} - {folder.name}


def stage_folders(run: Path) -> list[Path]:
    """The folders of all stages, finished or not, in order."""
    return sorted((place for place in (run / "stages").glob("*-*") if place.is_dir()), key=number_of)


def number_of(folder: Path) -> int:
    """2 of `stages/02-numbers`.

    Raises:
        RunFolderError: it is no stage's folder.
    """
    number = folder.name.partition("-")[0]
    if not number.isdecimal():
        raise RunFolderError(f"{folder} is no stage's folder: take it out of {folder.parent}")
    return int(number)


def saved_stages(run: Path, *, upto: int | None = None) -> list[Stage]:
    """The finished stages of a run, in order, or the first `upto` of them.

    Raises:
        RunFolderError: one is damaged, of another run, or missing though a later one is there.
    """
    folders = [place for place in stage_folders(run) if (place / DONE).exists()][:upto]
    origin, before = origin_of(run) if folders else {}, ""
    stages = []
    for number, place in enumerate(folders, start=1):
        content = sealed(place / DONE)
        stage = _facts(place, content)
        if stage.number != number:
            raise RunFolderError(
                f"{run}: stage {number} is missing, though stage {stage.number} is there. "
                f"See evertune doctor {run} --repair"
            )
        refuse_foreign(place, content, origin=origin, before=before)
        before = link_of(content)
        stages.append(stage)
    return stages


def link_of(content: Mapping[str, Any]) -> str:
    """Digest of a stage and, through `after`, of all stages before it; equal after a bit-identical retraining."""
    return digest_of({key: content.get(key) for key in (RUN, AFTER, "number", "task", "data", SUMS)})[:32]


def refuse_foreign(folder: Path, content: Mapping[str, Any], *, origin: Mapping[str, str], before: str | None) -> None:
    """Raise if a stage was trained in another run, or after another stage.

    Args:
        folder: the stage's.
        content: of its `done.json`.
        origin: `origin_of` the run.
        before: `link_of` the previous stage, "" for the first; None if unknown.

    Raises:
        RunFolderError: it does not belong here; the message says why.
    """
    run, of = folder.parent.parent, content.get(RUN)
    if not isinstance(of, dict) or AFTER not in content:
        raise damaged(folder / DONE, "doesn't say of which run it is")
    other = next((key for key, value in origin.items() if of.get(key) != value), None)
    if other is None and before in (None, content[AFTER]):
        return
    why = f"in another run, with another {other}" if other else f"after another stage {number_of(folder) - 1} than"
    raise RunFolderError(
        f"{folder} was trained {why}{'' if other else ' the one that is here'}. Run evertune doctor {run} --repair, or "
        f"delete {folder} (and any later stage) and run the same command again: earlier stages are still valid"
    )


def read_stage(folder: Path) -> Stage:
    """The facts about a finished stage."""
    return _facts(folder, sealed(folder / DONE))


def _facts(folder: Path, content: Mapping[str, Any]) -> Stage:
    try:
        stage = Stage(**{key: value for key, value in content.items() if key not in (SUMS, RUN, AFTER)})
    except TypeError as problem:
        raise damaged(folder / DONE, f"is damaged: {problem}") from problem
    kinds = get_type_hints(Stage)
    for key, value in asdict(stage).items():
        if not (isinstance(value, kinds[key]) or (kinds[key] is float and type(value) is int)):
            raise damaged(folder / DONE, f"is damaged: '{key}' is {value!r:.40}")
    # Its task is part of paths, also of one that a rollback removes.
    if not is_name(stage.task) or stage_folder(folder.parent.parent, stage.number, stage.task).name != folder.name:
        raise damaged(folder / DONE, f"is of stage {stage.number}, '{stage.task:.80}', and not of this folder")
    return stage


def sealed(path: Path) -> dict[str, Any]:
    """The content of a `done.json` whose own checksum is right.

    Raises:
        RunFolderError: it was changed, or is damaged.
    """
    content = read_object(path)
    if content.pop(SEAL, None) != digest_of(content):
        raise damaged(path, "was changed: its checksum is not the one written down")
    return content


def load_stage(
    run: Path, stage: Stage, *, start: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trained weights and methods' state after `stage`; tensors that an earlier stage holds are `LazyTensors`.

    Args:
        run: the run folder.
        stage: one of `saved_stages`.
        start: the weights before the first stage; without them those are left out that the stages have not changed.

    Raises:
        RunFolderError: a file is missing, truncated or changed, or the start is another one; the message names it.
    """
    folder = stage_folder(run, stage.number, stage.task)
    refuse_thinned(folder)
    for file in FILES:
        verify(folder, file)
    trainable, about = read_tensors(folder / FILES[0])
    tensors, metadata = read_tensors(folder / FILES[1])
    try:
        values, elsewhere = json_value(metadata["state"]), json_value(about.get(ELSEWHERE, "{}"))
        places = {name: place for name, place in values.pop(PLACES, {}).items() if place["stage"] != folder.name}
        _refuse_missing(folder / FILES[1], places)
        references = {name: {TENSOR: path} for name, path in elsewhere.get(STATE, {}).items()}
        trainable |= join_state(tensors, references, places=places, file=folder / FILES[1])
        if start is not None:
            trainable |= _base(start, elsewhere.get(BASE, {}), folder)
        return trainable, join_state(tensors, values, places=places, file=folder / FILES[1])
    except RunFolderError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise damaged(folder / FILES[1], f"is damaged: its notes can't be used ({problem!r:.80})") from problem


def refuse_thinned(folder: Path) -> None:
    """Raise if the weights of a stage were deleted on purpose.

    Raises:
        RunFolderError: they were; the message has the stages that can be loaded.
    """
    if not (folder / THINNED).exists():
        return
    others = [f"{number_of(other)}" for other in stage_folders(folder.parent.parent) if not (other / THINNED).exists()]
    raise RunFolderError(
        f"{folder} was thinned out (stages.keep): its weights are gone. Stages with weights: 0, {', '.join(others)}"
    )


def _refuse_missing(file: Path, places: Mapping[str, Place]) -> None:
    """Raise if an earlier stage that `file` refers to is missing."""
    for name in {place["stage"] for place in places.values()}:
        if not is_name(name):
            raise damaged(file, f"names the stage {name!r:.80}, which is none")
    for path in sorted({place_of(file, place) for place in places.values()}):
        if not path.exists():
            raise damaged(path, "is missing")


def _base(start: Mapping[str, Tensor], prints: Mapping[str, str], folder: Path) -> dict[str, Tensor]:
    for name, wanted in prints.items():
        if name not in start or fingerprint_of({name: start[name]}) != wanted:
            raise RunFolderError(f"{folder} was made with another model: its {name} was not that of this one")
    return {name: start[name] for name in prints}


def verify(folder: Path, file: str) -> None:
    """Compare a file of a stage with its checksum.

    Raises:
        RunFolderError: it is missing, truncated or changed.
    """
    path = folder / file
    if not path.exists() or not (folder / DONE).exists():
        raise damaged(path, "is missing")
    written = sealed(folder / DONE).get(SUMS)
    if not isinstance(written, dict) or not path.is_file() or digest_of_file(path) != written.get(file):
        raise damaged(path, "is truncated or was changed: its checksum is not the one written down")
