"""Tables whose rows can be read in any order: in memory, or in mapped files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from datago_gpu.errors import SourceError
from datago_gpu.sources.table.soundness import damage_of, words_of
from datago_gpu.sources.table.values import plain_type
from datago_gpu.system import descriptor_path
from datago_gpu.units import MiB

__all__ = ["WholeTable", "settle"]

_MOST_IN_MEMORY = 256 * MiB
"""The size of rows above which they are moved to a temporary file, which is mapped."""


class WholeTable:
    """A table whose rows can be read in any order. Each of its groups is one batch."""

    in_any_order = True

    def __init__(self, schema: pa.Schema, batches: list[pa.RecordBatch]) -> None:
        self.schema, self.rows = schema, batches
        self.counts = [batch.num_rows for batch in batches]
        self.sizes = [batch.get_total_buffer_size() for batch in batches]

    def groups_for(self, _expression: pc.Expression, _wanted: pa.Schema) -> list[int]:
        """See `ParquetTable.groups_for`."""
        return list(range(len(self.rows)))

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `ParquetTable.batches`."""
        yield self.rows[group].select([name for name in columns if name in self.schema.names])


def settle(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> WholeTable:
    """Keeps batches for reading in any order: in memory, or from 256 MiB on in a temporary file, which is mapped."""
    plain = pa.schema([field.with_type(plain_type(field.type)) for field in schema], metadata=schema.metadata)
    kept: list[pa.RecordBatch] = []
    held, writer, file = 0, None, None
    with ExitStack() as stack:
        for batch in batches:
            kept.append(_as(plain, batch))
            held += kept[-1].nbytes
            try:
                if writer is None and held > _MOST_IN_MEMORY:
                    file = stack.enter_context(tempfile.TemporaryFile(prefix="datago-table-"))
                    writer = pa.ipc.new_file(file, plain)
                if writer is not None:
                    for each in kept:
                        writer.write_batch(each)
                    kept.clear()
            except OSError as error:
                raise _no_room(error) from error
        if writer is None or file is None:
            return WholeTable(plain, kept)
        try:
            writer.close()
            file.flush()
        except OSError as error:
            raise _no_room(error) from error
        return _mapped(file)


def _as(plain: pa.Schema, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns a batch with these types. Rows of a damaged batch are null."""
    if damage_of(batch):
        return pa.RecordBatch.from_arrays([pa.nulls(batch.num_rows, each.type) for each in plain], schema=plain)
    return batch.cast(plain, safe=False) if batch.schema.types != plain.types else batch


def _no_room(error: OSError) -> SourceError:
    folder, why = tempfile.gettempdir(), error.strerror or words_of(error)
    return SourceError(f"cannot keep the rows of the table in {folder} ({why}): set TMPDIR to a folder with more room")


def _mapped(file: IO[bytes]) -> WholeTable:
    reader = pa.ipc.open_file(pa.memory_map(descriptor_path(file.fileno())))
    return WholeTable(reader.schema, [reader.get_batch(number) for number in range(reader.num_record_batches)])
