"""Chooses the survey for a source, and opens what it needs: processes, or a client for its servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import msgspec

from datago_gpu.config import DataroomSource, FileSource, LoaderConfig, MixSource, TableSource, WebDatasetSource
from datago_gpu.config.shards import shown_shards
from datago_gpu.errors import ConfigError
from datago_gpu.feeder.runtime import http_client_type
from datago_gpu.index.folder_survey import FolderSurvey
from datago_gpu.index.reader_pool import ReaderPool
from datago_gpu.index.survey import Survey, whole_source

__all__ = ["open_survey", "source_text"]

_SECRET = frozenset(("api_key", "auth_token", "storage_options"))
_ADDRESSES = frozenset(("api_url", "path", "root", "url"))
_OF_A_RUN = frozenset(
    ("rank", "world_size", "random_sampling", "random_method", "rank_split", "shuffle_buffer", "where")
)
"""Settings of a source that change nothing in an index. By `min_short_edge` only a Dataroom filters its listing."""


@asynccontextmanager
async def open_survey(config: LoaderConfig, readers: int) -> AsyncIterator[Survey]:
    """Yields the survey of the source that the settings name. readers: see `build_index`. Raises ConfigError."""
    if isinstance(config.source_config, MixSource):
        raise ConfigError(
            "a mix cannot be indexed: make an index of each of its sources, and give each index to the mix as a source "
            "of source_type 'table'"
        )
    config = whole_source(config)
    source = config.source_config
    if isinstance(source, FileSource) and source.is_stored:
        from datago_gpu.index.bucket_survey import BucketSurvey

        yield BucketSurvey(config)
    elif isinstance(source, FileSource):
        async with ReaderPool(config, readers) as pool:
            yield FolderSurvey(config, pool)
    elif isinstance(source, DataroomSource):
        http_client = http_client_type()  # before the import below, so that aiohttp reads no certificates
        from datago_gpu.index.dataroom_survey import DataroomSurvey

        async with http_client(config.http_config) as http:
            yield DataroomSurvey(config, http)
    elif isinstance(source, WebDatasetSource):
        http_client = http_client_type()
        from datago_gpu.index.shard_survey import ShardSurvey

        async with http_client(config.http_config) as http, ReaderPool(config, readers) as pool:
            with closing(await ShardSurvey.open(config, http, pool)) as survey:
                yield survey
    elif isinstance(source, TableSource):
        http_client = http_client_type()
        from datago_gpu.index.table_survey import TableSurvey

        async with http_client(config.http_config) as http, ReaderPool(config, readers) as pool:
            yield TableSurvey(config, http, pool)
    else:
        raise ConfigError(f"source_type {config.source_type!r} cannot be indexed")


def source_text(config: LoaderConfig) -> str:
    """Returns source_type and source_config as JSON, without secrets and without what changes nothing in an index.

    Addresses are without their queries, which may hold signatures.
    """
    of_a_run = _OF_A_RUN if isinstance(config.source_config, DataroomSource) else _OF_A_RUN | {"min_short_edge"}
    shown = {
        name: shown_shards(value) if name in _ADDRESSES else value
        for name, value in msgspec.to_builtins(config.source_config).items()
        if name not in _SECRET and name not in of_a_run
    }
    return msgspec.json.encode({"source_type": config.source_type, "source_config": shown}, order="sorted").decode()
