"""How far an epoch was used before, perhaps on other numbers of ranks."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MoreTaken", "Taken", "continued"]

Taken = tuple[int, int]
"""G, the number of samples in a global batch, and how many such batches were taken."""


class MoreTaken(Exception):
    """More batches were taken than there are: the rows are not those of which they were taken."""


def continued(taken: Sequence[Taken], together: int) -> list[Taken]:
    """Returns `taken` so that the last entry has this G (`together`): an entry with 0 steps is added if necessary."""
    if taken and taken[-1][0] == together:
        return list(taken)
    return [*(each for each in taken if each[1]), (together, 0)]
