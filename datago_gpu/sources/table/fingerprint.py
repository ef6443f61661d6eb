"""Identifies the content of a table without reading all of a large one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from datago_gpu.sources.table.located import Located
from datago_gpu.units import MiB

__all__ = ["SMALL", "fingerprint"]

SMALL = 64 * MiB
"""Tables of at most this size, all together, are read as a whole."""
_BLOCK, _BLOCKS = 4096, 64
_FOOTER = 8
"""The bytes at the end of a Parquet file: the length of its footer, and "PAR1"."""


def fingerprint(table: Located, *, whole: bool) -> bytes:
    """Returns a digest of a table: with `whole`, of its whole content. Otherwise of a Parquet file's footer, which has
    the sizes and bounds of all columns, and of 64 places of other files. Raises OSError."""
    digest = blake2b(digest_size=16)
    given = table.open()
    with open(given, "rb", buffering=0) if isinstance(given, str) else given as file:
        size = file.seek(0, io.SEEK_END)
        digest.update(str(size).encode())
        for begin, end in _ranges(file, size, table.ending, whole=whole):
            file.seek(begin)
            while begin < end and (block := file.read(min(MiB, end - begin))):
                digest.update(block)
                begin += len(block)
    return digest.digest()


def _ranges(file: Any, size: int, ending: str, *, whole: bool) -> Iterator[tuple[int, int]]:
    if whole:
        yield 0, size
    elif ending == ".parquet":
        file.seek(max(0, size - _FOOTER))
        length = int.from_bytes(file.read(4), "little")
        yield max(0, size - _FOOTER - length), size
    else:
        for number in range(_BLOCKS):
            begin = (size - _BLOCK) * number // (_BLOCKS - 1)
            yield begin, begin + _BLOCK
