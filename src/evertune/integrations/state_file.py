"""What a callback must remember, as one safetensors file in a checkpoint of the Trainer.

`evertune.safetensors` lets training resume in the middle of a task: the methods' state before the task, the weights
that it began with, and what has changed since. `evertune_after_task.safetensors` is the state after the task, from
which the next one begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evertune.integrations.rows import packed, unpacked
from evertune.training.states import join_state, split_state, whole
from evertune.utils.errors import UserError
from evertune.utils.files import whole_file
from evertune.utils.safetensors_header import read_header

MID_TASK, AFTER_TASK = "evertune.safetensors", "evertune_after_task.safetensors"
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """What methods are made from again: `replay+ewc` and their options."""

    spec: str
    options: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SavedState:
    """The state of a callback.

    Attributes:
        names: of the methods.
        tasks: that were learned, in order.
        states: of each method after the last of these tasks.
        rows: that methods keep, by digest.
        norms: of each trained parameter after the last of these tasks.
        shapes: of each trained parameter.
        words: a table of word embeddings by which tasks are compared, where it is not that of the model.
        task: the task that is being learned.
        start: the trained parameters at its beginning.
        progress: of each method since its beginning.
    """

    seed: int
    recipe: Recipe
    names: list[str]
    tasks: list[str] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    words: Tensor | None = None
    task: str | None = None
    start: dict[str, Tensor] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def write_state(path: Path, state: SavedState) -> None:
    """Write a state; a reader sees the old file or the whole new one."""
    tree = {f.name: getattr(state, f.name) for f in fields(SavedState)}
    tree |= {"recipe": {"spec": state.recipe.spec, "options": state.recipe.options}, "rows": packed(state.rows)}
    parts = split_state(tree)
    with whole_file(path) as place:
        save_file(whole(parts.tensors), place, metadata={"evertune": json.dumps([VERSION, parts.values])})


def read_state(path: Path) -> SavedState:
    """Read a state.

    Raises:
        UserError: the file is damaged, or of a newer version.
    """
    try:
        read_header(path)
        with safe_open(path, framework="pt") as content:
            version, values = json.loads((content.metadata() or {})["evertune"])
            if version != VERSION:
                raise UserError(f"{path} was written by a newer evertune (format {version}): update evertune")
            tree = join_state({name: content.get_tensor(name) for name in content.keys()}, values)  # noqa: SIM118
        recipe = Recipe(**tree.pop("recipe"))
        return SavedState(**{**tree, "recipe": recipe, "rows": unpacked(tree["rows"])})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{path} is damaged ({problem}): take an earlier checkpoint") from problem


def state_in(folder: Path) -> Path:
    """The latest state in a checkpoint folder.

    Raises:
        UserError: there is none.
    """
    for name in (AFTER_TASK, MID_TASK):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} has no {AFTER_TASK} or {MID_TASK}: it is no checkpoint of a Trainer that a ContinualCallback was "
        "attached to"
    )
