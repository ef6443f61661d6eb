"""`SampleInfo`, the record of a sample: all that a source tells the user about it besides its payloads."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any

from msgspec import NODEFAULT, Struct, msgpack, structs

from datago_gpu.sources.attributes import NO_ATTRIBUTES

__all__ = ["SampleInfo", "columns_of"]

_TAG_BYTES = 60
"""Bytes of memory that Python needs for a tag besides its letters."""


class SampleInfo(Struct, frozen=True):
    """Describes one sample. The source makes and checks the record, and later stages carry it as it is to the Batch.

    To add a field: add it here, with types that MessagePack has (and count it in `words_bytes` if it may be long); fill
    it in the sources; show it in `Batch` and `COLUMNS` of batch.py and in `Sample`. All stages between take it along.
    """

    id: str
    source: str = ""
    attributes: bytes = NO_ATTRIBUTES
    """A JSON object that `check_attributes` has returned: the trainer can decode it."""
    tags: list[str] = []
    embedding: bytes = b""
    """float32 (D,), in the machine's byte order; empty if the sample has none. The source sees to one D for all."""
    duplicate_state: int | None = None
    mix: str = ""
    """The name of the sample's source in a mix; empty without a mix."""
    pass_number: int | None = None
    """In a mix, the number of the pass through the sample's own source, which all draws use in place of the epoch."""
    label: int | None = None
    """The number of the sample's class, -1 if there is none. None: no label was asked for, and none was found."""

    @property
    def words_bytes(self) -> int:
        """Returns about how many bytes of memory the texts take: attributes and tags."""
        if not self.tags:
            return len(self.attributes)
        return len(self.attributes) + sum(_TAG_BYTES + len(tag) for tag in self.tags)


def columns_of(infos: Sequence[SampleInfo]) -> dict[str, memoryview]:
    """Returns the form in which records are sent: name of each field -> MessagePack of its values, in their order. A
    field that has its default in all records is left out.

    Columns, not records, because a Batch holds columns: the trainer makes no object per sample, and decodes a column
    only if it is read.
    """
    columns = {}
    for name, default in _defaults(type(infos[0])).items():
        values = [getattr(info, name) for info in infos]
        if values.count(default) < len(values):
            columns[name] = memoryview(_encoder.encode(values))
    return columns


def column_of(columns: dict[str, memoryview], name: str, count: int) -> list[Any]:
    """Decodes the values of a field. count: the number of records."""
    if name in columns:
        return msgpack.decode(columns[name], type=list[Any])
    default = _defaults(SampleInfo)[name]
    return [copy(default) for _ in range(count)] if isinstance(default, list) else [default] * count


_encoder = msgpack.Encoder()


@cache
def _defaults(record: type[SampleInfo]) -> dict[str, Any]:
    """Returns the name of each field -> its default. A field that is required has none: no value equals NODEFAULT."""
    return {
        field.name: field.default if field.default_factory is NODEFAULT else field.default_factory()
        for field in structs.fields(record)
    }
