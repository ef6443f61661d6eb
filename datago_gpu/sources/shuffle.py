"""Shuffles with the same result on every machine and with every version of a library: a permutation of a complete
listing, and a shuffle buffer for a stream that is too long for memory. Both draw from one generator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, MutableSequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SplitMix64", "permutation", "shuffle_stream"]

T = TypeVar("T")
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class SplitMix64:
    """A small random generator whose numbers depend only on `words`.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """

    def __init__(self, *words: int) -> None:
        self._state = 0
        for word in words:
            self._state = _mix(self._state + _GOLDEN ^ word & _MASK)

    @classmethod
    def at(cls, state: int) -> Self:
        """Returns a generator in that state."""
        generator = cls()
        generator._state = state & _MASK
        return generator

    def below(self, bound: int) -> int:
        """Returns a number in range(bound); the bias is below bound / 2**64."""
        self._state = (self._state + _GOLDEN) & _MASK
        return _mix(self._state) * bound >> 64

    def numbers(self, count: int) -> NDArray[np.uint64]:
        """Returns `count` numbers below 2**64 (uint64). All numbers of one sequence are different."""
        import numpy as np  # only a permutation needs numpy: importing it delays the start of the feeder

        begin = self._state
        self._state = (begin + count * _GOLDEN) & _MASK
        return _mix(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(begin))

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffles the items in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


@overload
def _mix(value: int) -> int: ...
@overload
def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
def _mix(value: Any) -> Any:
    """Returns 64 bits, each of which depends on all bits of `value`; of an array, for each element."""
    value = value & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns a permutation of range(count), int64, that depends only on the arguments."""
    return SplitMix64.at(_mix(_mix(seed * _GOLDEN) ^ epoch)).numbers(count).argsort()  # all are different: one result


async def shuffle_stream(
    stream: AsyncGenerator[T, None],
    capacity: int,
    generator: SplitMix64,
    *,
    most_bytes: int,
    size_of: Callable[[T], int],
    draws_newest: bool,
    passes: Callable[[T], bool] = lambda _: False,
    overflows: Callable[[], None] = lambda: None,
) -> AsyncGenerator[T, None]:
    """Yields every item of the stream once, drawn from a buffer of the next `capacity` items, or of as many as fit into
    `most_bytes`. Closes the stream.

    draws_newest: whether the item that has filled the buffer may be drawn at once. The order of saved states depends on
    that: shards are drawn with it, a Dataroom's entries without it. passes: whether an item skips the buffer.
    overflows: is called before an item is drawn because of `most_bytes`, which makes the order depend on the sizes.
    """
    buffer: list[T] = []
    size = 0

    def draw(bound: int) -> T:
        nonlocal size
        place = generator.below(bound)
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        size -= size_of(buffer[-1])
        return buffer.pop()

    async with aclosing(stream) as items:
        async for item in items:
            if passes(item):
                yield item
                continue
            buffer.append(item)
            size += size_of(item)
            if len(buffer) > capacity:
                yield draw(len(buffer) if draws_newest else capacity)
            while size > most_bytes and len(buffer) > 1:
                overflows()
                yield draw(len(buffer))
    generator.shuffle(buffer)
    for item in buffer:
        yield item
