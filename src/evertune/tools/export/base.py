"""The base model of an export, by a name that others can load; and the run that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from evertune.assets import Progress
from evertune.models import PRESETS, model_folder
from evertune.models.hub import is_hub_id
from evertune.runs.api import open_run
from evertune.training.learner import Learner
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import read_json

KEY = "base_model.model."
"""What peft puts before the names of the library's model."""


class Base(NamedTuple):
    """The base model as transformers and peft load it.

    Attributes:
        name: a hub id, or an absolute folder; of `smol` its LM.
        is_smol: whether it is of the family `smol`, which is no class of transformers.
    """

    name: str
    is_smol: bool

    @property
    def hub_id(self) -> str | None:
        """Its id on the hub; None where it is a folder of this machine."""
        return None if Path(self.name).is_absolute() else self.name


def base_of(model: str, *, given: str | None = None, progress: Progress | None = None) -> Base:
    """How others load the base model of a run.

    Args:
        model: as in the run's configuration.
        given: a hub id that is written instead.
        progress: called while the model is fetched.

    Raises:
        UserError: `given` is no hub id.
    """
    folder = model_folder(model, progress=progress)
    config = read_json(folder / "config.json")
    is_smol = config.get("family") == "smol"
    if given is not None:
        if not is_hub_id(given):
            raise UserError(f"--base-model is a model on the Hugging Face hub, OWNER/NAME; it is '{given}'")
        return Base(given, is_smol)
    if is_smol:
        origin = str(config.get("origin", ""))
        return Base(origin if is_hub_id(origin) else str((folder / "lm").resolve()), is_smol)
    if model not in PRESETS and not Path(model).is_dir():
        return Base(model, is_smol)
    return Base(_of_cache(folder) or str(folder.resolve()), is_smol)


def _of_cache(folder: Path) -> str | None:
    """The hub id of a folder in the hub's cache: `models--OWNER--NAME/snapshots/REVISION`."""
    kind, _, name = folder.parent.parent.name.partition("--")
    called = name.replace("--", "/", 1)
    return called if folder.parent.name == "snapshots" and kind == "models" and is_hub_id(called) else None


def opened(run: Path, stage: int | None, progress: Progress | None) -> tuple[Learner, int]:
    """A run and the number of the stage that is meant, by default the last.

    Raises:
        RunFolderError: it is no run, or has no stage yet.
    """
    learner = open_run(run, progress=progress)
    if not learner.stages:
        raise RunFolderError(f"{run} has no finished stage yet: there is nothing to export")
    return learner, len(learner.stages) if stage is None else stage
