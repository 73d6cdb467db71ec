"""Unpacks a Parquet file in a process of its own, whose memory is limited: a few hundred bytes may unpack to 40 GB.

    python -P arrow_process.py parquet FILE MEMORY    batches of rows on stdout, as an Arrow stream
    python -P arrow_process.py check FILE MEMORY      whether an Arrow file is sound: nothing on stdout

An error is one line on stderr. Imports nothing of evertune, so that it starts in 0.3 s.
"""

from __future__ import annotations

import sys
from typing import Any

AT_ONCE, FEW_AT_ONCE = 1024, 32
"""Rows that are decoded together; few where they may hold images."""
PIECE = 64 << 20
"""Bytes of rows that are sent together."""
MOST_ROW = 512 << 20
"""Bytes of one row."""
MOST_COLUMNS = 16_384
"""As many as a spreadsheet has; a file of a few MB may name a million."""


def main() -> None:
    """Do what the command line says."""
    action, path, memory = sys.argv[1:]
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    except (ImportError, ValueError, OSError):  # no such limit on this system, or a lower one is set already
        pass
    try:
        (send if action == "parquet" else check)(path)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has closed the pipe
    except MemoryError:
        sys.exit(f"it takes more than {int(memory) >> 20} MiB of memory to unpack")
    except Exception as problem:  # pyarrow, its codecs and Python's own: the reader makes one error of all
        sys.exit(str(problem)[:2000] or type(problem).__name__)


def send(path: str) -> None:
    """Write the rows of a Parquet file to stdout."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, buffer_size=1 << 20) as table:
        _refuse_wide(table.metadata.num_columns)
        schema = pa.schema([field.with_type(_plain(field.type)) for field in table.schema_arrow])
        schema = schema.with_metadata(table.schema_arrow.metadata)
        small = all(pa.types.is_primitive(one) or pa.types.is_string(one) for one in schema.types)
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as out:
            done = 0
            for batch in table.iter_batches(batch_size=AT_ONCE if small else FEW_AT_ONCE, use_threads=False):
                columns = [
                    column if column.type == kind else column.cast(kind)
                    for column, kind in zip(batch.columns, schema.types, strict=True)
                ]
                _send(out, pa.RecordBatch.from_arrays(columns, schema=schema), first=done + 1)
                done += batch.num_rows


def _refuse_wide(columns: int) -> None:
    if columns > MOST_COLUMNS:
        sys.exit(f"{columns:,} columns; at most {MOST_COLUMNS:,} are read")


def _plain(kind: Any) -> Any:
    """The type without dictionary and run-end encodings, so that the sent bytes are as long as the decoded values."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return (pa.list_ if types.is_list(kind) else pa.large_list)(_plain(kind.value_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if types.is_struct(kind):
        return pa.struct([(one.name, _plain(one.type)) for one in kind])
    if types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    views = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}
    return views.get(str(kind), kind)


def _send(out: Any, batch: Any, *, first: int) -> None:
    """Split into chunks, so that the reader's memory is bounded too."""
    if batch.nbytes > PIECE and batch.num_rows > 1:
        half = batch.num_rows // 2
        _send(out, batch.slice(0, half), first=first)
        _send(out, batch.slice(half), first=first + half)
    elif batch.nbytes > MOST_ROW:
        sys.exit(f"row {first} has {batch.nbytes >> 20} MiB; at most {MOST_ROW >> 20} are read")
    else:
        out.write_batch(batch)


def check(path: str) -> None:
    """Look at every batch of an Arrow file: compressed ones are unpacked here first, and offsets are compared."""
    import pyarrow as pa

    with pa.memory_map(path) as content:
        try:
            reader = pa.ipc.open_stream(content)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(content)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        _refuse_wide(len(reader.schema.names))
        types = [kind for kind in reader.schema.types if any(word in str(kind) for word in ("_view", "run_end"))]
        if types:  # a few bytes may name the same content a thousand times; no library of the field writes them
            sys.exit(f"a column of the type {types[0]} is not read")
        kept = []  # the library keeps all batches: together they must fit
        for batch in batches:
            batch.validate(full=True)
            kept.append(batch)


if __name__ == "__main__":
    main()
