"""The command about the cache, thin like the others: `cache`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import JsonOption, make_console, print_json
from evertune.utils.errors import UserError, unknown

if TYPE_CHECKING:
    from evertune.utils.cache_files import Entry

KindOption = Annotated[
    str | None,
    typer.Option("--kind", metavar="A[,B]", help="Only these [default: all; to prune: features,trained,answers]."),
]


def cache(
    prune: Annotated[bool, typer.Option("--prune", help="Remove the least recently used.")] = False,
    kind: KindOption = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="SIZE", help="With --prune: bytes that stay [default: 100GB].")
    ] = None,
    unused_for: Annotated[
        float | None, typer.Option("--unused-for", metavar="DAYS", min=0, help="With --prune: remove what is older.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cache by kind, size and last use, or prune it. The least recently used is removed first."""
    from evertune.utils import cache_files
    from evertune.utils.files import cache_folder

    if not prune and (limit is not None or unused_for is not None):
        raise UserError("--limit and --unused-for say what --prune removes: give --prune too")
    kinds = _kinds(kind, default=cache_files.REMADE if prune else tuple(cache_files.KINDS))
    found = cache_files.entries(cache_folder(), kinds)
    if not prune:
        _show({name: [entry for entry in found if entry.kind == name] for name in kinds}, as_json=as_json)
        return
    most = _bytes(limit) if limit is not None else None if unused_for is not None else cache_files.MOST
    gone = cache_files.prune(found, most=most, unused_for=86_400.0 * (unused_for or 0.0))
    _show_pruned(gone, left=sum(entry.size for entry in found) - sum(entry.size for entry in gone), as_json=as_json)


def _kinds(text: str | None, *, default: tuple[str, ...]) -> tuple[str, ...]:
    from evertune.utils.cache_files import KINDS

    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(","))) if text else default
    for name in wanted:
        if name not in KINDS:
            raise unknown("kind of cache", name, KINDS)
    return wanted


def _bytes(text: str) -> int:
    from evertune.utils.sizes import bytes_of

    try:
        return bytes_of(text)
    except ValueError as problem:
        raise UserError(f"--limit: {problem}") from problem


def _show(found: dict[str, list[Entry]], *, as_json: bool) -> None:
    from evertune.cli.printing import show_value
    from evertune.reporting.blocks import BlockTable
    from evertune.utils.cache_files import KINDS
    from evertune.utils.files import cache_folder
    from evertune.utils.sizes import size

    if as_json:
        kinds = {kind: _facts(entries) for kind, entries in found.items()}
        print_json({"folder": str(cache_folder()), "kinds": kinds})
        return
    rows = []
    for kind, entries in found.items():
        facts = _facts(entries)
        ages = [_age(facts[name]) for name in ("oldest_use", "newest_use")]
        rows.append((kind, f"{facts['entries']:,}", size(facts["bytes"]), *ages, KINDS[kind][1]))
    whole = [entry for entries in found.values() for entry in entries]
    total = ("total", f"{len(whole):,}", size(sum(entry.size for entry in whole)), "", "", "")
    console = make_console()
    show_value(console, "cache", cache_folder())
    console.print()
    header = ("kind", "entries", "size", "longest unused", "last used", "what")
    console.print(BlockTable(header, rows, texts=1, total=total if len(rows) > 1 else None))


def _facts(entries: list[Entry]) -> dict[str, Any]:
    return {
        "entries": len(entries),
        "bytes": sum(entry.size for entry in entries),
        "oldest_use": entries[0].used if entries else None,
        "newest_use": entries[-1].used if entries else None,
    }


def _age(used: float | None) -> str:
    if used is None:
        return "-"
    days = max(0.0, time.time() - used) / 86_400
    if days >= 2:
        return f"{days:.0f} days"
    return f"{24 * days:.0f} h" if days >= 2 / 24 else f"{24 * 60 * days:.0f} min"


def _show_pruned(gone: list[Entry], *, left: int, as_json: bool) -> None:
    from evertune.cli.printing import show_text
    from evertune.utils.sizes import size

    freed = sum(entry.size for entry in gone)
    if as_json:
        print_json({"removed": len(gone), "freed_bytes": freed, "left_bytes": left})
        return
    entries = f"{len(gone):,} entr{'y' if len(gone) == 1 else 'ies'}"
    show_text(make_console(), f"removed {entries}, {size(freed)}; {size(left)} left")
