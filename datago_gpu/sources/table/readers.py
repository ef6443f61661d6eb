"""Opens tables: Parquet by row groups; Arrow IPC as mapped memory; JSON lines and CSV as a whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datago_gpu.errors import SourceError
from datago_gpu.sources.local import Patience
from datago_gpu.sources.table.located import Located
from datago_gpu.sources.table.settled import WholeTable, settle
from datago_gpu.sources.table.texts import read_csv, read_jsonl
from datago_gpu.units import MiB

# The parts of pyarrow are imported where they are used: all together take 0.2 s.

__all__ = ["ParquetTable", "open_table"]

_BATCH_BYTES, _MOST_BATCH_ROWS = 8 * MiB, 4096
_PAGE_BY_PAGE: dict[str, Any] = {"buffer_size": MiB, "pre_buffer": False}
"""Without these, pyarrow reads a row group as a whole."""


class ParquetTable:
    """A Parquet file. Keeps nothing open: a data set may have thousands of files.

    schema: its columns. counts: rows of each row group. sizes: bytes of each row group, decompressed.
    """

    in_any_order = False

    def __init__(self, file: Located) -> None:
        import pyarrow.parquet as pq

        self._file, self._version = file, _version(file)
        with pq.ParquetFile(file.open()) as opened:
            self._metadata = opened.metadata
            self.schema = opened.schema_arrow
        groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
        self.counts = [group.num_rows for group in groups]
        self.sizes = [group.total_byte_size for group in groups]

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a row group, some at a time. Columns that the table lacks are left out.

        Raises OSError if another file is there now, whose rows would be others. Reads page by page, since a row group
        may take gigabytes.
        """
        import pyarrow.parquet as pq

        rows = max(1, min(_MOST_BATCH_ROWS, _BATCH_BYTES * self.counts[group] // max(1, self.sizes[group])))
        known = [name for name in columns if name in self.schema.names]
        with pq.ParquetFile(self._file.open(), metadata=self._metadata, **_PAGE_BY_PAGE) as opened:
            self._check_version()
            if not known:
                yield from _without_columns(self.counts[group], rows)
                return
            for batch in opened.iter_batches(rows, [group], known, use_threads=False):
                self._check_version()
                yield batch

    def _check_version(self) -> None:
        if _version(self._file) != self._version:
            raise OSError(errno.EINVAL, "the file was replaced while it was read", self._file.shown)

    def groups_for(self, expression: pc.Expression, wanted: pa.Schema) -> list[int]:
        """Returns the groups that may hold rows which pass a filter, by their statistics.

        wanted: the columns of the filter, with the types that it was made for. Tables of other types are not judged.
        """
        if any(name not in self.schema.names or self.schema.field(name).type != type_
               for name, type_ in zip(wanted.names, wanted.types, strict=True)):  # fmt: skip
            return list(range(len(self.counts)))
        import pyarrow.dataset as ds
        from pyarrow import fs

        given = self._file.open()
        where = fs.LocalFileSystem() if isinstance(given, str) else None
        fragment = ds.ParquetFileFormat().make_fragment(given, where)
        parts = fragment.split_by_row_group(expression, schema=self.schema)
        return sorted({group.id for part in parts for group in part.row_groups})


def _version(file: Located) -> tuple[int, int] | None:
    """Returns what changes if a local file is replaced. None for a remote one, where each request is checked."""
    if file.opener is not None:
        return None
    status = os.stat(file.address)
    return status.st_size, status.st_mtime_ns


def _without_columns(count: int, rows: int) -> Iterator[pa.RecordBatch]:
    for begin in range(0, count, rows):
        length = min(rows, count - begin)
        yield pa.RecordBatch.from_struct_array(pa.array([{}] * length, pa.struct([])))


def open_table(file: Located, texts: Sequence[str], patience: Patience) -> ParquetTable | WholeTable:
    """Opens a table. texts: columns of CSV that stay texts, whatever they look like. Raises SourceError."""
    try:
        if file.ending == ".parquet":
            return patience(lambda: ParquetTable(file))
        return patience(lambda: _READERS[file.ending](file, texts))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    raise SourceError(f"cannot read the table {file.shown}: {words[:300] or 'it is damaged'}; check source_config.path")


def _arrow(file: Located, _: Sequence[str]) -> WholeTable:
    """Reads Arrow IPC: a file, or a stream, as Hugging Face datasets keep them."""
    mapped = pa.memory_map(file.open())
    whole = mapped.read_buffer()
    mapped.seek(0)
    try:
        reader = pa.ipc.open_file(mapped)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    except pa.ArrowInvalid:
        mapped.seek(0)
        reader = pa.ipc.open_stream(mapped)
        batches = iter(reader)
    first = next(batches, None)
    if first is None:
        return WholeTable(reader.schema, [])
    if _lies_in(first, whole):
        return WholeTable(reader.schema, [first, *batches])
    return settle(reader.schema, chain([first], batches))  # compressed: a row cannot be read alone


def _lies_in(batch: pa.RecordBatch, whole: pa.Buffer) -> bool:
    """Returns whether the values of a batch lie in the mapped file itself."""
    begin, end = whole.address, whole.address + whole.size
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None and buffer.size]
    return all(begin <= buffer.address < end for buffer in buffers)


_READERS: dict[str, Callable[[Located, Sequence[str]], WholeTable]] = {
    ".arrow": _arrow,
    ".feather": _arrow,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": partial(read_csv, separator=","),
    ".tsv": partial(read_csv, separator="\t"),
}
