"""Chooses what is shown at the places of bad samples."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["repeat"]


def repeat(places: list[int], real: list[bool], good: Collection[int]) -> tuple[list[int], list[bool]]:
    """Puts good samples at the places of bad ones, in turn. Returns which sample is at each place, and which are real.

    places: which sample was planned for each place. good: the samples that can be shown, at least one.
    """
    there = set(good)
    shown = [at for at in dict.fromkeys(places) if at in there]
    filled = [at if at in there else shown[place % len(shown)] for place, at in enumerate(places)]
    return filled, [was and at in there for was, at in zip(real, places, strict=True)]
