"""The rows of all tables that the settings name, as `Rows`."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from datago_gpu.config import LoaderConfig, TableSource
from datago_gpu.config.settings import RankSplit
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.class_labels import ClassLabels
from datago_gpu.sources.local import Patience
from datago_gpu.sources.order import RankShare
from datago_gpu.sources.reference import ListingDigest, Refs, SampleRef, Skipped
from datago_gpu.sources.rows import Numbers
from datago_gpu.sources.table.access import Access, AnyOrder, Forward, Origins
from datago_gpu.sources.table.class_column import class_names
from datago_gpu.sources.table.columns import Roles
from datago_gpu.sources.table.orders import block_rows, rows_in_groups
from datago_gpu.sources.table.samples import Origin, SampleMaker
from datago_gpu.sources.table.settled import settle
from datago_gpu.sources.table.soundness import is_damage, words_of
from datago_gpu.sources.table.tables import Tables
from datago_gpu.units import MiB

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TableRows"]

log = logging.getLogger("datago_gpu")

_AT_ONCE, _BYTES_AT_ONCE = 1024, 8 * MiB
"""At most so many rows are read together, and fewer if they would take more than these bytes."""
_ROOM = 1.2
"""Rows are copied to a folder if it has so many times the room that the rows take."""


class TableRows:
    """The rows of tables that pass the filter, in the order of the tables. See `Rows`."""

    def __init__(self, config: LoaderConfig, tables: Tables, roles: Roles, origins: list[Origin], digest: str) -> None:
        source = config.source_config
        assert isinstance(source, TableSource)
        self._tables, self._roles, self._origins = tables, roles, origins
        self.classes = class_names(source, tables, roles)
        """The names of the classes, in the order of their labels; none if the labels are only numbers."""
        labels = ClassLabels(self.classes, asked=source.has_labels)
        self._maker = SampleMaker(roles, labels, config.http_config.max_payload_mb * MiB)
        self._chosen = tables.passing(source.filter) if source.filter.strip() else None
        self._passing = self._passing_rows(source.where) if source.where.strip() else None
        starts = np.cumsum([0, *(group.rows for group in tables.groups)], dtype=np.int64)
        self._bounds = starts if self._chosen is None else np.searchsorted(self._chosen, starts)
        self._group_bytes = np.array([group.bytes for group in tables.groups], np.int64)
        self.listed = ListingDigest(len(self), digest, whole=True)
        self.in_groups = roles.holds_bytes and not tables.in_any_order
        """Whether rows have to be read group by group."""
        self._columns = roles.read
        self._patience = Patience(config.http_config)
        self._lock = threading.Lock()
        self._sizes: NDArray[np.int32] | None = None
        self._forward: Access | None = None
        self._any_order: Access | None = self._as_they_are() if tables.in_any_order else None

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def sizes(self) -> NDArray[np.int32] | None:
        """See `Rows.sizes`. Of remote tables, the first call must be on a thread that the loop does not run on."""
        roles = self._roles
        if self._sizes is None and roles.height and roles.width:
            sizes = self._tables.sizes(roles.height, roles.width)
            self._sizes = sizes if self._chosen is None else sizes[self._chosen]
        return self._sizes

    def passing(self) -> NDArray[np.bool_] | None:
        """See `Rows.passing`."""
        return self._passing

    def _passing_rows(self, text: str) -> NDArray[np.bool_]:
        from datago_gpu.sources.table.where_rows import passing_rows  # most tables have no `where`

        passing = passing_rows(self._tables, text, is_index=self._roles.is_index)
        return passing if self._chosen is None else passing[self._chosen]

    def block_rows(self, wanted: int) -> int:
        """Returns how many rows are mixed with each other in a shuffle: see `orders`."""
        return block_rows(self._bounds, self._group_bytes, wanted)

    def in_own_order(self, share: RankShare, seed: int, epoch: int, block: int, split: RankSplit) -> NDArray[np.int64]:
        """Returns the numbers of a rank's rows in the order in which row groups are read. block: 0 for no shuffle."""
        return rows_in_groups(self._bounds, share, seed, epoch, block=block, split=split)

    async def read(self, numbers: Numbers) -> Refs:
        """See `Rows.read`."""
        each_once = self._any_order is not None or await call_in_thread(None, _ascends, numbers)
        # Otherwise row groups may be read again for the next rows, so that more rows are read together.
        at_once = self._rows_at_once() if each_once else self.block_rows(_AT_ONCE)
        async with aclosing(self._read(numbers, at_once, at_once, forward=each_once)) as samples:
            async for sample in samples:
                yield sample

    async def read_blocks(self, numbers: NDArray[np.int64], first: int, block: int) -> Refs:
        """Yields the samples of these rows in their order, which is that of `in_own_order`.

        first, block: rows of the first block, and of the others. Rows of a block are read together. 0 for no blocks.
        """
        async with aclosing(self._read(numbers, first, block, forward=True)) as samples:
            async for sample in samples:
                yield sample

    async def _read(self, numbers: Numbers, first: int, at_once: int, *, forward: bool) -> Refs:
        at_once = at_once or self._rows_at_once()
        done, count = 0, first or at_once
        while done < len(numbers):
            some = np.asarray(numbers[done : done + count], np.int64)
            samples = await call_in_thread(None, self._samples, some, forward)
            done, count = done + count, at_once
            samples.reverse()
            while samples:  # so that each payload is freed once it is used
                yield samples.pop()

    def _rows_at_once(self) -> int:
        mean: int = max(1, int(self._group_bytes.sum()) // max(1, sum(group.rows for group in self._tables.groups)))
        return max(1, min(_AT_ONCE, _BYTES_AT_ONCE // mean))

    def _samples(self, numbers: NDArray[np.int64], forward: bool) -> list[SampleRef | Skipped]:
        rows = numbers if self._chosen is None else self._chosen[numbers]
        with self._lock:  # cursors move
            try:
                taken, places = self._patience(lambda: self._access(forward).take(rows))
            except OSError as error:
                words = f"{error.filename or 'a table'}: {error.strerror or error}"
                raise SourceError(f"cannot read the rows any more: {words}") from error
            except pa.ArrowException as error:  # of mapped files whose content has changed
                raise SourceError(
                    f"cannot read the rows any more: a table was changed during the run ({words_of(error)})"
                ) from error
        samples: list[SampleRef | Skipped] = []
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            origin = self._origins[taken.origins[place]]
            if taken.problems[place]:
                name, why = f"{origin.label}{number}", taken.problems[place]
                samples.append(Skipped(number, name, origin.address, "bad-rows", why))
                continue
            row = {name: values[place] for name, values in taken.columns.items()}
            samples.append(self._maker.make(row, number, origin))
        return samples

    def _access(self, forward: bool) -> Access:
        """Returns what reads rows best, in their order or in any other. For the latter, rows are copied once."""
        if self._any_order:
            return self._any_order
        if not forward and self._has_room():
            self._any_order, self._forward = self._copied(), None
            return self._any_order
        self._forward = self._forward or Forward(self._tables.groups, self._columns)
        return self._forward

    def _has_room(self) -> bool:
        """Returns whether there is room for a copy of all rows: of those without bytes always."""
        if not self.in_groups:
            return True
        folder, needed = tempfile.gettempdir(), int(self._group_bytes.sum() * _ROOM)
        free = shutil.disk_usage(folder).free
        if free > needed:
            log.info("the rows of the table, %d MiB, are copied to %s, to be read in any order", needed // MiB, folder)
            return True
        if self._forward is None:
            log.warning(
                "the table holds bytes, and there is no room in %s for the %d MiB that its rows take (set TMPDIR): row "
                "groups are read again and again, which is slow. Use Arrow files, or a table of paths or addresses",
                folder,
                needed // MiB,
            )
        return False

    def _as_they_are(self) -> AnyOrder:
        """Returns access to tables whose rows can be read in any order as they are."""
        origins: Origins = []
        batches = list(self._batches(origins, None))
        return AnyOrder(batches, origins, self._columns)

    def _copied(self) -> AnyOrder:
        """Returns access to a copy of all rows, in memory or in a temporary file."""
        origins: Origins = []
        schema = pa.schema([self._tables.schema.field(name) for name in self._columns])
        return AnyOrder(settle(schema, self._batches(origins, schema)).rows, origins, self._columns)

    def _batches(self, origins: Origins, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
        """Yields all rows, with nulls for those that cannot be read. origins: is extended for each batch.

        schema: of all batches; None to leave them as they are, unchecked.
        """
        for group in self._tables.groups:
            rows = 0
            try:
                for batch in group.batches(self._columns, check=schema is not None):
                    found = batch.cast(schema, safe=False) if schema else batch
                    origins.append((group.origin, ""))
                    rows += batch.num_rows
                    yield found
            except (pa.ArrowException, OSError) as error:
                if not is_damage(error):
                    raise
                origins.append((group.origin, words_of(error)))
                left = group.rows - rows
                nulls = [pa.nulls(left, schema.field(name).type if schema else None) for name in self._columns]
                yield pa.RecordBatch.from_arrays(nulls, list(self._columns))


def _ascends(numbers: Numbers) -> bool:
    if isinstance(numbers, range):
        return numbers.step > 0
    return bool((np.diff(numbers) >= 0).all())
