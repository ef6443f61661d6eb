"""The number of samples of a source, where it can be known before the first sample."""

from __future__ import annotations

from datago_gpu.errors import ConfigError
from datago_gpu.sources.listed_images import Images
from datago_gpu.sources.reference import Source
from datago_gpu.sources.rows import RowsSource
from datago_gpu.sources.where import WhereSource

__all__ = ["count_samples"]


async def count_samples(source: Source) -> int:
    """Returns the number of this rank's samples, those that `where` leaves out included.

    Raises ConfigError if the source cannot tell, and SourceError.
    """
    if isinstance(source, WhereSource):
        source = source.source
    if isinstance(source, RowsSource | Images):
        return await source.count()
    raise ConfigError(
        "repeat needs a source whose number of samples is known before the first one, and rows that are walked through "
        "have none: give a sequence of rows (with len() and []), or give all sources a weight"
    )
