"""The memory of what is fetched ahead: counted before it is taken, so that no run of large payloads passes it.

What is handed out next is never kept waiting by what comes later: its claim gets what it asks for, whatever is held. So
no more is held than the budget, and what that one claim asks for beyond the budget.
"""

from __future__ import annotations

import asyncio
from itertools import count

__all__ = ["FREE_BYTES", "Budget", "Claim"]

FREE_BYTES = 256 * 1024
"""What each payload is granted before its size is known, so that those that are no larger never have to ask."""


class Budget:
    """Bytes that claims share. Used within one event loop.

    ordered: claims are handed out by their age; else those that are settled come first.
    """

    def __init__(self, capacity: int, *, ordered: bool = True) -> None:
        self._capacity, self._ordered = capacity, ordered
        self.held = 0
        self._numbers = count()
        self._coming: dict[Claim, None] = {}
        """Claims that have not been handed out, the oldest first; without those that are settled, unless `ordered`."""
        self._ready = 0
        """Claims that are settled and have not been handed out, unless `ordered`."""
        self._waiting: dict[asyncio.Future[None], tuple[Claim, int]] = {}
        self._closed = False

    def claim(self) -> Claim:
        """A claim that is younger than all others. It holds nothing yet."""
        claim = Claim(self, next(self._numbers))
        self._coming[claim] = None
        return claim

    def hand_out(self, claim: Claim) -> None:
        """Count a settled claim no longer."""
        if self._ordered:
            del self._coming[claim]
        else:
            self._ready -= 1
        self.held -= claim.held
        self._wake()

    def close(self) -> None:
        """Let everyone have everything: nobody counts any more."""
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
        """Grant what there is room for, to the oldest claim first."""
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
        """Whether nothing else can be handed out before it."""
        return not self._ready and next(iter(self._coming), None) is claim


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
        """Hold so many bytes from now on, until `Budget.hand_out`, and ask for no more."""
        self._budget.settle(self, size)
