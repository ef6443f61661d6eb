"""Groups samples into batches of one bucket each. The batches depend only on the order of samples, never on timing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

from datago_gpu.feeder.admitted import Admitted

__all__ = ["Grouper"]


class Grouper:
    """Holds the batches that are not full yet, one per bucket.

    A batch is complete when it has `batch_size` samples, or when one more sample would exceed `batch_bytes`,
    `most_words` bytes of attributes and tags, or `batch_pixels` where images keep their sizes. A sample that exceeds a
    limit alone becomes a batch of its own. When all held samples together exceed `held_bytes`, the batch with the most
    bytes is sent although it is not full.
    mixed: one batch holds samples of all buckets.
    """

    def __init__(
        self,
        batch_size: int,
        batch_bytes: int,
        held_bytes: int,
        *,
        most_words: int = sys.maxsize,
        batch_pixels: int | None = None,
        mixed: bool = False,
    ) -> None:
        self._most_words = most_words
        self._mixed, self._batch_pixels, self._pixels = mixed, batch_pixels, 0
        self._batch_size, self._batch_bytes, self._held_bytes = batch_size, batch_bytes, held_bytes
        self._open: dict[tuple[int, int] | None, list[Admitted]] = {}
        self._bytes: dict[tuple[int, int] | None, int] = {}
        self._words: Counter[tuple[int, int] | None] = Counter()
        """Bytes of attributes and tags in each batch."""
        self._held = 0

    def __len__(self) -> int:
        """Returns the number of samples held."""
        return sum(map(len, self._open.values()))

    @property
    def open_batches(self) -> int:
        """Returns the number of batches that are not full."""
        return len(self._open)

    def add(self, sample: Admitted) -> Iterator[list[Admitted]]:
        """Adds a sample and yields the batches that it completes."""
        bucket, size = None if self._mixed else sample.bucket, sample.bytes
        if bucket in self._open and not self._fits(sample, bucket):
            yield self._close(bucket)
        batch = self._open.setdefault(bucket, [])
        batch.append(sample)
        self._bytes[bucket] = self._bytes.get(bucket, 0) + size
        self._words[bucket] += sample.ref.info.words_bytes
        self._held += size
        if sample.bucket is None:
            self._pixels += sample.pixels
        if len(batch) == self._batch_size:
            yield self._close(bucket)
        elif self._held > self._held_bytes:
            yield self._close(max(self._bytes, key=self._bytes.__getitem__))

    def flush(self) -> Iterator[list[Admitted]]:
        """Yields all batches although they are not full, the oldest batch first."""
        for bucket in sorted(self._open, key=lambda bucket: _begun_at(self._open[bucket])):
            yield self._close(bucket)

    def _fits(self, sample: Admitted, bucket: tuple[int, int] | None) -> bool:
        """Returns whether the sample fits into the batch of that bucket."""
        if self._bytes[bucket] + sample.bytes > self._batch_bytes:
            return False
        if self._words[bucket] + sample.ref.info.words_bytes > self._most_words:
            return False
        whole = self._batch_pixels is not None and sample.bucket is None
        return not (whole and self._pixels + sample.pixels > (self._batch_pixels or 0))

    def _close(self, bucket: tuple[int, int] | None) -> list[Admitted]:
        if bucket is None:  # images that keep their sizes share one batch
            self._pixels = 0
        self._held -= self._bytes.pop(bucket)
        del self._words[bucket]
        return self._open.pop(bucket)


def _begun_at(batch: list[Admitted]) -> tuple[int, int]:
    return batch[0].ref.epoch, batch[0].ref.index
