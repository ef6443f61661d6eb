"""Walks through the chunks of a PNG without decoding it: PNG specification, sections 5 and 11."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct as Layout

from datago_gpu.imaging.exif import xmp_orientation

__all__ = ["may_change_orientation", "may_change_orientation_late", "may_hold_orientation", "png_chunks"]

_CHUNK = Layout(">I4s")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"
_RAW_PROFILE = b"Raw profile type exif\0"

_MOST = 1000
_USUAL_BYTES = 4096
"""Encoders write pixels in chunks of at least this many bytes. Millions of tiny chunks would block the feeder."""


def png_chunks(payload: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name of each chunk up to IEND, and where its data begins and ends.

    Stops before IEND if there are too many chunks. Raises struct.error if the payload ends early.
    """
    at = 8
    for _ in range(_MOST + len(payload) // _USUAL_BYTES):
        length, name = _CHUNK.unpack_from(payload, at)
        yield name, at + 8, at + 8 + length
        if name == b"IEND":
            return
        at += 12 + length


def may_hold_orientation(name: bytes, data: bytes) -> bool:
    """Returns whether a chunk is of a type that can contain an orientation."""
    return name == b"eXIf" or (name in _TEXTS and data.startswith((_XMP, _RAW_PROFILE)))


def may_change_orientation(name: bytes, data: bytes) -> bool:
    """Returns whether a chunk may contain an orientation other than upright. Compressed chunks count as yes."""
    if not may_hold_orientation(name, data):
        return False
    if name != b"eXIf" and data.startswith(_XMP):
        compressed = name == b"zTXt" or (name == b"iTXt" and data[len(_XMP) : len(_XMP) + 1] != b"\0")
        return compressed or xmp_orientation(data) > 1
    return True


def may_change_orientation_late(payload: bytes) -> bool:
    """Returns whether a chunk after the pixels may contain an orientation other than upright."""
    name, late = b"", False
    try:
        for name, begin, end in png_chunks(payload):
            late = late or name == b"IDAT"
            if late and may_change_orientation(name, payload[begin:end]):
                return True
    except struct.error:
        return True
    return name != b"IEND"
