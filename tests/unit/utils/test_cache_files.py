"""The cache by kind, size and last use; what is pruned, and what never goes by itself."""

from __future__ import annotations

import json
import os
import time

import pytest
from typer.testing import CliRunner

from evertune.cli.main import app
from evertune.utils.cache_files import DAY, LIMITS, entries, note_use, prune, trim
from evertune.utils.errors import UserError
from evertune.utils.temporary_files import SWEPT, sweep_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Entries of 1,000 bytes each, used 1, 2, 3 ... days ago."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    names = ("features/a/1.safetensors", "features/b/2.safetensors", "trained/3.safetensors", "answers/4.json")
    for age, name in enumerate((*names, "rows/jsonl-5/rows.jsonl", "models/smol-hub/6.bin"), start=1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        aged = path if path.parent.name in ("a", "b", "trained", "answers") else path.parent
        os.utime(aged, (time.time() - age * DAY,) * 2)
    return tmp_path


def names(found):
    return [entry.path.name for entry in found]


def test_entries_are_sorted_by_last_use(cache):
    found = entries(cache)
    assert names(found) == ["smol-hub", "jsonl-5", "4.json", "3.safetensors", "2.safetensors", "1.safetensors"]
    assert {entry.size for entry in found} == {1000}
    note_use(cache / "answers" / "4.json")
    assert names(entries(cache))[-1] == "4.json"
    assert entries(cache / "nowhere") == []


def test_the_least_recently_used_go_until_the_limit(cache):
    assert names(prune(entries(cache, ["features", "trained", "answers"]), most=2000)) == ["4.json", "3.safetensors"]
    assert names(entries(cache)) == ["smol-hub", "jsonl-5", "2.safetensors", "1.safetensors"]


def test_what_was_not_used_for_long_goes(cache):
    assert names(prune(entries(cache), most=None, unused_for=4.5 * DAY)) == ["smol-hub", "jsonl-5"]
    assert not (cache / "rows" / "jsonl-5").exists()


def test_what_can_not_be_removed_counts_on(cache, monkeypatch):
    found = entries(cache, ["trained", "answers"])
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    assert prune(found, most=0) == [] and names(entries(cache, ["trained"])) == ["3.safetensors"]


def test_sweeping_keeps_kinds_below_their_limit_once_a_day(cache, monkeypatch):
    monkeypatch.setitem(LIMITS, "trained", 1500)
    for number, age in (("new", 0.1), ("old", 30.0)):
        path = cache / "trained" / f"{number}.safetensors"
        path.write_bytes(bytes(1000))
        os.utime(path, (time.time() - age * DAY,) * 2)
    sweep_cache(cache)
    assert names(entries(cache, ["trained"])) == ["new.safetensors"]
    assert len(entries(cache, ["features", "rows", "models"])) == 4, "they have no limit of this kind"
    monkeypatch.setitem(LIMITS, "trained", 0)
    trim(cache)
    assert names(entries(cache, ["trained"])) == ["new.safetensors"], "used within a day"
    (cache / "trained" / "new.safetensors").touch()
    assert (cache / SWEPT).exists()


def run(*arguments):
    result = CliRunner().invoke(app, ["cache", *arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_shows_every_kind(cache):
    out = run()
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["features"][1:6] == ["2", "2.0", "kB", "2", "days"]
    assert rows["downloads"][1:5] == ["0", "0", "bytes", "-"]
    assert str(cache) in out and "6.0 kB" in out
    shown = json.loads(run("--json", "--kind", "trained,answers"))
    assert list(shown["kinds"]) == ["trained", "answers"] and shown["kinds"]["answers"]["bytes"] == 1000


def test_the_command_prunes_what_runs_make_again(cache):
    assert "removed 0 entries" in run("--prune")
    assert "removed 3 entries, 3.0 kB; 1.0 kB left" in run("--prune", "--limit", "1kB")
    assert names(entries(cache)) == ["smol-hub", "jsonl-5", "1.safetensors"]
    assert json.loads(run("--prune", "--kind", "models", "--unused-for", "5", "--json"))["removed"] == 1
    assert names(entries(cache)) == ["jsonl-5", "1.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "1GB"], "give --prune too"),
        (["--prune", "--limit", "much"], "--limit: 'much' is no size"),
        (["--kind", "feature"], "features"),
    ],
)
def test_mistakes(cache, arguments, message):
    with pytest.raises(UserError, match=message):
        run(*arguments)
    assert len(entries(cache)) == 6
