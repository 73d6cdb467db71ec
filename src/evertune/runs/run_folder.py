"""The identity of a run: its resolved configuration, written first and compared by every later call.

A folder must be free or hold the same run: nothing is ever written over another run. A stream may get more tasks at its
end; the run then continues with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evertune.data import Stream
from evertune.reporting.matrix import Matrix
from evertune.runs.cells import lacks, lacks_probes, questions_of, which_of
from evertune.runs.ledger import finished_cells, without_clock
from evertune.runs.plugin_code import code_of_run
from evertune.training.run_origin import (
    CODE,
    FORMAT,
    PLACES,
    PROBED,
    PROBES,
    STAGES,
    TEXT,
    placeless,
    read_identity,
)
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import make_folder, read_object, refuse_file, write_atomically
from evertune.utils.locks import NAME as LOCK
from evertune.utils.plugins import GROUPS
from evertune.utils.temporary_files import TEMPORARY

TASKS = ("data", "known")
FINGERPRINTS = (*TASKS, PROBED, "model_config", CODE)
"""Fingerprints of the inputs beside the configuration."""


def identity_of(config: Mapping[str, Any], stream: Stream, model: str) -> dict[str, Any]:
    """What a run folder stands for: the configuration without its place, and the fingerprint of each of its tasks."""
    kept = {key: value for key, value in config.items() if key != "out"}
    parts = [("data", stream.tasks), *([("known", stream.known)] if stream.known else [])]
    data = {key: {task.name: task.fingerprint[:16] for task in tasks} for key, tasks in parts}
    data |= {PROBED: {task.name: questions_of(task) for task in stream.probes}} if stream.probes else {}
    code = code_of_run(str(config["method"]), rules=[task.score for task in stream.columns])
    return {**kept, **data, "model_config": model, **code}


def finished_matrix(folder: Path, identity: Mapping[str, Any]) -> Matrix | None:
    """The matrix of a finished run of the same configuration and data; None when there is more to do.

    Raises:
        RunFolderError: the folder holds a run of another configuration; the message names what differs.
    """
    if not (folder / "config.yaml").exists():
        if not is_free(folder):
            refuse_no_run(folder)
        return None
    added_tasks(folder, identity)
    path = folder / "matrix.json"
    if not path.exists():
        return None
    content = read_object(path)
    if not content.get("finished") or content.get("tasks") != [*identity.get("known", ()), *identity["data"]]:
        return None
    try:
        matrix = Matrix.read(folder)
    except RunFolderError as problem:
        raise RunFolderError(f"{problem}: delete it") from problem
    thinned, was_read = thinned_stages(folder), _reads_text(read_identity(folder))
    lacking = lacks(matrix, which_of(identity), without=thinned) or lacks_probes(matrix, identity, without=thinned)
    if lacking or (_reads_text(identity) and not was_read):
        return None
    return matrix if still_holds(folder, matrix) else None


def _reads_text(identity: Mapping[str, Any]) -> bool:
    """Whether a run reads the text probe."""
    evaluation = identity.get("evaluation")
    return not (isinstance(evaluation, Mapping) and evaluation.get(TEXT) is False)


def thinned_stages(folder: Path) -> set[int]:
    """The numbers of the stages whose weights `stages.keep` has deleted; without torch."""
    return {int(note.parent.name.partition("-")[0]) for note in folder.glob("stages/[0-9]*-*/thinned.json")}


def refuse_no_run(folder: Path) -> None:
    """Raise when a folder that is not free holds something else than a run.

    Raises:
        RunFolderError: it does.
    """
    if not (folder / "config.yaml").exists():
        raise RunFolderError(f"{folder} is not empty and not a run: choose another folder (--out, out=..., folder=...)")


def is_free(folder: Path) -> bool:
    """Whether a folder is empty or missing; leftovers of a killed start do not count."""
    return not refuse_file(folder).exists() or all(
        path.name == LOCK or TEMPORARY.fullmatch(path.name) is not None for path in folder.iterdir()
    )


def still_holds(folder: Path, matrix: Matrix) -> bool:
    """Whether the files behind a finished matrix exist and were not removed by a rollback since."""
    try:
        stages = (f"{number:02d}-{task}" for number, task in enumerate(matrix.stages, start=1))
        if not all((folder / "stages" / name / "done.json").exists() for name in stages):
            return False
        cells = finished_cells(folder)
        return all(without_clock(cells.get((cell["stage"], cell["task"]), {})) == cell for cell in matrix.cells)
    except (ValueError, OSError) as problem:
        if isinstance(problem, UserError):
            raise
        raise RunFolderError(f"{folder / 'matrix.json'} is damaged ({problem!r:.80}): delete it") from problem


def added_tasks(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """The tasks that were appended to the stream of the run in `folder`; everything else must be unchanged.

    Raises:
        RunFolderError: something else differs; the message names it.
    """
    if not (folder / "config.yaml").exists():
        return []
    found = read_identity(folder)
    before, now = (
        list(data.items()) if isinstance(data := each.get("data"), dict) else [] for each in (found, identity)
    )
    added = [name for name, _ in now[len(before) :]] if before and now[: len(before)] == before else []
    refuse_other_run(folder, {**identity, "data": found["data"]} if added else identity)
    return added


def _is_elsewhere(found: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether the model or the stream has moved, or other cells, probes or stages are wanted."""
    return any(found.get(key) != identity.get(key) for key in (*PLACES, "evaluation", STAGES, PROBES, PROBED))


def refuse_other_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise when `folder` was made with another configuration or other data."""
    found, identity = placeless(read_identity(folder)), placeless(identity)
    for key in sorted(identity.keys() | found.keys(), key=lambda key: (key in FINGERPRINTS, key)):
        before, now = found.get(key), identity.get(key)
        if before == now and (key not in TASKS or list(before or ()) == list(now or ())):
            continue
        if key in TASKS and isinstance(before, str):
            what = "of an earlier version of evertune; choose"
        elif key in TASKS:
            what = f"of other data: {_other_tasks(before or {}, now or {})}. Choose"
        elif key == CODE:
            what = f"made with other code: {_other_code(before, now)}. Choose"
        else:
            inner, before, now = _innermost(key, before, now)
            what = f"started with {inner}={_short(before)}; requested {inner}={_short(now)}. Choose"
        raise RunFolderError(f"{folder} holds a run {what} another folder (--out, out=...), or delete this one")


def _other_tasks(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first task in which two streams differ, and how."""
    for number, (old, new) in enumerate(zip(before, now, strict=False), start=1):
        if old != new:
            return f"its task {number} is '{old}', that of the stream is '{new}'"
        if before[old] != now[new]:
            return f"the samples of '{old}' were others"
    if len(before) > len(now):
        return f"the stream has no '{list(before)[len(now)]}' any more"
    return f"it has no '{list(now)[len(before)]}'"


def _other_code(before: Any, now: Any) -> str:
    """Which plug-in is not the one that a run was begun with, and how."""
    path, was, is_now = _innermost("", before or {}, now or {})
    _, group, name = [*path.split("."), "", ""][:3]
    what = f"the {GROUPS.get(group, 'plug-in')} '{name}'" if name else "a plug-in"
    return f"{what} has changed since" if was and is_now else f"{what} is {'not ' if was else ''}one of a plug-in now"


def _innermost(key: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first setting that differs, inside of groups of settings: `train.epochs`."""
    while isinstance(before, dict) and isinstance(now, dict):
        part = next(part for part in [*before, *now] if before.get(part) != now.get(part))
        key, before, now = f"{key}.{part}", before.get(part), now.get(part)
    return key, before, now


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def begin(folder: Path, identity: Mapping[str, Any]) -> None:
    """Create the run folder with its resolved configuration, or record added tasks, moved paths and wanted cells."""
    make_folder(folder)
    path = folder / "config.yaml"
    if not path.exists() or added_tasks(folder, identity) or _is_elsewhere(read_identity(folder), identity):
        write_atomically(path, yaml.safe_dump({"format": FORMAT, **identity}, sort_keys=False, allow_unicode=True))


def run_folders(base: Path, specs: Sequence[str]) -> dict[str, Path]:
    """The folder of each method: `base` itself when there is only one."""
    return {spec: base if len(specs) == 1 else base / spec for spec in specs}
