"""Groups samples into batches of one bucket each. The batches depend only on the order of samples, never on timing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator

from datago_gpu.feeder.admitted import Admitted
from datago_gpu.imaging.geometry import Size

__all__ = ["Grouper"]


class Grouper:
    """Holds the batches that are not full yet, one per bucket.

    A batch is complete when it has as many samples as `samples_of` says of its bucket, or when one more sample would
    exceed `batch_bytes`, `most_words` bytes of attributes and tags, or `whole_pixels` where images keep their sizes. A
    sample that exceeds a limit alone becomes a batch of its own. When all held samples together exceed `held_bytes`,
    the batch with the most bytes is sent although it is not full.
    mixed: one batch holds samples of all buckets.
    """

    def __init__(
        self,
        samples_of: Callable[[Size | None], int],
        batch_bytes: int,
        held_bytes: int,
        *,
        most_words: int = sys.maxsize,
        whole_pixels: int | None = None,
        mixed: bool = False,
    ) -> None:
        self._most_words = most_words
        self._mixed, self._whole_pixels, self._pixels = mixed, whole_pixels, 0
        self._samples_of, self._batch_bytes, self._held_bytes = samples_of, batch_bytes, held_bytes
        self._open: dict[Size | None, list[Admitted]] = {}
        self._full_at: dict[Size | None, int] = {}
        """The number of samples in a full batch of each bucket that has been seen."""
        self._bytes: dict[Size | None, int] = {}
        self._words: Counter[Size | None] = Counter()
        """Bytes of attributes and tags in each batch."""
        self._held = 0

    def __len__(self) -> int:
        """Returns the number of samples held."""
        return sum(map(len, self._open.values()))

    @property
    def open_places(self) -> int:
        """Returns the number of samples that the batches which are not full will have."""
        return sum(self._full_at[bucket] for bucket in self._open)

    def add(self, sample: Admitted) -> Iterator[list[Admitted]]:
        """Adds a sample and yields the batches that it completes."""
        bucket, size = None if self._mixed else sample.bucket, sample.bytes
        if bucket in self._open and not self._fits(sample, bucket):
            yield self._close(bucket)
        batch = self._open.get(bucket)
        if batch is None:
            batch = self._open[bucket] = []
            if bucket not in self._full_at:
                self._full_at[bucket] = self._samples_of(bucket)
        batch.append(sample)
        self._bytes[bucket] = self._bytes.get(bucket, 0) + size
        self._words[bucket] += sample.ref.info.words_bytes
        self._held += size
        if sample.bucket is None:
            self._pixels += sample.pixels
        if len(batch) == self._full_at[bucket]:
            yield self._close(bucket)
        elif self._held > self._held_bytes:
            yield self._close(max(self._bytes, key=self._bytes.__getitem__))

    def flush(self) -> Iterator[list[Admitted]]:
        """Yields all batches although they are not full, the oldest batch first."""
        for bucket in sorted(self._open, key=lambda bucket: _begun_at(self._open[bucket])):
            yield self._close(bucket)

    def _fits(self, sample: Admitted, bucket: Size | None) -> bool:
        """Returns whether the sample fits into the batch of that bucket."""
        if self._bytes[bucket] + sample.bytes > self._batch_bytes:
            return False
        if self._words[bucket] + sample.ref.info.words_bytes > self._most_words:
            return False
        whole = self._whole_pixels is not None and sample.bucket is None
        return not (whole and self._pixels + sample.pixels > (self._whole_pixels or 0))

    def _close(self, bucket: Size | None) -> list[Admitted]:
        if bucket is None:  # images that keep their sizes share one batch
            self._pixels = 0
        self._held -= self._bytes.pop(bucket)
        del self._words[bucket]
        return self._open.pop(bucket)


def _begun_at(batch: list[Admitted]) -> tuple[int, int]:
    return batch[0].ref.epoch, batch[0].ref.index
