"""Keeps the rows of an index that is being made, so that an interrupted run loses nothing.

The journal is an Arrow IPC stream to which record batches are appended. A batch that was only partly written, because
the process was killed or the disk was full, is dropped when the journal is opened again. The finished index is written
beside it from its rows, and takes its name at once when it is complete.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from datago_gpu.errors import ConfigError
from datago_gpu.index.arrow_rows import batch_of, rows_of
from datago_gpu.sources.index_form import CLASSES, FORMAT, ROOT, SOURCE, IndexRow, arrow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Journal", "has_root", "write_index"]

_FORMAT, _SOURCE, _ROOT, _CLASSES = (key.encode() for key in (FORMAT, SOURCE, ROOT, CLASSES))
_UNIT = "unit"
"""A column of the journal only: the number of the unit that a row belongs to."""
_ROWS_A_BATCH = 16_384
"""Rows in a record batch of a finished index: a reader that wants one row decodes no more than needed."""


class Journal:
    """Appends rows to a file, and reads those that an earlier run has appended.

    Raises ConfigError if the file holds rows of another source, or something else, or cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        pa = arrow()
        self.path, self.schema, self._schema = path, schema, schema.append(pa.field(_UNIT, pa.int64()))
        self.rows = self._units = 0
        """Rows and units in the file."""
        self._ends: list[tuple[int, int]] = []
        """The rows and the bytes up to the end of each batch."""
        self._head = self._schema.serialize().to_pybytes()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}") from None
        try:
            self._lock()
            self._recover()
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Closes the file, and deletes it if it has no rows. May be called twice."""
        if self._file >= 0:
            if not self.rows:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def append(self, units: Sequence[Sequence[IndexRow]]) -> None:
        """Writes the rows of some units. Raises ConfigError if that fails; the file still holds all earlier rows."""
        pa = arrow()
        rows = [row for unit in units for row in unit]
        assert rows, "each unit has a row"
        numbers = [number for number, unit in enumerate(units, self._units) for _ in unit]
        batch = batch_of(rows, self.schema)
        whole = pa.record_batch([*batch.columns, pa.array(numbers, pa.int64())], schema=self._schema)
        self._write(whole.serialize())
        self._units += len(units)
        self._note(len(rows))

    def read(self) -> Iterator[pa.RecordBatch]:
        """Yields the rows that are in the file now."""
        for batch in self._read():
            yield batch.remove_column(batch.num_columns - 1)

    def units(self) -> Iterator[tuple[int, IndexRow]]:
        """Yields the same rows, each with the number of its unit."""
        for batch in self._read():
            numbers = batch.column(_UNIT).to_pylist()
            yield from zip(numbers, rows_of(batch.remove_column(batch.num_columns - 1)), strict=True)

    def _read(self) -> Iterator[pa.RecordBatch]:
        pa, count = arrow(), len(self._ends)
        with pa.OSFile(str(self.path), "rb") as source:
            pa.ipc.read_message(source)  # the schema
            for _ in range(count):
                yield pa.ipc.read_record_batch(pa.ipc.read_message(source), self._schema)

    def cut(self, rows: int) -> None:
        """Removes all rows behind the first `rows`. A batch of which a part stays is written anew."""
        kept = [end for end in self._ends if end[0] <= rows]
        more = rows - (kept[-1][0] if kept else 0)
        batch = None
        if more:
            batch = next(each for number, each in enumerate(self._read()) if number == len(kept)).slice(0, more)
        self._ends = kept
        self._truncate()
        if batch is not None:
            self._write(batch.serialize())
            self._note(more)

    def remove(self) -> None:
        """Deletes the file."""
        self.path.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Raises ConfigError if another process has the file open."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is making this index: it writes {str(self.path)!r}") from None
        except OSError:
            pass  # some network file systems have no locks

    def _recover(self) -> None:
        """Finds the complete batches, and removes what follows them."""
        begun = os.pread(self._file, len(self._head), 0)
        if begun != self._head and self._head[: len(begun)] == begun:  # new, or its beginning is incomplete
            self._start()
            return
        pa = arrow()
        with pa.OSFile(str(self.path), "rb") as source:
            found = _schema_of(self.path, source)
            if not (has_root(self.path, found, self._schema) and _has_classes(found, self._schema)):
                self._start()
                return
            with suppress(EOFError, OSError, pa.ArrowInvalid):  # the rest of a batch that was not written to its end
                while True:
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), self._schema)
                    batch.validate(full=True)
                    self.rows += batch.num_rows
                    self._units = batch.column(_UNIT)[-1].as_py() + 1
                    self._ends.append((self.rows, source.tell()))
        self._truncate()

    def _start(self) -> None:
        """Makes the file one without rows."""
        os.ftruncate(self._file, 0)
        self._write(self._head)

    def _truncate(self) -> None:
        self.rows, end = self._ends[-1] if self._ends else (0, len(self._head))
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)

    def _note(self, rows: int) -> None:
        self.rows += rows
        self._ends.append((self.rows, os.lseek(self._file, 0, os.SEEK_CUR)))

    def _write(self, buffer: Any) -> None:
        view = memoryview(buffer)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise ConfigError(
                f"cannot write {str(self.path)!r}: {error.strerror}; it keeps {self.rows} rows, and the same command "
                "goes on from there"
            ) from None


def write_index(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    """Writes a finished index with the rows of these batches: complete, or not at all. Raises ConfigError."""
    pa = arrow()
    unfinished = path.with_name(f"{path.name}.new")
    try:
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in _rebatch(batches):
                writer.write_batch(batch)
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def _rebatch(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the same rows in batches of one size, so that a finished index does not depend on interruptions."""
    pa = arrow()
    held: list[Any] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= _ROWS_A_BATCH:
            whole = pa.concat_batches(held)
            yield whole.slice(0, _ROWS_A_BATCH)
            held, count = [whole.slice(_ROWS_A_BATCH)], count - _ROWS_A_BATCH
    if count:
        yield pa.concat_batches(held)


def _schema_of(path: Path, source: Any) -> pa.Schema:
    """Reads the schema at the beginning of an opened journal. Raises ConfigError if the file is no journal."""
    pa = arrow()
    try:
        return pa.ipc.read_schema(source)
    except (OSError, pa.ArrowInvalid):
        raise ConfigError(f"{str(path)!r} is no part of an index: remove the file, or choose another --out") from None


def _has_classes(found: pa.Schema, schema: pa.Schema) -> bool:
    """Returns whether the labels in a file are those of the same classes."""
    return bool((found.metadata or {}).get(_CLASSES) == schema.metadata.get(_CLASSES))


def has_root(path: Path, found: pa.Schema, schema: pa.Schema) -> bool:
    """Returns whether the paths in a file begin in the same folder. Its rows are of no use otherwise.

    Raises ConfigError unless the file's schema is that of an index of the same source.
    """
    was, now = found.metadata or {}, schema.metadata
    if was.get(_FORMAT) != now[_FORMAT] or not found.equals(schema):
        raise ConfigError(f"{str(path)!r} is no index of this version: remove the file, or choose another --out")
    if was.get(_SOURCE) != now[_SOURCE]:
        raise ConfigError(
            f"{str(path)!r} is an index of another source, or of other settings of the source "
            f"({_differences(was.get(_SOURCE, b''), now[_SOURCE])}): remove the file, or choose another --out"
        )
    return bool(was.get(_ROOT) == now[_ROOT])


def _differences(before: bytes, after: bytes) -> str:
    """Says which settings of a source differ, as `captions was '', is 'txt'`; all of them if it is of another type."""
    whole = f"was {before.decode('utf-8', 'replace')}, is {after.decode()}"
    try:
        was, now = msgspec.json.decode(before), msgspec.json.decode(after)
        old, new = was["source_config"], now["source_config"]
        if was["source_type"] != now["source_type"]:
            return whole
    except (msgspec.DecodeError, LookupError, TypeError):
        return whole
    names = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)
