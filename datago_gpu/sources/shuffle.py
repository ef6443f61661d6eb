"""Shuffles a stream that is too long for memory, through a buffer, with the same result on every machine and
version."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, MutableSequence
from contextlib import aclosing
from typing import TypeVar

__all__ = ["SplitMix64", "shuffled"]

T = TypeVar("T")
_MASK = (1 << 64) - 1


class SplitMix64:
    """A small random generator whose numbers depend only on `words`.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """

    def __init__(self, *words: int) -> None:
        self._state = 0
        for word in words:
            self._state = _mix(self._state + 0x9E3779B97F4A7C15 ^ word & _MASK)

    def below(self, bound: int) -> int:
        """Returns a number in range(bound); the bias is below bound / 2**64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return _mix(self._state) * bound >> 64

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffles the items in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


def _mix(value: int) -> int:
    value &= _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


async def shuffled(
    stream: AsyncGenerator[T, None],
    capacity: int,
    generator: SplitMix64,
    *,
    most_bytes: int,
    size_of: Callable[[T], int],
) -> AsyncGenerator[T, None]:
    """Yields every item of the stream once, drawn from a buffer of the next `capacity` items, or of as many as fit into
    `most_bytes`. Closes the stream.
    """
    buffer: list[T] = []
    size = 0
    async with aclosing(stream) as items:
        async for item in items:
            size += size_of(item)
            if len(buffer) < capacity:
                buffer.append(item)
            else:
                drawn = generator.below(capacity)
                drawn_item, buffer[drawn] = buffer[drawn], item
                size -= size_of(drawn_item)
                yield drawn_item
            while size > most_bytes and len(buffer) > 1:
                drawn = generator.below(len(buffer))
                buffer[drawn], buffer[-1] = buffer[-1], buffer[drawn]
                size -= size_of(buffer[-1])
                yield buffer.pop()
    generator.shuffle(buffer)
    for item in buffer:
        yield item
