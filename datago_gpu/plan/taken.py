"""How large global batches are, and how many were taken before, perhaps on other numbers of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import Meta

from datago_gpu.imaging.buckets import samples_within
from datago_gpu.imaging.geometry import Size

if TYPE_CHECKING:
    from datago_gpu.config import LoaderConfig

__all__ = ["MoreTaken", "Taken", "Together", "check_together", "continued", "rows_together", "together_of"]

_MOST_ROWS = 1 << 24
_Ranks = Annotated[int, Meta(ge=1, le=_MOST_ROWS)]
_Pixels = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]

Together: TypeAlias = int | tuple[_Pixels, _Ranks]  # msgspec 0.23 misreads a tuple beside an int with bounds
"""G: the number of rows in a global batch. With `batch_pixels`, where it depends on the bucket: batch_pixels and the
number of ranks, from which `rows_together` computes it for each bucket."""

Taken = tuple[Together, int]
"""G, and how many such batches were taken."""


def check_together(together: Together) -> None:
    """Raises ValueError if this is no number of rows: for states."""
    if isinstance(together, int) and not 1 <= together <= _MOST_ROWS:
        raise ValueError(f"{together} rows in a global batch: there are 1 to {_MOST_ROWS}")


class MoreTaken(Exception):
    """More batches were taken than there are: the rows are not those of which they were taken."""


def together_of(config: LoaderConfig) -> Together:
    """Returns G for these settings."""
    ranks = config.rank_and_world_size()[1]
    return (config.batch_pixels, ranks) if config.batch_pixels else config.batch_size * ranks


def rows_together(together: Together, bucket: Size) -> int:
    """Returns how many rows a global batch of this bucket has."""
    if isinstance(together, int):
        return together
    pixels, ranks = together
    return ranks * samples_within(pixels, bucket)


def continued(taken: Sequence[Taken], together: Together) -> list[Taken]:
    """Returns `taken` so that the last entry has this G (`together`): an entry with 0 steps is added if necessary."""
    if taken and taken[-1][0] == together:
        return list(taken)
    return [*(each for each in taken if each[1]), (together, 0)]
