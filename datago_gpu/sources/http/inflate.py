"""Decompresses gzip and zlib in slices, in time linear in the size, whatever the compressed body contains."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence

from datago_gpu.eventloop import call_in_thread
from datago_gpu.heap import give_memory_back
from datago_gpu.sources.http.failure import HttpFailure

__all__ = ["inflate", "join_pieces"]

_GZIP_OR_ZLIB = 47
_FIRST_BYTES = 512
_MOST_BYTES = 64 * 1024
"""Input of one call, in bytes: little at the start of a member, since the end of a member copies the unused input."""
_CALL_BYTES = 256 * 1024
"""The most output bytes of one call."""
_STEP_CALLS, _STEP_BYTES = 4_000, 4 * 1024 * 1024
"""Work done on a thread before it can be cancelled: about 10 ms."""
_FIRST_CALLS, _FIRST_STEP_BYTES = 200, 256 * 1024
"""Work done at once, without a thread: calling one costs 60 us."""
_JOINED_AT_ONCE = 1024 * 1024
_LARGE = 16 * 1024 * 1024
"""From this size in bytes on, freed pieces are returned to the system, which costs 2 ms: the heap would keep them
beside the joined body."""
_one_at_a_time = threading.Lock()


async def inflate(blocks: Sequence[bytes], most: int) -> bytes:
    """Returns the decompressed body, at most `most` bytes. Raises HttpFailure.

    The event loop keeps running meanwhile; a cancelled task waits for one slice at most.
    """
    pieces: list[bytes] = []
    calls = _calls(blocks, most)
    if not _advance(calls, pieces, _FIRST_CALLS, _FIRST_STEP_BYTES):
        while not await call_in_thread(None, _advance, calls, pieces, _STEP_CALLS, _STEP_BYTES):
            pass
    return await join_pieces(pieces)


async def join_pieces(pieces: list[bytes]) -> bytes:
    """Joins all pieces and empties the list. Joins large ones on a thread: that takes a millisecond per 2 MiB."""
    if len(pieces) == 1:
        return pieces.pop()
    if sum(map(len, pieces)) <= _JOINED_AT_ONCE:
        return b"".join(pieces)
    return await call_in_thread(None, _put_together, pieces)


def _put_together(pieces: list[bytes]) -> bytes:
    """Joins the pieces. This takes twice the memory, so it is done for one body at a time."""
    with _one_at_a_time:
        whole = b"".join(pieces)
        pieces.clear()
        if len(whole) >= _LARGE:
            give_memory_back()
    return whole


def _advance(calls: Iterator[bytes], pieces: list[bytes], most_calls: int, most_bytes: int) -> bool:
    """Continues for `most_calls` calls, or until they have returned `most_bytes`. Returns True at the end."""
    count = size = 0
    while count < most_calls and size < most_bytes:
        piece = next(calls, None)
        if piece is None:
            return True
        count, size = count + 1, size + len(piece)
        if piece:
            pieces.append(piece)
    return False


def _calls(blocks: Sequence[bytes], most: int) -> Iterator[bytes]:
    """Yields the output of each call of the decompressor. Raises HttpFailure."""
    member, room, given = None, most, _FIRST_BYTES
    for block in blocks:
        view, at = memoryview(block), 0
        more = False  # it has more output than it has returned
        while at < len(view) or more:
            if member is None:  # gzip allows several members in a row
                member, given = zlib.decompressobj(_GZIP_OR_ZLIB), _FIRST_BYTES
            piece, used, more = _call(member, view[at : at + given])
            at, given, room = at + used, min(2 * given, _MOST_BYTES), room - len(piece)
            if room < 0:
                raise HttpFailure("too-large", f"a body of more than {most} bytes when decompressed")
            if member.eof:
                member = None
            yield piece
    if member is not None:
        raise HttpFailure("cut-short", "the compressed body ends early", transient=True)


def _call(member: zlib._Decompress, given: memoryview) -> tuple[bytes, int, bool]:
    """Returns the output, the number of input bytes used, and whether the decompressor has more output."""
    try:
        piece = member.decompress(given, _CALL_BYTES)
    except zlib.error:
        piece = None
    if piece is None:  # raised outside `except`, so that no foreign error is its context
        raise HttpFailure("encoding", "the compressed body is damaged", transient=True)
    left = len(member.unused_data) if member.eof else len(member.unconsumed_tail)
    return piece, len(given) - left, len(piece) == _CALL_BYTES and not member.eof
