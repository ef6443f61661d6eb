"""Measures waits: a stage calls `begin` before it waits and `end` afterwards."""

from __future__ import annotations

import time

__all__ = ["Wait"]


class Wait:
    """Sums up the seconds of one kind of wait, including the wait that is going on.

    One thread waits; any thread may read `seconds`. There is no lock: the sum and the begin of the current wait are
    replaced together.
    """

    __slots__ = ("_state", "name")

    def __init__(self, name: str) -> None:
        """name: what the stage waits for. A trace shows this name."""
        self.name = name
        self._state = (0.0, 0.0)
        """The seconds of all waits that have ended, and when the current one began; 0 if there is none."""

    def begin(self) -> None:
        """Starts a wait."""
        self._state = (self._state[0], time.perf_counter())

    def end(self) -> None:
        """Ends the wait, if one is going on."""
        seconds, began = self._state
        if began:
            self._state = (seconds + time.perf_counter() - began, 0.0)

    @property
    def seconds(self) -> float:
        """Returns the seconds of all waits so far."""
        seconds, began = self._state
        return seconds + time.perf_counter() - began if began else seconds

    @property
    def began(self) -> float:
        """Returns when the current wait began, by `time.perf_counter`; 0 if there is none."""
        return self._state[1]
