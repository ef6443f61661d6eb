"""Limits the memory of prefetched payloads. Memory is counted before it is allocated, so that a run of large payloads
cannot exceed the limit.

The payload that is handed out next never waits for later ones: its claim gets what it asks for, whatever the others
hold. So the memory held never exceeds the budget plus what that one claim asks for beyond the budget.
"""

from __future__ import annotations

import asyncio
from itertools import count

__all__ = ["FREE_BYTES", "Budget", "Claim"]

FREE_BYTES = 256 * 1024
"""Granted to each payload before its size is known, so that smaller payloads never have to ask."""


class Budget:
    """Shares a number of bytes among claims. Used within one event loop.

    ordered: claims are handed out by age; otherwise settled claims are handed out first.
    """

    def __init__(self, capacity: int, *, ordered: bool = True) -> None:
        self._capacity, self._ordered = capacity, ordered
        self.held = 0
        self._numbers = count()
        self._coming: dict[Claim, None] = {}
        """Claims that have not been handed out, the oldest first. Contains settled claims only if `ordered`."""
        self._ready = 0
        """Settled claims that have not been handed out; empty if `ordered`."""
        self._waiting: dict[asyncio.Future[None], tuple[Claim, int]] = {}
        self._closed = False

    def claim(self) -> Claim:
        """Returns a new claim, younger than all others. It holds nothing yet."""
        claim = Claim(self, next(self._numbers))
        self._coming[claim] = None
        return claim

    def hand_out(self, claim: Claim) -> None:
        """Stops counting a settled claim."""
        if self._ordered:
            del self._coming[claim]
        else:
            self._ready -= 1
        self.held -= claim.held
        self._wake()

    def close(self) -> None:
        """Grants every request from now on: nothing is counted any more."""
        self._closed = True
        self._wake()

    async def take(self, claim: Claim, size: int) -> None:
        """See `Claim.need`."""
        if self._is_next(claim) or (not self._waiting and self._has(size)):
            self._grant(claim, size)
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting[granted] = claim, size
        try:
            await granted
        finally:
            self._waiting.pop(granted, None)

    def settle(self, claim: Claim, size: int) -> None:
        """See `Claim.settle`."""
        if not self._ordered:
            del self._coming[claim]
            self._ready += 1
        self.held += size - claim.held
        claim.held = size
        self._wake()

    def _wake(self) -> None:
        """Grants waiting requests for which there is room, to the oldest claim first."""
        if not self._waiting:
            return
        for granted, (claim, size) in sorted(self._waiting.items(), key=lambda each: each[1][0].number):
            if granted.done():
                continue
            if not (self._is_next(claim) or self._has(size)):
                return
            self._grant(claim, size)
            granted.set_result(None)

    def _grant(self, claim: Claim, size: int) -> None:
        self.held += size
        claim.held += size

    def _has(self, size: int) -> bool:
        return self._closed or self.held + size <= self._capacity

    def _is_next(self, claim: Claim) -> bool:
        """Returns whether this claim is the next one that is handed out."""
        return not self._ready and next(iter(self._coming), None) is claim


class Claim:
    """Holds one job's share of a budget."""

    __slots__ = ("_budget", "held", "number", "used")

    def __init__(self, budget: Budget, number: int) -> None:
        self._budget, self.number = budget, number
        self.held = 0
        """Bytes granted."""
        self.used = 0
        """Bytes of these that are in use."""

    @property
    def left(self) -> int:
        """Returns the bytes that may be allocated without asking."""
        return max(0, self.held - self.used)

    async def need(self, size: int) -> None:
        """Asks for room for `size` bytes that are not allocated yet. Returns once there is room for them."""
        missing = self.used + size - self.held
        if missing > 0:
            await self._budget.take(self, missing)

    def use(self, size: int) -> None:
        """Records that `size` bytes have been allocated."""
        self.used += size

    def settle(self, size: int) -> None:
        """Holds `size` bytes from now on, until `Budget.hand_out`. No more may be asked for."""
        self._budget.settle(self, size)
