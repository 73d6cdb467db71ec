"""Checkpoints of the Hugging Face hub, by their id: the configuration first, the weights when they are needed.

Safetensors only: pickles can run code, and so can a repository's own Python, which is never loaded. Every call of the
library says `trust_remote_code=False`, so that it neither runs code nor asks on the terminal; there is no flag for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evertune.models.file_bounds import refuse_unbounded
from evertune.utils.errors import UserError
from evertune.utils.files import read_object
from evertune.utils.safe_names import is_name

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # no `../folder`
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `owner/model`."""
    return bool(_ID.fullmatch(name))


def hub_config(name: str) -> Path:
    """The file `config.json` of a hub id, fetched alone.

    Raises:
        UserError: the hub can't be reached, has no such model, or asks for a licence first.
    """
    from huggingface_hub import hf_hub_download

    return Path(_call(name, lambda: hf_hub_download(name, "config.json")))


def hub_folder(name: str) -> Path:
    """The folder of a hub id in the hub's own cache, fetched when it is not there.

    Raises:
        UserError: as `hub_config`, or its weights are no safetensors.
    """
    from huggingface_hub import snapshot_download

    ignored = ["original/*", "onnx/*"]
    folder = Path(_call(name, lambda: snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=ignored)))
    refuse_unsafe(folder, name=name)
    return folder


def adapter_folder(name: str) -> Path:
    """The folder of an adapter with this hub id in the hub's own cache, fetched when it is not there.

    Raises:
        UserError: as `hub_config`.
    """
    from huggingface_hub import snapshot_download

    return Path(
        _call(name, lambda: snapshot_download(name, allow_patterns=["adapter_*.json", "adapter_*.safetensors"]))
    )


def _call(name: str, call: Callable[[], Any]) -> Any:
    """What the hub's client answers; its many errors as one sentence."""
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as problem:
        raise UserError(
            f"the model {name} is gated: accept its licence at https://huggingface.co/{name}, "
            "log in with `hf auth login`, and try again"
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        raise UserError(
            f"there is no folder '{name}', and no model of this id on the hub that you may see"
        ) from problem
    except errors.RemoteEntryNotFoundError as problem:
        raise UserError(f"the model {name} has no config.json on the hub: it can't be loaded") from problem
    except Exception as problem:  # the hub's client raises many kinds, all meaning "not reachable"
        raise UserError(
            f"there is no folder '{name}', and the hub can't be reached for a model of this id "
            f"({type(problem).__name__}); fetch it where there is a network, and give its folder"
        ) from problem


def refuse_unsafe(folder: Path, *, name: str | None = None) -> None:
    """Raise unless a checkpoint folder has safetensors with sound headers, and leads nowhere else.

    Raises:
        UserError: there are pickles only, or no weights at all; a header is not sound; its index names files outside of
            the folder; a file beside the weights is beyond `evertune.models.file_bounds`; or it holds an adapter, for
            which the library would load another model by the name in it.
    """
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds a peft adapter (adapter_config.json), which names another model: give that "
            "one as the model, and this folder as its adapter (model.adapter=FOLDER)"
        )
    refuse_unbounded(folder)
    for path in sorted(folder.glob("*.index.json")):
        _refuse_outside(path)
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{folder}: {pickles[0]} is a pickle, which can run code when it is read; save the model as safetensors "
            "(`model.save_pretrained(folder)` of transformers does)"
        )
    where = f"the model {name}" if name else str(folder)
    raise UserError(f"{where} has no weights as safetensors (*.safetensors)")


def _refuse_outside(index: Path) -> None:
    parts = read_object(index).get("weight_map")
    if not isinstance(parts, dict) or not all(is_name(part) for part in parts.values()):
        raise UserError(f"{index}: 'weight_map' must name files of this folder, and nothing else")
