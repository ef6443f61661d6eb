"""Shuffling a stream too long to hold: draws from a buffer, the same ones on every machine and in every version."""

from __future__ import annotations

from collections.abc import AsyncGenerator, MutableSequence
from contextlib import aclosing
from typing import TypeVar

__all__ = ["SplitMix64", "shuffled"]

T = TypeVar("T")
_MASK = (1 << 64) - 1


class SplitMix64:
    """A small random generator whose numbers depend on `words` alone.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """

    def __init__(self, *words: int) -> None:
        self._state = 0
        for word in words:
            self._state = _mix(self._state + 0x9E3779B97F4A7C15 ^ word & _MASK)

    def below(self, bound: int) -> int:
        """A number in range(bound); the unevenness is below bound / 2**64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return _mix(self._state) * bound >> 64

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Put the items into a random order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


def _mix(value: int) -> int:
    value &= _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


async def shuffled(stream: AsyncGenerator[T, None], capacity: int, generator: SplitMix64) -> AsyncGenerator[T, None]:
    """Yields every item of the stream once, drawn from a buffer of the next `capacity` items. Closes the stream."""
    buffer: list[T] = []
    async with aclosing(stream) as items:
        async for item in items:
            if len(buffer) < capacity:
                buffer.append(item)
                continue
            drawn = generator.below(capacity)
            yield buffer[drawn]
            buffer[drawn] = item
    generator.shuffle(buffer)
    for item in buffer:
        yield item
