"""The origin of a run, from its folder: the configuration without paths, and the fingerprint of its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evertune.utils.errors import RunFolderError
from evertune.utils.files import digest_of, read_object, read_text
from evertune.utils.parsing import YamlError, yaml_value

FORMAT = 2
"""Format version of a run folder. Version 1 has other names of settings, metrics and files."""
PLACES = ("model", "stream")
"""Settings that may be a path: its last part is the name."""
CELLS, STAGES, TEXT = "cells", "stages", "text_probe"
"""Which cells are evaluated and whether the text probe is read (of `evaluation`), and which stages are kept: recorded
and never compared."""
PROBES, PROBED = "probes", "probe_questions"
"""Which probes are evaluated, and by name the hash of their questions: recorded and never compared, as they
change no other number.
"""
CODE = "code"
"""Of plug-ins: by group and name the hash of their code, and where they are from."""


def origin_of(folder: Path) -> dict[str, str]:
    """Digests of the configuration and the model of the run in `folder`, as far as its files exist.

    Tasks are not part of it, since some may be appended, and neither are paths, which may change.
    """
    origin = {}
    if (folder / "config.yaml").exists():
        settings = {key: value for key, value in read_identity(folder).items() if key != "data"}
        origin["configuration"] = digest_of(placeless(settings))[:32]
    if (folder / "provenance.json").exists():
        origin["model"] = str(read_object(folder / "provenance.json").get("model_fingerprint"))
    return origin


def placeless(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what changes no number: the choice of cells, probes and kept stages, and the folders of
    model, stream and plug-ins, which names and hashes identify.
    """
    kept = {key: value for key, value in identity.items() if key not in (STAGES, PROBES, PROBED)}
    found = {key: Path(str(value)).name if key in PLACES else value for key, value in kept.items()}
    if isinstance(evaluation := found.get("evaluation"), dict):
        found["evaluation"] = {key: value for key, value in evaluation.items() if key not in (CELLS, TEXT)}
    return {**found, CODE: _sourceless(found[CODE])} if CODE in found else found


def _sourceless(code: Any) -> Any:
    """`{"methods": {"own": HASH}}`."""
    if isinstance(code, dict):
        return code["code"] if "code" in code else {name: _sourceless(each) for name, each in code.items()}
    return code


def read_identity(folder: Path) -> dict[str, Any]:
    """The identity that `begin` wrote.

    Raises:
        RunFolderError: it can't be read, or an earlier version made it; the message names the file.
    """
    path = folder / "config.yaml"
    try:
        found = yaml_value(read_text(path))
    except YamlError as problem:
        raise RunFolderError(f"{path} can't be read: {problem}") from problem
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise RunFolderError(f"{path} is damaged: expected 'key: value' lines")
    if (version := found.pop("format", 1)) != FORMAT:
        what = f"has the run folder format {version!r:.20}, this version of evertune reads {FORMAT}"
        raise RunFolderError(
            f"{folder} {what}: run it again with another folder (--out, out=...), or use the version that made it"
        )
    return found
