"""What makes a run this run and no other: its resolved configuration, written first and compared ever after.

A folder is free, or of the run that is asked for, or refused: nothing is ever written over another run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evertune.errors import RunFolderError, UserError
from evertune.files import TEMPORARY, digest_of, make_folder, read_object, read_text, write_atomically
from evertune.ledger import finished_cells, without_clock
from evertune.locks import NAME as LOCK
from evertune.parsing import YamlError, yaml_value
from evertune.tasks import Stream


def identity_of(config: Mapping[str, Any], stream: Stream, model: Mapping[str, Any]) -> dict[str, Any]:
    """What a run folder stands for: the configuration without its place, and the fingerprint of its data."""
    kept = {key: value for key, value in config.items() if key != "out"}
    return {**kept, "data": stream.fingerprint[:16], "model_config": digest_of(model)[:16]}


def finished_matrix(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The matrix of a finished run of the same configuration and data; None when there is more to do.

    Raises:
        RunFolderError: the folder holds a run of another configuration; the message names what differs.
    """
    if not (folder / "config.yaml").exists():
        if not is_free(folder):
            raise RunFolderError(f"{folder} is not empty and not a run: choose another --out")
        return None
    refuse_other_run(folder, identity)
    path = folder / "matrix.json"
    if not path.exists():
        return None
    matrix = read_object(path)
    return matrix if matrix.get("finished") and still_holds(folder, matrix) else None


def is_free(folder: Path) -> bool:
    """Whether nothing of anybody is in a folder, or it is not there; what a killed beginning has left is nobody's."""
    return not folder.exists() or all(
        path.name == LOCK or TEMPORARY.fullmatch(path.name) is not None for path in folder.iterdir()
    )


def still_holds(folder: Path, matrix: Mapping[str, Any]) -> bool:
    """Whether what a finished matrix was made of is there, and was not taken back by a rollback since."""
    try:
        stages = (f"{number:02d}-{task}" for number, task in enumerate(matrix["stages"], start=1))
        if not all((folder / "stages" / name / "done.json").exists() for name in stages):
            return False
        cells = finished_cells(folder)
        return all(without_clock(cells.get((cell["stage"], cell["task"]), {})) == cell for cell in matrix["cells"])
    except (KeyError, TypeError, ValueError, OSError) as problem:
        if isinstance(problem, UserError):
            raise
        raise RunFolderError(f"{folder / 'matrix.json'} is damaged ({problem!r:.80}): delete it") from problem


def refuse_other_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise when `folder` was made with another configuration or other data."""
    found = read_identity(folder)
    for key in sorted(identity.keys() | found.keys()):
        if found.get(key) != identity.get(key):
            raise RunFolderError(
                f"{folder} holds a run with {key}={_short(found.get(key))}, asked was "
                f"{key}={_short(identity.get(key))}; choose another --out, or delete the folder"
            )


def read_identity(folder: Path) -> dict[str, Any]:
    """What `begin` wrote.

    Raises:
        RunFolderError: it can't be read; the message names the file.
    """
    path = folder / "config.yaml"
    try:
        found = yaml_value(read_text(path))
    except YamlError as problem:
        raise RunFolderError(f"{path} can't be read: {problem}") from problem
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise RunFolderError(f"{path} is damaged: expected 'key: value' lines")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def begin(folder: Path, identity: Mapping[str, Any]) -> None:
    """Create the run folder with its resolved configuration."""
    make_folder(folder)
    if not (folder / "config.yaml").exists():
        write_atomically(folder / "config.yaml", yaml.safe_dump(dict(identity), sort_keys=False, allow_unicode=True))
