"""Plug-ins: methods, model families, formats, scoring rules, trackers and streams that other code brings.

A plug-in comes from an installed package (entry points of the groups `evertune.methods`, `.models`, `.formats`,
`.metrics`, `.trackers` and `.streams`) or from `--plugin FILE.py` and `--plugin PACKAGE:NAME` (`load_plugin`). A
`Registry` is the one place where a name is looked up. Listing names imports nothing; a package is imported when one of
its names is used. A file is imported only where the user passes it: a path that a run folder names is never imported.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from evertune.utils.errors import UserError
from evertune.utils.files import digest
from evertune.utils.source_code import FILE_CODE, FILE_MODULE, code_of_module, hash_of
from evertune.utils.source_code import code_of as source_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Value = TypeVar("Value")

GROUPS = {
    "methods": "method",
    "models": "model family",
    "formats": "format",
    "metrics": "scoring rule",
    "trackers": "tracker",
    "streams": "stream",
}
"""The groups of entry points, without `evertune.`, and what one of each is called."""
CLASSES = {"evertune.methods.base.Method": "methods", "evertune.runs.tracking.protocol.Tracker": "trackers"}
OBJECTS = {"evertune.metrics.rules.Rule": "metrics", "evertune.models.families.Family": "models"}
"""The group by what a class extends or an object is; as text, because this package is below all of these."""
OF_A_FORMAT = ("ABOUT", "PROMPT", "rows")
THIS_PROGRAM = "this program"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Names of plug-ins: they become parts of folders and of `--set NAME.OPTION=VALUE`."""


class PluginError(UserError):
    """A plug-in can't be used; `details` is the traceback of its import, if that failed."""

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True, slots=True)
class Plugin:
    """One name that a plug-in brings.

    Attributes:
        source: who brings it: `--plugin own.py`, `the package own-methods 0.1`.
        load: imports it, and gives what it is.
        code: gives the hash of its source: another one is another plug-in.
    """

    group: str
    name: str
    source: str
    load: Callable[[], Any]
    code: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Lazy:
    """A built-in module that is imported when it is used."""

    module: str


_given: dict[str, list[Plugin]] = {}
"""What `load_plugin` has loaded: file or object -> what it brings."""
_added: dict[tuple[str, str], Plugin] = {}
"""What the running program has added (`Registry.add`)."""
_values: dict[Plugin, Any] = {}
_registries: dict[str, Registry[Any]] = {}
_brought: dict[str, list[Plugin]] = {}
"""By source, what plug-ins have added while they were imported."""
_loading: ContextVar[tuple[str, Callable[[], str]] | None] = ContextVar("loading", default=None)
"""Source and code of the plug-in that is being imported."""


class Registry(Mapping[str, Value], Generic[Value]):
    """All that is known of a group by its name: what evertune brings, and plug-ins.

    Args:
        group: one of `GROUPS`.
        built_in: what evertune brings.
        check: called with the name and the value of a plug-in; raises a UserError for a value that can't be used.
    """

    def __init__(
        self, group: str, built_in: Mapping[str, Any], *, check: Callable[[str, Any], None] | None = None
    ) -> None:
        self.group = group
        self._built_in = dict(built_in)
        self._check = check
        _registries[group] = self

    def __getitem__(self, name: str) -> Value:
        plugin = self.plugin_of(name)
        found: Any = self._built_in[name] if plugin is None else self._loaded(plugin)
        value: Any = importlib.import_module(found.module) if isinstance(found, Lazy) else found
        return cast(Value, value)

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from sorted({plugin.name for plugin in self.plugins()} - self._built_in.keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or any(plugin.name == name for plugin in self.plugins())

    def plugins(self) -> list[Plugin]:
        """Every plug-in of this group; none is imported."""
        return _plugins(self.group)

    def plugin_of(self, name: str) -> Plugin | None:
        """The plug-in that brings this name; None for one of evertune, and for none. It is not imported.

        Raises:
            PluginError: two bring it; the message says who.
        """
        found = [plugin for plugin in self.plugins() if plugin.name == name]
        sources = [*(["evertune itself"] if name in self._built_in else []), *(plugin.source for plugin in found)]
        imported = any(plugin.source == THIS_PROGRAM for plugin in found) and name not in self._built_in
        same = imported and len(found) == 2 and len({plugin.code() for plugin in found}) == 1
        if found and len(sources) > 1 and not same:  # one file, imported and loaded, is one method
            raise PluginError(
                f"two {GROUPS[self.group]}s are called '{name}': one of {sources[0]}, one of {sources[1]}. Rename "
                "yours, or leave one out"
            )
        return found[0] if found else None

    def add(self, name: str, value: Value, *, made_by: Any = None) -> None:
        """Register a value from a running program or, while that is being imported, from a plug-in.

        Args:
            name: must be free; what the program has added under it before is replaced.
            value: as the group has them.
            made_by: the class or function whose source decides what it does; by default that of the value.

        Raises:
            PluginError: evertune or a plug-in has one of this name.
        """
        loading = _loading.get()
        source, code = loading or (THIS_PROGRAM, partial(source_of, made_by or value))
        plugin = Plugin(self.group, name, source, lambda: value, code)
        if loading is not None:
            _brought.setdefault(source, []).append(plugin)
            return
        _refuse_name(plugin)
        _added[self.group, name] = plugin
        try:
            self.plugin_of(name)
        except PluginError:
            del _added[self.group, name]
            raise

    def _loaded(self, plugin: Plugin) -> Any:
        if plugin not in _values:
            value = plugin.load()
            try:
                _refuse_name(plugin)
                if self._check is not None:
                    self._check(plugin.name, value)
            except PluginError:
                raise
            except UserError as problem:
                what = f"the {GROUPS[self.group]} '{plugin.name}' of {plugin.source}"
                raise PluginError(f"{what} can't be used: {problem}") from problem
            _values[plugin] = value
        return _values[plugin]


def load_plugin(spec: str | Path, *, beside: Path | None = None) -> list[str]:
    """Load what a Python file, or an object of an importable package, brings; gives the names.

    A file brings what it defines: classes that extend `Method` or `Tracker`, scoring rules, families of models, paths
    of streams' YAML, and itself as a format where it has `ABOUT`, `PROMPT` and `rows`. Names that begin with `_` are
    left out. The code is run.

    Args:
        spec: `own.py`, or `package:Name`.
        beside: the folder that a relative path counts from; by default the current one.

    Raises:
        PluginError: it can't be imported, brings nothing, or brings a name that is there already.
    """
    text = str(spec)
    if text.endswith(".py"):
        path = ((beside or Path()) / text).resolve()
        text, bring = str(path), partial(_brought_by_file, path)
    elif re.fullmatch(r"[\w.]+:[\w.]+", text):
        bring = partial(_brought_by_object, text)
    else:
        raise PluginError(f"the plug-in {text!r:.80}: write FILE.py or PACKAGE:NAME, for example my_methods:DerPP")
    if text not in _given or _changed(text):
        _given[text] = bring()
        try:
            for plugin in _given[text]:
                _refuse_name(plugin)
                if plugin.group in _registries:
                    _registries[plugin.group][plugin.name]
        except PluginError:
            del _given[text]
            raise
    return [plugin.name for plugin in _given[text]]


def _changed(text: str) -> bool:
    """Whether a file that was loaded is another one now: a notebook loads it again."""
    return text.endswith(".py") and hash_of([Path(text)]) != _given[text][0].code()


def code_of(group: str, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of the names that plug-ins bring: the hash of their code, and who brings them. Nothing is imported for it."""
    here = {plugin.name: plugin for plugin in _plugins(group)}
    return {name: {"code": _code(here[name]), "from": here[name].source} for name in names if name in here}


@cache
def _code(plugin: Plugin) -> str:
    """Found once: what runs is what was there then, even if its file is edited while it runs."""
    return plugin.code()


def plugin_flags() -> list[str]:
    """The options that make another process of evertune load what this one has loaded."""
    return [part for spec in _given for part in ("--plugin", spec)]


def _refuse_name(plugin: Plugin) -> None:
    if not NAME.fullmatch(plugin.name):
        raise PluginError(
            f"{plugin.source}: a {GROUPS[plugin.group]} can't be called {plugin.name!r:.60}: letters, digits, '-' and "
            "'_' only"
        )


def _plugins(group: str) -> list[Plugin]:
    given = [plugin for plugins in _given.values() for plugin in plugins]
    return [*(p for p in (*given, *_added.values()) if p.group == group), *_installed(group)]


@cache
def _installed(group: str) -> tuple[Plugin, ...]:
    """The entry points of a group, in the order of their names; none is imported."""
    found = sorted(_entry_points().select(group=f"evertune.{group}"), key=lambda point: (point.name, point.value))
    return tuple(_of_entry_point(group, point) for point in found)


@cache
def _entry_points() -> Any:  # of Python 3.11 it has another type than later; both have `select`
    """Of all installed packages: one pass over their metadata."""
    from importlib.metadata import entry_points

    return entry_points()


def _of_entry_point(group: str, point: EntryPoint) -> Plugin:
    source = f"the package {point.dist.name} {point.dist.version}" if point.dist else f"the entry point {point.value}"
    code = partial(code_of_module, point.module)

    def load() -> Any:
        value = _imported(point.load, f"the {GROUPS[group]} '{point.name}' of {source}", source, code)
        added = [p for p in _brought.get(source, []) if (p.group, p.name) == (group, point.name)]
        return added[-1].load() if added else value

    return Plugin(group, point.name, source, load, code)


def _brought_by_file(path: Path) -> list[Plugin]:
    """What a file defines, and what it has added to registries itself."""
    source = f"--plugin {path}"
    if not path.is_file():
        raise PluginError(f"{source}: there is no such file")
    code = partial(_same, hash_of([path]))  # of what is run now: the file may be edited meanwhile
    _brought.pop(source, None)
    module = _imported(partial(_module_of_file, path), source, source, code)
    setattr(module, FILE_CODE, code())
    return _something(_defined_in(module, path.stem, source, code), source)


def _module_of_file(path: Path) -> ModuleType:
    name = f"{FILE_MODULE}{digest(str(path))[:8]}_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _defined_in(module: ModuleType, stem: str, source: str, code: Callable[[], str]) -> list[Plugin]:
    own = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not (isinstance(value, type) and (value.__module__ != module.__name__ or inspect.isabstract(value)))
    }
    named = [(group, _name_of(value, name), value) for name, value in own.items() if (group := _group_of(value))]
    if all(hasattr(module, name) for name in OF_A_FORMAT):
        named.append(("formats", stem.replace("_", "-"), module))
    return [Plugin(group, name, source, partial(_same, value), code) for group, name, value in named]


def _brought_by_object(spec: str) -> list[Plugin]:
    """What `package:Name` is."""
    module, _, name = spec.partition(":")
    source, code = f"--plugin {spec}", partial(code_of_module, module)

    def found() -> Any:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        return value

    value = _imported(found, source, source, code)
    group = _group_of(value)
    own = (
        Plugin(group, _name_of(value, name.rpartition(".")[2]), source, partial(_same, value), code) if group else None
    )
    return _something([own] if own else [], source)


def _same(value: Value) -> Value:
    return value


def _something(found: Sequence[Plugin], source: str) -> list[Plugin]:
    """What was found, and what the plug-in has added by itself, each name once."""
    brought = list({(p.group, p.name): p for p in (*found, *_brought.get(source, []))}.values())
    if not brought:
        kinds = ", ".join(GROUPS.values())
        raise PluginError(f"{source} brings nothing that evertune knows ({kinds}): a method extends evertune.Method")
    return brought


def _group_of(value: Any) -> str | None:
    """The group that a class or an object belongs to."""
    table, kinds = (CLASSES, value.__mro__) if isinstance(value, type) else (OBJECTS, type(value).__mro__)
    for kind in kinds:
        if group := table.get(f"{kind.__module__}.{kind.__qualname__}"):
            return group
    if isinstance(value, Path) and value.suffix in (".yaml", ".yml"):
        return "streams"
    is_format = not isinstance(value, type | ModuleType) and all(hasattr(value, name) for name in OF_A_FORMAT)
    return "formats" if is_format else None


def _name_of(value: Any, variable: str) -> str:
    """The name that it gives itself, or that of the stream's file, or of the variable."""
    own = value.stem if isinstance(value, Path) else getattr(value, "name", None)
    return own if isinstance(own, str) else variable


def _imported(action: Callable[[], Value], what: str, source: str, code: Callable[[], str]) -> Value:
    """What an import gives; what it adds to registries is the source's.

    Raises:
        PluginError: it failed; the message says whose it is, `details` where.
    """
    token = _loading.set((source, code))
    try:
        return action()
    except (Exception, SystemExit) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise PluginError(f"{what} can't be imported: {reason}", details=_traceback(problem)) from problem
    finally:
        _loading.reset(token)


def _traceback(problem: BaseException) -> str:
    """The traceback from the plug-in's own code on."""
    at = problem.__traceback__
    while at is not None and (
        at.tb_frame.f_code.co_filename == __file__ or "importlib" in at.tb_frame.f_code.co_filename
    ):
        at = at.tb_next
    return "".join(traceback.format_exception(type(problem), problem, at))
