"""Files are whole or absent; paths, digests and JSON behave."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import (
    append_jsonl,
    cache_folder,
    digest,
    digest_of,
    digest_of_file,
    read_json,
    write_atomically,
    write_json,
)
from evertune.utils.temporary_files import sweep, temporary_name


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*x.json: No space left"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", [float("nan")])
    assert not (tmp_path / "x.json").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create the folder .*file/below"):
        write_atomically(tmp_path / "file" / "below" / "x", "")


def test_digests_tell_parts_apart():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_a_changed_file_has_another_digest(tmp_path):
    path = tmp_path / "x"
    path.write_text("one")
    first = digest_of_file(path)
    path.write_text("three")
    assert digest_of_file(path) != first


def test_read_json_names_file_and_line(tmp_path):
    with pytest.raises(RunFolderError, match="none.json is missing"):
        read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{\n"a": \n')
    with pytest.raises(RunFolderError, match=r"x.json line 3 is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", "/a")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("EVERTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/evertune")


def test_a_line_that_was_cut_short_is_taken_away(tmp_path):
    log = tmp_path / "ledger.jsonl"
    append_jsonl(log, {"a": 1})
    with log.open("a") as stream:
        stream.write('{"b": ' + "2" * 100_000)
    append_jsonl(log, {"c": 3})
    assert log.read_text() == '{"a": 1}\n{"c": 3}\n'
    log.write_text('{"a"')
    append_jsonl(log, {"c": 3})
    assert log.read_text() == '{"c": 3}\n'


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_line_is_appended_whole_or_not_at_all(tmp_path, monkeypatch, error):
    log, real = tmp_path / "ledger.jsonl", os.write
    append_jsonl(log, {"a": 1})

    def part(handle, data):
        if len(data) < 10:
            raise OSError(error, os.strerror(error))
        return real(handle, data[:5])

    monkeypatch.setattr(os, "write", part)
    with pytest.raises(UserError, match="cannot write"):
        append_jsonl(log, {"b": "something long"})
    assert log.read_text() == '{"a": 1}\n'


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:3]))
    write_atomically(tmp_path / "x", "all of it")
    assert (tmp_path / "x").read_text() == "all of it"


def test_what_a_killed_process_left_is_swept(tmp_path):
    for name in (".hidden", ".cache-12", "x.json", ".x.json.12-3456"):
        (tmp_path / name).write_text("")
    left = [temporary_name(tmp_path / "x.json"), temporary_name(tmp_path / "folder")]
    left[0].write_text("")
    left[1].mkdir()
    (left[1] / "inside").write_text("")
    assert sorted(sweep(tmp_path)) == sorted(left)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".cache-12", ".hidden", ".x.json.12-3456", "x.json"]
