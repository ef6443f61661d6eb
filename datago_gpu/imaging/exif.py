"""Reads the orientation of a picture, the way Pillow's `ImageOps.exif_transpose` does, from EXIF or else from XMP.

This is the only reader of orientations. DALI has a reader of its own, which takes damaged EXIF otherwise, and which
writes outside of its memory where a file has two EXIF segments. So DALI gets EXIF in the plain form only, which all
readers take alike. The feeder puts `exif_segment` in place of anything else.
"""

from __future__ import annotations

import re
import struct
from struct import Struct as Layout

__all__ = ["exif_segment", "orientation", "plain_orientation", "xmp_orientation"]

_ORIENTATION = 0x0112
_SHORT = 3

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Type of a value -> bytes of one: TIFF 6.0, section 2."""
_ALSO_IN_PILLOW = {13: 4, 16: 8}
_NUMBERS = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q"}
"""Type of a value -> its layout. Bytes and text are no numbers to Pillow."""

_DALI_READS = {
    **dict.fromkeys((0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x8298), (2, 0)),
    0x011A: (5, 1),
    0x011B: (5, 1),
    0x013E: (5, 2),
    0x013F: (5, 6),
    0x0211: (5, 3),
    0x0214: (5, 6),
}
"""Tag -> type, and least number of values, that DALI's reader takes for granted. Where it does not find them in the
block, it drops the whole block, the orientation with it."""

_Tag = tuple[Layout, Layout, Layout]


def _layouts(order: str) -> _Tag:
    return Layout(order + "H"), Layout(order + "I"), Layout(order + "HHI4s")


_LITTLE, _BIG = _layouts("<"), _layouts(">")
_PLAIN_ORDERS = {b"II*\0": _LITTLE, b"MM\0*": _BIG}
_ORDERS = {**_PLAIN_ORDERS, b"MM*\0": _BIG, b"II\0*": _LITTLE, b"MM\0+": _BIG}
"""First bytes -> byte order, as Pillow takes them; it also knows a form, II+, in which it then finds nothing."""

_PREFIX = re.compile(rb"^(?:Exif\0\0){1,2}")
_XMP_NAME = b"tiff:Orientation"
_XMP = re.compile(_XMP_NAME + rb'(?:="|>)([0-9])')


def plain_orientation(tiff: bytes) -> int | None:
    """The orientation, 1 to 8, in a block of EXIF that all readers take alike. 0: the block names none.

    tiff: the block behind "Exif", 0, 0. None: the block is not of the plain form. That is the form of an undamaged
    file: all values lie inside the block, and the orientation is there at most once.
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
    """The orientation, 1 to 8, of any EXIF block; 1 where it cannot be read. XMP counts where EXIF names none.

    exif: with or without "Exif", 0, 0 before it. The bytes of several segments follow one another, as in Pillow.
    """
    value = None
    tiff = _PREFIX.sub(b"", exif or b"")
    if tiff:
        layouts = _ORDERS.get(tiff[:4])
        if layouts is None or len(tiff) < 8:
            return 1  # here Pillow gives up, and does not ask XMP
        value = _value(tiff, layouts)
    if value is None:
        value = xmp_orientation(xmp)
    return int(value) if value in range(1, 9) else 1


def _value(tiff: bytes, layouts: _Tag) -> float | None:
    """The value of the tag as Pillow finds it. None: the tag is missing; 0: it is no number."""
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
    """The first number of a value. Of a rational one only whole numbers are of interest."""
    if kind not in _NUMBERS:
        return 0
    numbers = struct.unpack_from(("<" if little else ">") + _NUMBERS[kind], data)
    if len(numbers) == 1:
        return float(numbers[0])
    over, under = numbers
    return float(over // under) if under and not over % under else 0


def xmp_orientation(xmp: bytes | str | None) -> int:
    """The first orientation in XMP, whatever it says; 0 where there is none."""
    if not xmp:
        return 0
    data = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
    if _XMP_NAME not in data:  # a good deal quicker than the expression
        return 0
    match = _XMP.search(data)
    return int(match[1]) if match else 0


def exif_segment(orientation: int) -> bytes:
    """A segment of a JPEG that says the orientation and nothing else, in the plain form. Empty for 1."""
    if orientation == 1:
        return b""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)
    return struct.pack(">HH", 0xFFE1, len(tiff) + 8) + b"Exif\0\0" + tiff
