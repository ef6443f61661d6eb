"""Frames messages on sockets between processes: four bytes of length (big-endian), and the message as MessagePack."""

from __future__ import annotations

import socket

from msgspec import Struct, msgpack

__all__ = ["HEADER_BYTES", "body_length", "frame", "is_readable", "receive_exactly"]

HEADER_BYTES = 4

_encoder = msgpack.Encoder()


def frame(message: Struct) -> bytes:
    """Returns the bytes of a message with its length in front, ready to send."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes | bytearray) -> int:
    """Returns the length of the message behind a header."""
    return int.from_bytes(header, "big")


def receive_exactly(channel: socket.socket, size: int) -> bytearray:
    """Reads `size` bytes without a buffer, so that `is_readable` sees all unread bytes. Raises EOFError at the end."""
    body = bytearray(size)
    view = memoryview(body)
    while view:
        received = channel.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]
    return body


def is_readable(channel: socket.socket) -> bool:
    """Returns whether a read would not wait: there are bytes, or the other end is gone."""
    try:
        channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
