"""Untrusted Parquet and Arrow files: decoded in a process with limited memory (`arrow_process`) and bounded in size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evertune.data import arrow_process
from evertune.data.arrow_records import Convert, arrow_records
from evertune.utils.regular_files import most_from, open_regular

MEMORY = 4 << 30
"""Bytes that the process may take; a page of a sound file has up to 1 GiB, and is there packed and unpacked."""
MAGIC = b"PAR1"


class ArrowFileError(ValueError):
    """A Parquet or Arrow file that can't be read, or not within the limits."""


class Parquet:
    """A Parquet file that is being unpacked; `schema` has the names, types and metadata of its columns."""

    def __init__(self, place: Path, stream: Any, process: subprocess.Popen[bytes]) -> None:
        self.schema = stream.schema
        self._place, self._stream, self._process = place, stream, process

    def records(self, convert: Mapping[str, Convert]) -> Iterator[Mapping[str, Any]]:
        """The rows, once (`arrow_records`).

        Raises:
            ArrowFileError: the file is damaged, or a row is too large.
            DataError: it unpacks to more than is taken from a file of its size.
        """
        return arrow_records(self._batches(), place=self._place, most=most_from([self._place]), convert=convert)

    def _batches(self) -> Iterator[Any]:
        from pyarrow import ArrowException

        try:
            yield from self._stream
        except (ArrowException, OSError) as problem:  # it ended within a batch
            _finish(self._process)
            raise ArrowFileError(str(problem)) from problem
        _finish(self._process)  # it may have ended between two batches, too


@contextmanager
def parquet(place: Path) -> Iterator[Parquet]:
    """Unpack a Parquet file in another process.

    Raises:
        ArrowFileError: it is no sound Parquet file.
        OSError: it can't be opened, or is no regular file.
    """
    from pyarrow import ArrowException, ipc

    with open_regular(place) as file:
        begins = file.read(4)
        file.seek(-min(4, os.fstat(file.fileno()).st_size), os.SEEK_END)
        if begins != MAGIC or file.read(4) != MAGIC:
            raise ArrowFileError("it does not begin and end as Parquet does; is it cut off?")
    with _started("parquet", place) as process:
        try:
            stream = ipc.open_stream(process.stdout)
        except (ArrowException, OSError) as problem:
            _finish(process)
            raise ArrowFileError(str(problem)) from problem
        yield Parquet(place, stream, process)


def refuse_unsound(place: Path) -> None:
    """Decode an Arrow file once in the limited process, to check it.

    Raises:
        ArrowFileError: it is damaged, or takes too much memory.
        OSError: it can't be opened.
    """
    open_regular(place).close()
    with _started("check", place) as process:
        _finish(process)


@contextmanager
def _started(action: str, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", arrow_process.__file__, action, str(place.absolute()), str(MEMORY)]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:  # closes the pipes and waits
        try:
            yield process
        finally:
            process.kill()


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process; its last line on stderr is the error message."""
    _, output = process.communicate()
    if process.returncode:
        reason = output.decode(errors="replace").strip().rpartition("\n")[2]
        raise ArrowFileError(reason or f"the process that reads it ended with {process.returncode}")
