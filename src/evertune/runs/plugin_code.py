"""The code of plug-ins as part of a run: recorded in its `config.yaml`, compared when the folder is used again.

What the record names is never imported: it may come from elsewhere. It only says which plug-in a command lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evertune.training.run_origin import CODE, read_identity
from evertune.utils.errors import RunFolderError
from evertune.utils.plugins import GROUPS, THIS_PROGRAM, code_of

FLAG = "--plugin "
LONGEST = 200
"""Characters of what a record says that a message shows."""


def code_of_run(method: str, *, rules: Iterable[str] = ()) -> dict[str, Any]:
    """`{"code": ...}` with the plug-ins that decide a run's numbers; empty where all is evertune's.

    Args:
        method: `replay+own`.
        rules: the scoring rules of its tasks.
    """
    names = {"methods": [part.strip() for part in method.split("+")], "metrics": rules}
    found = {group: brought for group, each in names.items() if (brought := _others(group, code_of(group, each)))}
    return {CODE: found} if found else {}


def _others(group: str, found: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Without the rules of the running program: the tasks that name one have its hash in their fingerprints."""
    return {name: each for name, each in found.items() if group != "metrics" or each["from"] != THIS_PROGRAM}


def refuse_other_code(folder: Path) -> None:
    """Raise when a plug-in that made the run in `folder` is not here, or has changed since.

    Raises:
        RunFolderError: the message says which, and what to do.
    """
    if not (folder / "config.yaml").exists():
        return  # no run folder, of which others say so
    for group, recorded in _records(read_identity(folder)):
        if group != "methods":  # a scoring rule is needed only where something is scored
            continue
        here = code_of(group, recorded)
        for name, record in recorded.items():
            what = f"the {GROUPS[group]} '{name}' of {_shown(record.get('from'))}"
            if name not in here:
                raise RunFolderError(f"{folder} was made with {what}, which is not here: {_remedy(record)}")
            if here[name]["code"] != record.get("code"):
                raise RunFolderError(
                    f"{folder} was made with {what}, whose code has changed since (now: {here[name]['from']}): take "
                    "the code that it was made with, or run it again with another folder (--out, out=...)"
                )


def _records(identity: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    """By group, what a record says of each name, as far as it is sound."""
    record = identity.get(CODE)
    for group, names in record.items() if isinstance(record, dict) else ():
        if group in GROUPS and isinstance(names, dict):
            yield group, {str(name): each for name, each in names.items() if isinstance(each, dict)}


def _remedy(record: Mapping[str, Any]) -> str:
    """What to do about a plug-in that is not here. Its file is not opened: whether to run it is the user's choice."""
    source = _shown(record.get("from"))
    if source.startswith(FLAG):
        return f"give it to this command, if you trust the file: {source}"
    if source.startswith("the package "):
        return "install it"
    return "load the file that defines it: --plugin FILE.py, or evertune.load_plugin(...) in Python"


def _shown(source: Any) -> str:
    return str(source)[:LONGEST]
