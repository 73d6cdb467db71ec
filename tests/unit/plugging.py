"""Plug-ins for tests: files, installed packages, and a process that forgets both afterwards."""

from __future__ import annotations

import sys
import textwrap

from evertune.utils import plugins

OWN = """
from evertune import Method, MethodInfo


class Own(Method):
    name = "own"
    about = MethodInfo("scales gradients", "regularization", "none", "g <- a g", "nothing", "never")

    def __init__(self, *, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def after_backward(self, parameters):
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(self.alpha)
"""


def write_plugin(path, text=OWN):
    path.write_text(textwrap.dedent(text))
    return path


def install(place, *, name, entries, text=OWN, version="1.0", module=None):
    """A package of one module, with entry points: {group: {name: value}}. Gives the folder for `sys.path`."""
    module = module or name.replace("-", "_")
    package = place / module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(text))
    info = place / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = (
        f"[evertune.{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items())
        for group, points in entries.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    return place


class Plugged:
    """What is loaded and installed within a test is gone after it."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        for table in ("_given", "_added", "_values", "_brought"):
            monkeypatch.setattr(plugins, table, {})
        self._modules = set(sys.modules)
        self.forget()

    def forget(self):
        plugins._installed.cache_clear()
        plugins._entry_points.cache_clear()
        plugins._code.cache_clear()

    def installed(self, place, **package):
        self._monkeypatch.syspath_prepend(str(install(place, **package)))
        self.forget()

    def end(self):
        self.forget()
        for name in set(sys.modules) - self._modules:
            if name.startswith(("evertune_plugin_", "own_")):
                del sys.modules[name]
