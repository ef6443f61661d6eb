"""Turns the content of a caption file, NAME.txt or NAME.json beside an image, into the attributes of the sample."""

from __future__ import annotations

import codecs

from datago_gpu.sources.attributes import NO_ATTRIBUTES, check_attributes, decode_json, encode

__all__ = ["MOST_CAPTION_BYTES", "attributes_of_caption"]

MOST_CAPTION_BYTES = 1024 * 1024
"""The most bytes of a caption: as Python objects, JSON may take 20 times as much."""
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def attributes_of_caption(name: str, content: bytes) -> tuple[bytes, str]:
    """Returns the attributes in a caption, and what is wrong with it, as `check_attributes` does. name: of its file."""
    try:
        if name.lower().endswith(".json"):
            return check_attributes(encode(_json(content)))
        return check_attributes(encode({"txt": _text(content)}))
    except (ValueError, RecursionError) as error:
        return NO_ATTRIBUTES, str(error)


def _text(content: bytes) -> str:
    """Returns a text of UTF-8, or of UTF-16 with a byte order mark, as some editors save it. Raises ValueError."""
    try:
        return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _json(content: bytes) -> object:
    """Returns a JSON value. Raises ValueError, RecursionError."""
    try:
        return decode_json(content)
    except ValueError:
        raise ValueError("the caption is not JSON") from None
