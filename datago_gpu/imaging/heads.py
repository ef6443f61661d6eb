"""Reads as little as possible of a file to know its image's size: the first bytes, up to the pixels.

`without_pixels` makes a small image of these bytes, for the readers of whole images: header.py and Pillow.
"""

from __future__ import annotations

import struct

__all__ = ["format_of", "is_complete", "without_pixels"]

_SEGMENT = struct.Struct(">BBH")
_CHUNK = struct.Struct(">I4s")
_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xFF))
_MOST_SEGMENTS = _MOST_CHUNKS = 1000
_JPEG, _PNG, _RIFF, _WEBP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
_END_OF_JPEG, _END_OF_PNG = b"\xff\xd9", b"\0\0\0\0IEND\xaeB`\x82"
_NO_PIXELS = b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
"""An empty chunk of pixels, with its checksum: Pillow reads a PNG up to the first one."""
_WEBP_BYTES, _WEBP_EXIF_OR_XMP = 30, 0b00001100


def without_pixels(head: bytes) -> bytes | int | None:
    """Returns an image with the header that a file has whose first bytes are `head`, and without pixels.

    Returns a number if more bytes are needed: how many of the first bytes; and None if the whole file is needed.
    """
    if len(head) < _WEBP_BYTES:
        return _WEBP_BYTES
    kind = format_of(head)
    if kind == "jpeg":
        return _jpeg(head)
    if kind == "png":
        return _png(head)
    return _webp(head) if kind == "webp" else None


def _jpeg(head: bytes) -> bytes | int | None:
    """Ends the image before the pixels of its first scan: ITU-T T.81, annex B."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(head):
            return at + 4
        prefix, marker, length = _SEGMENT.unpack_from(head, at)
        if prefix != 0xFF or marker in _WITHOUT_LENGTH:
            return None
        at += 2 + length
        if marker == _SCAN:
            return head[:at] + _END_OF_JPEG if at <= len(head) else at
    return None


def _png(head: bytes) -> bytes | int | None:
    """Ends the image before its first chunk of pixels."""
    at = len(_PNG)
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(head):
            return at + 8
        length, name = _CHUNK.unpack_from(head, at)
        if name == b"IDAT":
            return head[:at] + _NO_PIXELS + _END_OF_PNG
        if name == b"IEND":
            return None
        at += 12 + length
    return None


def _webp(head: bytes) -> bytes | None:
    """Ends the image after its first chunk's header: RFC 9649, section 2.7. EXIF and XMP lie behind the pixels."""
    if head[12:16] == b"VP8X" and head[20] & _WEBP_EXIF_OR_XMP:
        return None
    return head[:4] + (_WEBP_BYTES - 8).to_bytes(4, "little") + head[8:_WEBP_BYTES]


def is_complete(head: bytes, tail: bytes, size: int) -> bool:
    """Returns whether a file of `size` bytes with these first and last bytes is complete, by its end marker or length.

    Files of a format without such a sign count as complete. tail: at least 12 bytes, or all.
    """
    kind = format_of(head)
    if kind == "jpeg":
        return tail.endswith(_END_OF_JPEG)
    if kind == "png":
        return tail.endswith(_END_OF_PNG)
    return kind != "webp" or int.from_bytes(head[4:8], "little") + 8 <= size


def format_of(head: bytes) -> str:
    """Returns "jpeg", "png" or "webp"; "" for any other format."""
    if head.startswith(_JPEG):
        return "jpeg"
    if head.startswith(_PNG):
        return "png"
    return "webp" if head.startswith(_RIFF) and head[8:12] == _WEBP else ""
