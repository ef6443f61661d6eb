"""The sources of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datago_gpu.config import FileSource, LoaderConfig, MixSource, TableSource, UserSource, WebDatasetSource
from datago_gpu.config.lockstep_rules import JUDGED_FROM
from datago_gpu.errors import ConfigError
from datago_gpu.sources.reference import Source

if TYPE_CHECKING:
    from datago_gpu.sources.cache.cache_folder import CacheFolder
    from datago_gpu.sources.http.http_client import HttpClient
    from datago_gpu.sources.user.row_link import RowLink

__all__ = ["open_source"]


def open_source(
    config: LoaderConfig,
    http: HttpClient | None,
    link: RowLink | None = None,
    cache: CacheFolder | None = None,
) -> Source:
    """Returns the source that the settings name. The source does nothing until its `refs` is called.

    link: to the rows of the program's own, for source_type "rows". cache: keeps the shards; None if none are kept.
    """
    if isinstance(config.source_config, MixSource):
        return _open_mix(config, http, link, cache)
    source = _open(config, http, link, cache)
    text = config.source_config.where
    if not text.strip() or getattr(source, "applies_where", False):
        return source
    from datago_gpu.sources.where import WhereSource  # most configs have no `where`

    return WhereSource(source, text, judged_from=JUDGED_FROM if config.rank_and_world_size()[1] > 1 else 1)


def _open(config: LoaderConfig, http: HttpClient | None, link: RowLink | None, cache: CacheFolder | None) -> Source:
    if isinstance(config.source_config, FileSource):
        from datago_gpu.sources.listed_images import Images
        from datago_gpu.sources.listers import open_lister

        return Images(config, open_lister(config))
    if isinstance(config.source_config, UserSource):
        if link is None:
            raise ConfigError("source_type 'rows' needs rows: Loader(config, source=rows)")
        from datago_gpu.sources.user.user_rows import open_user_source

        return open_user_source(config, link)
    assert http is not None
    if isinstance(config.source_config, WebDatasetSource):
        from datago_gpu.sources.webdataset.shards_source import WebDataset

        return WebDataset(config, http, cache)
    if isinstance(config.source_config, TableSource):
        from datago_gpu.sources.table.table_source import Table

        return Table(config, http)
    from datago_gpu.sources.dataroom.dataroom_source import Dataroom

    return Dataroom(config, http)


def _open_mix(config: LoaderConfig, http: HttpClient | None, link: RowLink | None, cache: CacheFolder | None) -> Source:
    sources = {name: open_source(each, http, link, cache) for name, each in config.by_source().items()}
    if config.lockstep:
        from datago_gpu.sources.mix.mix_rows import open_mixed_rows

        return open_mixed_rows(config, sources)
    from datago_gpu.sources.mix.mix_source import Mix

    return Mix(config, sources)
