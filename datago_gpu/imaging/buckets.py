"""Chooses the bucket of a picture by its size, or says that the picture is too small.

Admission (which knows the size from the header), the plans of lockstep (which know the listed sizes) and
`preview --buckets` all ask the same `BucketChoice`. `plan/row_buckets.py` answers for many pictures at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from datago_gpu.errors import Rejected
from datago_gpu.imaging.geometry import BucketTable, Size

__all__ = ["MOST_SAMPLES", "BucketChoice", "by_resolution", "samples_within"]

MOST_SAMPLES = 4096
"""The most samples of a batch."""

_SAME_RESOLUTION = 2 / 3
"""Of a list of sizes, those form one resolution whose area is above this share of the largest one's."""


def samples_within(pixels: int, size: Size) -> int:
    """Returns how many samples of a bucket make up a batch of at most `pixels` pixels: at least one."""
    return max(1, min(MOST_SAMPLES, pixels // (size[0] * size[1])))


def by_resolution(sizes: Iterable[Size]) -> list[list[Size]]:
    """Sorts the sizes of a user's list into resolutions, the largest first.

    A size belongs to a resolution if its area is above two thirds of the largest area there, unless the resolution has
    a size of the same aspect ratio already.
    """
    resolutions: list[list[Size]] = []
    aspects: set[float] = set()
    for height, width in sorted(sizes, key=lambda size: (-size[0] * size[1], size)):
        aspect = round(width / height, 3)
        largest = resolutions[-1][0] if resolutions else (0, 0)
        if not resolutions or aspect in aspects or height * width <= _SAME_RESOLUTION * largest[0] * largest[1]:
            resolutions.append([])
            aspects.clear()
        resolutions[-1].append((height, width))
        aspects.add(aspect)
    return resolutions


class BucketChoice:
    """Chooses the bucket of each picture.

    tables: the buckets of each resolution, the largest resolution first; none if pictures keep their sizes.
    needed: bucket -> height and width from which on a picture fills the bucket, where that is more than the bucket's
    own: there are further, larger views.
    upscale: whether a picture that fills no bucket is enlarged to one of the smallest resolution.
    least_edge: the shortest side that a picture may have.
    """

    def __init__(
        self,
        tables: Sequence[BucketTable],
        *,
        upscale: bool = True,
        least_edge: int = 0,
        needed: Mapping[Size, Size] | None = None,
    ) -> None:
        self.tables, self.upscale, self.least_edge, self._needed = tables, upscale, least_edge, needed or {}
        self.sizes: list[Size] = list(dict.fromkeys(chain.from_iterable(table.sizes for table in tables)))
        """(height, width) of each bucket, once: the largest resolution first, of each the widest bucket last."""

    @property
    def may_reject(self) -> bool:
        """Returns whether there are pictures that are too small."""
        return bool(self.least_edge or (self.tables and not self.upscale))

    @property
    def direct(self) -> Callable[[int, int], Size | None]:
        """Returns the fastest function that does what `choose` does."""
        only = self.tables[0].nearest if len(self.tables) == 1 else self.choose
        return only if self.upscale and not self.least_edge else self.choose

    def choose(self, height: int, width: int) -> Size | None:
        """Returns the bucket of a picture; None if pictures keep their sizes. Raises Rejected: "too-small".

        In each resolution a picture has one bucket, that of the nearest aspect ratio. The picture goes to the largest
        resolution whose bucket it fills without being enlarged.
        """
        self.check_edge(height, width)
        bucket = None
        for table in self.tables:
            bucket = table.nearest(height, width)
            needed = self.needed(bucket)
            if height >= needed[0] and width >= needed[1]:
                return bucket
        if bucket and not self.upscale:
            high, wide = self.needed(bucket)
            raise Rejected(
                "too-small", f"{height} x {width} would have to be enlarged to its smallest bucket, {high} x {wide}"
            )
        return bucket

    def bucket(self, height: int, width: int) -> Size:
        """Returns the bucket of a picture, where there are buckets. Raises Rejected: "too-small"."""
        bucket = self.choose(height, width)
        assert bucket is not None
        return bucket

    def check_edge(self, height: int, width: int) -> None:
        """Raises Rejected, "too-small", if the shorter side is below the minimum."""
        if min(height, width) < self.least_edge:
            raise Rejected("too-small", f"{height} x {width}, below min_short_edge ({self.least_edge})")

    def check_listed(self, height: int, width: int) -> None:
        """Raises Rejected, "too-small", if a picture is too small by its listed size.

        A listed size may be that of a picture that EXIF turns: what would fit after a turn is not rejected.
        """
        try:
            self.choose(height, width)
        except Rejected:
            self.choose(width, height)

    def enlarges(self, height: int, width: int, bucket: Size) -> bool:
        """Returns whether a picture would have to be enlarged to a bucket although the settings forbid this."""
        needed = self.needed(bucket)
        return not self.upscale and (height < needed[0] or width < needed[1])

    def needed(self, bucket: Size) -> Size:
        """Returns the height and the width from which on a picture fills a bucket."""
        return self._needed.get(bucket, bucket)
