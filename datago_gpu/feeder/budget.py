"""The memory of what is fetched ahead: counted before it is taken, so that no run of large payloads passes it.

What comes next is never kept waiting by what comes later: of the claims that are not settled, the oldest gets what it
asks for, whatever is held. So no more is held than the budget, and what one claim asks for beyond it.
"""

from __future__ import annotations

import asyncio
from itertools import count

__all__ = ["FREE_BYTES", "Budget", "Claim"]

FREE_BYTES = 256 * 1024
"""What each payload is granted before its size is known, so that those that are no larger never have to ask."""


class Budget:
    """Bytes that claims share. Used within one event loop."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.held = 0
        self._numbers = count()
        self._unsettled: dict[Claim, None] = {}
        """The oldest first."""
        self._waiting: dict[asyncio.Future[None], tuple[Claim, int]] = {}
        self._closed = False

    def claim(self) -> Claim:
        """A claim that is younger than all others. It holds nothing yet."""
        claim = Claim(self, next(self._numbers))
        self._unsettled[claim] = None
        return claim

    def give_back(self, size: int) -> None:
        """Count no longer what a settled claim held."""
        self.held -= size
        self._wake()

    def close(self) -> None:
        """Let everyone have everything: nobody counts any more."""
        self._closed = True
        self._wake()

    async def take(self, claim: Claim, size: int) -> None:
        """See `Claim.need`."""
        if self._is_first(claim) or (not self._waiting and self._has(size)):
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
        self._unsettled.pop(claim, None)
        self.held += size - claim.held
        claim.held = size
        self._wake()

    def _wake(self) -> None:
        """Grant what there is room for, to the oldest claim first."""
        if not self._waiting:
            return
        for granted, (claim, size) in sorted(self._waiting.items(), key=lambda each: each[1][0].number):
            if granted.done():
                continue
            if not (self._is_first(claim) or self._has(size)):
                return
            self._grant(claim, size)
            granted.set_result(None)

    def _grant(self, claim: Claim, size: int) -> None:
        self.held += size
        claim.held += size

    def _has(self, size: int) -> bool:
        return self._closed or self.held + size <= self._capacity

    def _is_first(self, claim: Claim) -> bool:
        return next(iter(self._unsettled), claim) is claim


class Claim:
    """What one job holds of a budget."""

    __slots__ = ("_budget", "held", "number", "used")

    def __init__(self, budget: Budget, number: int) -> None:
        self._budget, self.number = budget, number
        self.held = 0
        """Bytes."""
        self.used = 0
        """Those of them that are taken by now."""

    @property
    def left(self) -> int:
        """Bytes that may be taken without asking."""
        return max(0, self.held - self.used)

    async def need(self, size: int) -> None:
        """Ask for what is missing of so many bytes, which are not taken yet. Returns once there is room for them."""
        missing = self.used + size - self.held
        if missing > 0:
            await self._budget.take(self, missing)

    def use(self, size: int) -> None:
        """Note that so many bytes have been taken."""
        self.used += size

    def settle(self, size: int) -> None:
        """Hold so many bytes from now on, until `Budget.give_back`, and ask for no more."""
        self._budget.settle(self, size)
