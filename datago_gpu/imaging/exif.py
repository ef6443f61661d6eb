"""Reads the orientation of an image from EXIF, else from XMP, like Pillow's `ImageOps.exif_transpose`.

All orientations are read here. DALI's own reader interprets damaged EXIF differently, and writes outside of its memory
if a file has two EXIF segments. So DALI only gets EXIF in a plain form that all readers interpret alike. The feeder
replaces any other EXIF by an `exif_segment`.
"""

from __future__ import annotations

import re
import struct
from struct import Struct as Layout

__all__ = ["exif_segment", "orientation", "plain_orientation", "xmp_orientation"]

_ORIENTATION = 0x0112
_SHORT = 3

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Type of a value -> bytes per value: TIFF 6.0, section 2."""
_ALSO_IN_PILLOW = {13: 4, 16: 8}
_NUMBERS = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q"}
"""Type of a value -> its layout. Pillow does not treat bytes and text as numbers."""

_DALI_READS = {
    **dict.fromkeys((0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x8298), (2, 0)),
    0x011A: (5, 1),
    0x011B: (5, 1),
    0x013E: (5, 2),
    0x013F: (5, 6),
    0x0211: (5, 3),
    0x0214: (5, 6),
}
"""Tag -> type and minimum number of values that DALI's reader expects. If a tag differs, DALI drops the whole block,
including the orientation."""

_Tag = tuple[Layout, Layout, Layout]


def _layouts(order: str) -> _Tag:
    return Layout(order + "H"), Layout(order + "I"), Layout(order + "HHI4s")


_LITTLE, _BIG = _layouts("<"), _layouts(">")
_PLAIN_ORDERS = {b"II*\0": _LITTLE, b"MM\0*": _BIG}
_ORDERS = {**_PLAIN_ORDERS, b"MM*\0": _BIG, b"II\0*": _LITTLE, b"MM\0+": _BIG}
"""First bytes -> byte order, as in Pillow. Pillow also accepts II+, but then finds nothing."""

_PREFIX = re.compile(rb"^(?:Exif\0\0){1,2}")
_XMP_NAME = b"tiff:Orientation"
_XMP = re.compile(_XMP_NAME + rb'(?:="|>)([0-9])')


def plain_orientation(tiff: bytes) -> int | None:
    """Reads the orientation from an EXIF block of the plain form, which all readers interpret alike.

    The plain form is that of an undamaged file: all values lie inside the block, and the orientation occurs at most
    once. Returns 1 to 8; 0 if the block has no orientation; None if the block is not of the plain form.
    tiff: the block after "Exif", 0, 0.
    """
    layouts = _PLAIN_ORDERS.get(tiff[:4])
    if layouts is None:
        return None
    short, word, entry = layouts
    found = 0
    try:
        first = word.unpack_from(tiff, 4)[0] + 2
        end = first + 12 * short.unpack_from(tiff, first - 2)[0]
        if end + 4 > len(tiff):
            return None
        for tag, kind, count, value in entry.iter_unpack(tiff[first:end]):
            if tag == _ORIENTATION:
                if found or (kind, count) != (_SHORT, 1):
                    return None
                found = short.unpack_from(value)[0]
                if not 1 <= found <= 8:
                    return None
                continue
            size = _SIZES[kind] * count
            if size > 4 and word.unpack(value)[0] + size > len(tiff):
                return None
            if tag in _DALI_READS and (kind != _DALI_READS[tag][0] or count < _DALI_READS[tag][1]):
                return None
    except (struct.error, KeyError):
        return None
    return found


def orientation(exif: bytes | None, xmp: bytes | str | None = None) -> int:
    """Returns the orientation, 1 to 8, of any EXIF block; 1 if unreadable. XMP is used if EXIF has no orientation.

    exif: with or without a leading "Exif", 0, 0. Several segments are concatenated, as in Pillow.
    """
    value = None
    tiff = _PREFIX.sub(b"", exif or b"")
    if tiff:
        layouts = _ORDERS.get(tiff[:4])
        if layouts is None or len(tiff) < 8:
            return 1  # here Pillow gives up and does not read XMP
        value = _value(tiff, layouts)
    if value is None:
        value = xmp_orientation(xmp)
    return int(value) if value in range(1, 9) else 1


def _value(tiff: bytes, layouts: _Tag) -> float | None:
    """Returns the value of the orientation tag as Pillow reads it. None: the tag is missing; 0: not a number."""
    short, word, entry = layouts
    known, total = set(), 0
    try:
        at = word.unpack_from(tiff, 4)[0]
        for index in range(short.unpack_from(tiff, at)[0]):
            tag, kind, count, data = entry.unpack_from(tiff, at + 2 + 12 * index)
            size = count * (_SIZES.get(kind) or _ALSO_IN_PILLOW.get(kind, 0))
            if not size or tag in known:
                continue
            if size > 4:
                total += size
                if total > len(tiff):
                    continue
                begin = word.unpack(data)[0]
                data = tiff[begin : begin + size]
                if len(data) < size:
                    return None  # Pillow reads no further
            if tag == _ORIENTATION:
                return _number(data, kind, word is _LITTLE[1])
            known.add(tag)
    except struct.error:
        pass
    return None


def _number(data: bytes, kind: int, little: bool) -> float:
    """Returns the first number of a value; for a rational number that is not whole, 0."""
    if kind not in _NUMBERS:
        return 0
    numbers = struct.unpack_from(("<" if little else ">") + _NUMBERS[kind], data)
    if len(numbers) == 1:
        return float(numbers[0])
    over, under = numbers
    return float(over // under) if under and not over % under else 0


def xmp_orientation(xmp: bytes | str | None) -> int:
    """Returns the first orientation in XMP, not checked; 0 if there is none."""
    if not xmp:
        return 0
    data = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
    if _XMP_NAME not in data:  # much faster than the regular expression
        return 0
    match = _XMP.search(data)
    return int(match[1]) if match else 0


def exif_segment(orientation: int) -> bytes:
    """Makes a JPEG segment in the plain form that contains only the orientation. Empty for orientation 1."""
    if orientation == 1:
        return b""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)
    return struct.pack(">HH", 0xFFE1, len(tiff) + 8) + b"Exif\0\0" + tiff
