"""Reads arrays as `numpy.save` writes them. Only this module parses their headers and makes arrays of them.

A header is a Python literal. Only the form that `numpy.save` and similar tools write is accepted; nothing is evaluated.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from datago_gpu.feeder.wire import ArrayForm

__all__ = ["BadArray", "as_array", "read_form"]

_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
"""Version of the format -> bytes of the header's length."""
_LONGEST_HEADER = 10_000
_MOST_AXES = 31
"""A batch adds one axis, and cupy allows 32."""
_LARGEST = 2**40
"""In bytes: limits the size that an empty array would have if its axes of length 0 had length 1. numpy must be able
to count the bytes of a batch."""

_ITEM = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*
        (?:(['"])(?P<descr>[<>|=]?[biufcmMSUV](?:[1-9]\d{0,8}|0)?(?:\[\w{1,20}\])?)\3
          |(?P<order>True|False)
          |\(\s*(?P<shape>(?:(?:[1-9]\d{0,18}|0)L?\s*,\s*)*(?:(?:[1-9]\d{0,18}|0)L?\s*)?)\))
        \s*(?:,|(?=\}))""",
    re.VERBOSE | re.ASCII,
)
_KEYS = {"descr": "descr", "fortran_order": "order", "shape": "shape"}


class BadArray(Exception):
    """Says that a payload begins like a npy file but cannot be used. The text of the error says why."""


def read_form(payload: bytes) -> tuple[ArrayForm, int]:
    """Returns the form that the header of a npy file describes, and the number of bytes before the array's first byte.

    Guarantees that `as_array` can make an array of the bytes that follow. Raises BadArray.
    """
    text, offset = _header(payload)
    descr, order, shape_text = _items(text)
    shape = tuple(int(length.strip().rstrip("L")) for length in shape_text.split(",") if length.strip())
    if len(shape) == 1 and "," not in shape_text:
        raise BadArray(f"its shape is the number {shape[0]}, not a tuple")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadArray(f"{descr!r} is not a numeric dtype: {error}"[:200]) from None
    form = ArrayForm(dtype.str, shape, order == "True")
    _check(form, dtype.itemsize, len(payload) - offset)
    try:
        as_array(memoryview(payload)[offset:], form)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadArray(f"numpy cannot make an array of shape {shape} and dtype {descr!r}: {error}"[:200]) from None
    return form, offset


def as_array(view: memoryview, form: ArrayForm) -> NDArray[np.generic]:
    """Returns an array that is a view of `view`. Cannot fail for a form that `read_form` returned."""
    flat = np.frombuffer(view, form.dtype) if len(view) else np.empty(0, form.dtype)
    return flat.reshape(form.shape, order="F" if form.fortran else "C")


def _header(payload: bytes) -> tuple[str, int]:
    """Returns the text of the header, and the offset in the payload at which the header ends."""
    version = (payload[6], payload[7]) if len(payload) >= 8 else (0, 0)
    size = _LENGTH_BYTES.get(version)
    if size is None:
        raise BadArray(f"version {version[0]}.{version[1]} of the npy format is not supported")
    length = int.from_bytes(payload[8 : 8 + size], "little")
    begin, end = 8 + size, 8 + size + length
    if length > _LONGEST_HEADER or end > len(payload):
        raise BadArray(f"a header of {length} bytes, of {len(payload)} in total; at most {_LONGEST_HEADER} are allowed")
    try:
        return payload[begin:end].decode("utf-8" if version == (3, 0) else "latin-1"), end
    except UnicodeDecodeError:
        raise BadArray("a header that is not UTF-8") from None


def _items(text: str) -> tuple[str, str, str]:
    """Returns the texts of the values of `descr`, `fortran_order` and `shape`."""
    stripped = text.strip(" \t\n")
    found: dict[str, str] = {}
    at = 1
    while match := _ITEM.match(stripped, at):
        value = match[_KEYS[match["key"]]]
        if value is not None:
            found[match["key"]] = value
        at = match.end()
    if not (stripped.startswith("{") and stripped[at:].strip(" \t\n") == "}" and len(found) == len(_KEYS)):
        raise BadArray(f"its header does not describe a numeric array: {stripped[:100]!r}")
    return found["descr"], found["fortran_order"], found["shape"]


def _check(form: ArrayForm, item_bytes: int, size: int) -> None:
    """Raises BadArray if the form exceeds a limit or does not match the number of bytes."""
    if not item_bytes:
        raise BadArray(f"elements of {form.dtype!r} take no bytes")
    if len(form.shape) > _MOST_AXES:
        raise BadArray(f"{len(form.shape)} axes, at most {_MOST_AXES} are allowed")
    if item_bytes * math.prod(form.shape) != size:
        raise BadArray(f"{form.shape} of {form.dtype!r} do not make {size} bytes"[:200])
    if item_bytes * math.prod(max(1, length) for length in form.shape) > max(size, _LARGEST):
        raise BadArray(f"{form.shape} is too large for an array without elements"[:200])
