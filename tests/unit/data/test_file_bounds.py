"""Small files that unpack to much, and names that are no regular files: bounded, and one clear line."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml

from evertune.data import arrow, reading
from evertune.data.formats import format_of
from evertune.data.images import open_image
from evertune.data.json_lists import items, members
from evertune.data.reading import read_entries
from evertune.data.stream import load_stream, stream_file
from evertune.experiments.grid.cells import read_grid
from evertune.experiments.study.file import read_study
from evertune.metrics.matrix_files import read_matrix
from evertune.tools.rescore.reading import read_rows
from evertune.utils import regular_files
from evertune.utils.config_io import read_yaml
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import cache_folder, digest_of_file
from evertune.utils.regular_files import open_regular, read_regular

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
NAMES = {"image": None, "instruction": "q", "answer": "a"}


@contextmanager
def within(seconds):
    """Fail when the block waits, as it would for a pipe."""

    def late(*_):
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Parquet


def repeated(path, value, times):
    """A Parquet file that holds a value once and names it many times."""
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(times, np.int32)), pa.array([value]))
    table = pa.table({"q": one, "a": pa.DictionaryArray.from_arrays(one.indices, pa.array(["yes"]))})
    pq.write_table(table, path, compression="zstd", store_schema=False, write_statistics=False, row_group_size=times)
    return path


def read(path, **names):
    return format_of("table").rows(path, split="train", **{**NAMES, **names})


@pytest.mark.slow
def test_parquet_that_unpacks_to_40_gb(tmp_path):
    """What pyarrow would write there is counted as it is unpacked."""
    path = repeated(tmp_path / "t.parquet", "x" * (1 << 20), 40_000)
    assert path.stat().st_size < 2000, "pyarrow writes it otherwise now: the attack is another one"
    seen = 0
    with within(120), pytest.raises(DataError, match=r"t.parquet unpacks to more than 1,024 MiB, .* several files"):
        for row in read(path):
            seen += len(row.fields["instruction"])
            assert seen < 2 << 30, "more is unpacked than is taken from a file of this size"


@pytest.mark.slow
def test_images_of_a_parquet_that_unpacks_to_40_gb(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    path = repeated(tmp_path / "t.parquet", b"x" * (1 << 20), 40_000)
    with within(120), pytest.raises(DataError, match=r"unpacks to more than 1,024 MiB"):
        for number, _ in enumerate(read(path, image="q", instruction="a")):
            assert number < 2048


@pytest.mark.slow
def test_one_row_without_end(tmp_path, monkeypatch):
    """A list of seventy million numbers in a few kB: the process that unpacks it has a limit of memory."""
    count = 70_000_000
    column = pa.ListArray.from_arrays([0, count], pa.array(np.zeros(count, np.int64)))
    pq.write_table(pa.table({"q": column, "a": ["yes"]}), tmp_path / "t.parquet", write_statistics=False)
    del column
    assert (tmp_path / "t.parquet").stat().st_size < 1 << 20
    with within(120), pytest.raises(DataError, match=r"can't be read as Parquet: row 1 has 5\d\d MiB; at most 512"):
        list(read(tmp_path / "t.parquet"))
    monkeypatch.setattr(arrow, "MEMORY", 512 << 20)
    with within(120), pytest.raises(DataError, match=r"can't be read as Parquet: .*(memory|malloc)"):
        list(read(tmp_path / "t.parquet"))


@pytest.mark.slow
def test_sound_parquet_is_read_in_any_way(tmp_path):
    """Categories, large rows, several batches: as pyarrow itself reads them."""
    words = pa.array([f"w{n % 3}" for n in range(3000)]).dictionary_encode()
    table = pa.table({"q": words, "a": [str(n) for n in range(3000)], "b": [b"x" * 40_000] * 3000})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [(row.fields["instruction"], *row.answers) for row in read(tmp_path / "t.parquet")] == [
        (f"w{n % 3}", str(n)) for n in range(3000)
    ]
    assert len(list(islice(read(tmp_path / "t.parquet"), 2))) == 2, "the process ends where nobody reads on"


@pytest.mark.slow
def test_a_process_that_dies_is_an_error(tmp_path, monkeypatch):
    """pyarrow has crashed on damaged files before: what it had sent until then is not taken for all."""
    repeated(tmp_path / "t.parquet", "x", 10)
    process = tmp_path / "process.py"
    process.write_text(
        "import os, sys, pyarrow\n"
        "batch = pyarrow.record_batch({'q': ['x'], 'a': ['y']})\n"
        "pyarrow.ipc.new_stream(sys.stdout.buffer, batch.schema).write_batch(batch)\n"
        "sys.stdout.buffer.flush()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setattr(arrow.arrow_process, "__file__", str(process))
    rows = read(tmp_path / "t.parquet", image=None)
    with within(60), pytest.raises(DataError, match="the process that reads it ended with -9"):
        assert next(rows).answers == ("y",) and not next(rows)


# Data sets of the library


def saved(folder, table, *, options=None):
    """A folder as `save_to_disk` writes it, with an Arrow file of our own."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"q": ["x"], "a": ["y"]}).save_to_disk(folder)
    name = json.loads((folder / "state.json").read_text())["_data_files"][0]["filename"]
    with pa.ipc.new_stream(folder / name, table.schema, options=options) as out:
        out.write_table(table)
    return folder


def read_saved(folder):
    return list(format_of("huggingface").rows(folder, split="train", **NAMES))


@pytest.mark.slow
def test_arrow_files_that_unpack_to_much(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "MEMORY", 512 << 20)
    table = pa.table({"q": ["x" * (200 << 20)] * 3, "a": ["y"] * 3})
    folder = saved(tmp_path / "d", table, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1 << 20
    with within(120), pytest.raises(DataError, match=r"can't be opened as a data set \(.*(memory|malloc)"):
        read_saved(folder)


@pytest.mark.slow
def test_arrow_files_that_name_the_same_bytes_often(tmp_path):
    table = pa.table({"q": pa.array(["x" * 100], pa.string_view()), "a": ["y"]})
    with pytest.raises(DataError, match="a column of the type string_view is not read"):
        read_saved(saved(tmp_path / "d", table))
    assert read_saved(saved(tmp_path / "e", pa.table({"q": ["x"], "a": ["y"]})))[0].answers == ("y",)


@pytest.mark.parametrize("what", ["pipe", "large", "outside", "split"])
def test_files_of_a_saved_data_set(tmp_path, what):
    folder = saved(tmp_path / "d", pa.table({"q": ["x"], "a": ["y"]}))
    state = folder / "state.json"
    if what == "outside":
        state.write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    elif what == "split":
        (folder / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    else:
        state.unlink()
        os.mkfifo(state) if what == "pipe" else large(state)
    with (
        within(30),
        pytest.raises(DataError, match=r"can't be opened as a data set \(.*(regular|MiB|not of its folder)"),
    ):
        read_saved(folder)


# What is written


@pytest.mark.slow
def test_what_is_written_of_a_file_is_bounded(tmp_path, monkeypatch):
    """Rows and complaints are counted alike: a line of two bytes makes a complaint of a hundred."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(regular_files, "MOST_OF_NOTHING", 1 << 20)
    monkeypatch.setattr(regular_files, "MOST_PER_BYTE", 1)
    stream = {"name": "s", "tasks": [{"name": "a", "data": "rows.jsonl"}]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(stream))
    (tmp_path / "rows.jsonl").write_text("1\n" * 100_000)
    with pytest.raises(UserError, match=r"rows.jsonl: its rows take more than 1 MiB, the most for files of this size"):
        load_stream(str(tmp_path / "s.yaml"))
    assert not any(cache_folder().rglob("*.jsonl")), "nothing of it stays in the cache"


# Regular files only


def large(path):
    """20 GB that take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(20 << 30)


def zero(path):
    path.symlink_to("/dev/zero")


READERS = {
    "stream": lambda path: stream_file(str(path)),
    "configuration": read_yaml,
    "grid": read_grid,
    "study": lambda path: read_study(str(path)),
    "matrix": read_matrix,
    "rescore": read_rows,
    "jsonl": lambda path: list(read_entries(path)),
    "list": lambda path: list(items(path)),
    "members": lambda path: list(members(path)),
    "image": lambda path: open_image(path, origin="here"),
    "csv": lambda path: list(read(path)),
    "parquet": lambda path: list(read(path)),
}
ENDINGS = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("make", [os.mkfifo, zero, large])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_one_line(tmp_path, reader, make, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_REST", 16 << 20)
    path = tmp_path / f"x{ENDINGS.get(reader, '.yaml')}"
    make(path)
    begun = time.process_time()
    with within(30):
        try:
            found = READERS[reader](path)
        except UserError as problem:
            message = str(problem)
        else:
            raise AssertionError(f"it was read: {found!r:.200}")
    assert "\n" not in message and str(path) in message
    assert make is large or "no regular file" in message
    assert time.process_time() - begun < 10


def test_regular_files(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert read_regular(path, most=3) == b"abc" and open_regular(path).read() == b"abc"
    with pytest.raises(OSError, match="at most 0 are read"):
        read_regular(path, most=2)
    with pytest.raises(OSError, match="at most 0 are read"):
        read_regular(Path("/proc/self/status"), most=2)  # it says that it has none
    with within(10), pytest.raises(OSError, match="no regular file"):
        digest_of_file(Path("/dev/zero"))
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
