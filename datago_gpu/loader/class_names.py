"""The names of the classes of a Loader's or a LoaderDataset's labels, without loading anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import FileSource, LoaderConfig, TableSource
from datago_gpu.loader.on_thread import call_on_thread
from datago_gpu.sources.class_labels import check_classes, classes_of

if TYPE_CHECKING:
    from datago_gpu.loader.given_rows import GivenRows

__all__ = ["ClassNames"]


class ClassNames:
    """The property of Loader and LoaderDataset that names the classes."""

    _classes: tuple[LoaderConfig, list[str] | None] | None = None
    """The settings, and the classes that were found by them."""

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes: `classes[label]`. None if the labels are only numbers, or if there are none.

        The first call looks for them if the settings do not name them: in the folder's listing, or in the table's
        metadata and column of classes. Raises what listing raises.
        """
        config, _ = self._planned()
        if self._classes is None or self._classes[0] != config:
            self._classes = config, call_on_thread(_find, config)
        found = self._classes[1]
        return None if found is None else list(found)

    def _planned(self) -> tuple[LoaderConfig, GivenRows | None]:
        """See `Plans._planned`."""
        raise NotImplementedError


async def _find(config: LoaderConfig) -> list[str] | None:
    """Returns the names. Raises ConfigError if the sources of a mix have different ones."""
    return check_classes({name: await _find_of_source(each) for name, each in config.by_source().items()})


async def _find_of_source(config: LoaderConfig) -> list[str] | None:
    source, whole = config.source_config, config.with_source(rank=0, world_size=1)
    if isinstance(source, FileSource) and source.labels:
        from datago_gpu.sources.listers import open_lister

        return await classes_of(open_lister(whole), source)
    if isinstance(source, TableSource):
        from datago_gpu.feeder.runtime import http_client
        from datago_gpu.sources.table.table_source import Table

        async with http_client(whole) as http:
            return await classes_of(Table(whole, http), source)
    return source.class_names or None
