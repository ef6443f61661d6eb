"""Decides which bucket a sample's picture goes to, and which pictures are too small."""

from __future__ import annotations

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import Rejected
from datago_gpu.imaging.geometry import Size, cover_region
from datago_gpu.sources.reference import SampleRef, Skipped

__all__ = ["BucketRule"]

_LEAST_SHOWN = 0.5
"""The share of a picture that must be visible if its bucket was planned for another shape."""


class BucketRule:
    """Chooses buckets by the settings of a loader, or keeps the buckets that a plan has chosen."""

    def __init__(self, config: LoaderConfig) -> None:
        self._choice = config.bucket_choice()
        self._may_reject = self._choice.may_reject
        self._choose = self._choice.direct

    def by_listing(self, ref: SampleRef) -> Skipped | None:
        """Returns the skip of a sample whose picture is too small by its listed size: its payload is not needed."""
        if not self._may_reject or ref.bucket or not all(ref.size):
            return None
        try:
            self._choice.check_listed(*ref.size)
        except Rejected as problem:
            return Skipped(ref.index, ref.id, ref.where, problem.reason, f"listed as {problem.detail}")
        return None

    def choose(self, ref: SampleRef, height: int, width: int) -> Size | None:
        """Returns the bucket of a picture of this size; None if pictures keep their sizes.

        Raises Rejected: "too-small"; or "other-shape" if the bucket was planned for another size, so that most of the
        picture could not be visible, or would be enlarged although the settings forbid this.
        """
        if ref.bucket is None:
            return self._choose(height, width)
        self._choice.check_edge(height, width)
        self._check_planned(ref, ref.bucket, height, width)
        return ref.bucket

    def _check_planned(self, ref: SampleRef, bucket: Size, height: int, width: int) -> None:
        if self._choice.enlarges(height, width, bucket):
            problem = "would have to enlarge it"
        elif ref.size == (height, width):  # the plan has chosen by this size
            return
        else:
            _, _, high, wide = cover_region(height, width, bucket)
            if high * wide >= _LEAST_SHOWN * height * width or self._is_own(bucket, height, width):
                return
            problem = "would show less than half of it"
        listed = "{} x {}".format(*ref.size) if all(ref.size) else "of another shape"
        raise Rejected(
            "other-shape",
            f"{height} x {width}, but listed as {listed}: its planned bucket, {bucket[0]} x {bucket[1]}, {problem}. "
            "An index holds the upright sizes of the pictures",
        )

    def _is_own(self, bucket: Size, height: int, width: int) -> bool:
        """Returns whether the bucket is the picture's own, of any resolution: then no other would show more of it."""
        return any(table.nearest(height, width) == bucket for table in self._choice.tables)
