"""Knows the rows of earlier runs: those of an interrupted one, which are kept, and those of an earlier index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datago_gpu.errors import ConfigError
from datago_gpu.index.arrow_rows import rows_of
from datago_gpu.index.journal import has_root
from datago_gpu.sources.index_form import IndexRow, arrow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["KnownRows", "Replay"]

Key = Callable[[IndexRow], str]


class Replay:
    """Goes through the rows of an interrupted run, one unit after the other."""

    def __init__(self, rows: Iterator[tuple[int, IndexRow]], key: Key) -> None:
        """rows: the number of the unit, and the row."""
        self._rows, self._key = rows, key
        self._next = next(rows, None)
        self.taken = 0
        """The number of rows that were taken."""

    @property
    def is_at_end(self) -> bool:
        return self._next is None

    def take(self, key: str) -> bool:
        """Takes the rows of the next unit if it has this key. Returns whether it has."""
        if self._next is None or self._key(self._next[1]) != key:
            return False
        unit = self._next[0]
        while self._next is not None and self._next[0] == unit:
            self._next = next(self._rows, None)
            self.taken += 1
        return True


class KnownRows:
    """Finds the rows of a unit in an earlier index. Fast for units in the order of that index; the others cost 16 bytes
    of memory for each of its rows.

    Raises ConfigError if the file is no index of the same source.
    """

    def __init__(self, path: Path, schema: pa.Schema, key: Key) -> None:
        pa = arrow()
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except (OSError, pa.ArrowInvalid):
            raise ConfigError(f"{str(path)!r} is no index: remove the file, or choose another --out") from None
        self._key = key
        self._batches = self._file.num_record_batches if has_root(path, self._file.schema, schema) else 0
        counts = [self._file.get_batch(number).num_rows for number in range(self._batches)]
        self._begins = np.cumsum([0, *counts])
        self._loaded, self._rows = -1, list[IndexRow]()
        self._at = 0
        """The row that is expected next."""

    def take(self, key: str) -> list[IndexRow]:
        """Returns the rows of a unit; none if the index has none."""
        if self._at < len(self) and self._key_at(self._at) == key:
            return self._group(self._at, key)
        for at in self._candidates(key):
            if self._key_at(at) == key:
                return self._group(at, key)
        return []

    def __len__(self) -> int:
        return int(self._begins[-1])

    def _group(self, at: int, key: str) -> list[IndexRow]:
        """Returns the rows from `at` on with this key, up to their repetition: a shard may be listed twice."""
        first = self._row(at)
        found, at = [first], at + 1
        while at < len(self) and self._key_at(at) == key:
            row = self._row(at)
            if (row.id, row.offset) == (first.id, first.offset):
                break
            found.append(row)
            at += 1
        self._at = at
        return found

    def _row(self, at: int) -> IndexRow:
        batch = int(np.searchsorted(self._begins, at, "right")) - 1
        if batch != self._loaded:
            self._loaded, self._rows = batch, list(rows_of(self._file.get_batch(batch)))
        return self._rows[at - int(self._begins[batch])]

    def _key_at(self, at: int) -> str:
        return self._key(self._row(at))

    def _candidates(self, key: str) -> Iterator[int]:
        """Yields the first rows of the units that may have this key, in their order."""
        hashes, places = self._places
        wanted = np.uint64(_hash(key))
        at = int(np.searchsorted(hashes, wanted))
        while at < len(hashes) and hashes[at] == wanted:
            yield int(places[at])
            at += 1

    @cached_property
    def _places(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Returns the hashes of all keys, sorted, and the number of the first row of each."""
        hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        last, at = None, 0
        for number in range(self._batches):
            begun, firsts = [], []
            for row in rows_of(self._file.get_batch(number)):
                key = self._key(row)
                if key != last:
                    begun.append(_hash(key))
                    firsts.append(at)
                last, at = key, at + 1
            hashes.append(np.array(begun, np.uint64))
            places.append(np.array(firsts, np.int64))
        all_hashes = np.concatenate(hashes)
        order = np.argsort(all_hashes, kind="stable")
        return all_hashes[order], np.concatenate(places)[order]


def _hash(key: str) -> int:
    return hash(key) & 0xFFFF_FFFF_FFFF_FFFF
