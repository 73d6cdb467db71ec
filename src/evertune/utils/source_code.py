"""The identity of code that is not evertune's: a hash of its source, so that a changed method is another method.

A package counts as a whole (all its Python files), a file alone, and what a notebook or a script defines by its text.
What the code imports from elsewhere does not count, as versions of libraries do not: `provenance.json` has those.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evertune.utils.code_digest import code_digest
from evertune.utils.files import digest, digest_of_file

FILE_MODULE, FILE_CODE = "evertune_plugin_", "__evertune_code__"
"""What the names of modules begin with that `load_plugin` made of a file; and where these have the file's hash."""
NOT_THEIRS = ("evertune", "builtins", "abc", "typing")


def foreign_code(kind: Any) -> str | None:
    """Hash of the source of a class or function that is not evertune's; None for one that is.

    Found once for each: a file that is edited while its code runs does not change what runs.
    """
    return None if kind.__module__.partition(".")[0] == "evertune" else _once(kind)


@lru_cache(maxsize=1000)
def _once(kind: Any) -> str:
    return code_of(kind)


def code_of(kind: Any) -> str:
    """Hash of the files that a class or function is from, or of its text where it is from no importable file.

    A class that extends another one, not of evertune, Python or an installed library, is of the files of both.
    """
    own = _code_of(kind)
    others = [part for part in _own_parts(kind) if part is not kind and not _is_installed(part, beside=kind)]
    return digest(own, *map(_code_of, others))[:16] if others and kind.__module__ != "__main__" else own


def _is_installed(kind: Any, *, beside: Any) -> bool:
    """Whether a class is of an installed library, or of the same package as `beside`, whose files count anyway."""
    if kind.__module__.partition(".")[0] == beside.__module__.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return "site-packages" in file or file.startswith(sys.base_prefix)


def _code_of(kind: Any) -> str:
    module = getattr(kind, "__module__", "__main__")
    if module.startswith(FILE_MODULE):
        return str(getattr(sys.modules.get(module), FILE_CODE, ""))
    files = [] if module == "__main__" else _files_of_module(module)
    return hash_of(files) if files else code_digest(*_own_parts(kind))


def _own_parts(kind: Any) -> list[Any]:
    """A class and those that it extends, without evertune's and Python's own; a function itself."""
    parts = kind.__mro__ if isinstance(kind, type) else [kind]
    return [part for part in parts if getattr(part, "__module__", "").partition(".")[0] not in NOT_THEIRS]


def code_of_module(module: str) -> str:
    """Hash of the package that a module is in; nothing is imported for it."""
    return hash_of(_files_of_module(module))


def _files_of_module(module: str) -> list[Path]:
    """The Python files of the package that a module is in, or its own."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):  # a namespace package has no code of its own: the one below it counts
        try:
            spec = find_spec(".".join(parts[:length]))
        except (ImportError, ValueError):
            return []
        if spec is None:
            return []
        if spec.origin and spec.origin.endswith(".py"):
            file = Path(spec.origin)
            return sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations else [file]
    return []


def hash_of(files: Sequence[Path]) -> str:
    """Of the names below their common folder and the contents; where a package is installed does not count."""
    top = min((file.parent for file in files), key=lambda folder: len(folder.parts), default=Path())
    names = {file: file.relative_to(top).as_posix() if len(files) > 1 else "" for file in files if file.is_file()}
    return digest(*(f"{name} {digest_of_file(file)}" for file, name in names.items()))[:16]
