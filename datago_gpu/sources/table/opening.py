"""Opens all tables that the settings name: finds them, reads what they hold, and computes what identifies them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from msgspec import structs

from datago_gpu.config import LoaderConfig, TableSource
from datago_gpu.config.local_paths import FILE_SCHEME
from datago_gpu.config.shards import without_login
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.sources.hub import HUB_SCHEME, HubPath
from datago_gpu.sources.local import Patience
from datago_gpu.sources.reference import utf8_text
from datago_gpu.sources.table.columns import roles_of, root_of, usual_texts
from datago_gpu.sources.table.fingerprint import SMALL, fingerprint
from datago_gpu.sources.table.located import Located, local_tables, partitions_of
from datago_gpu.sources.table.readers import ParquetTable, open_table
from datago_gpu.sources.table.samples import Origin
from datago_gpu.sources.table.settled import WholeTable
from datago_gpu.sources.table.table_rows import TableRows
from datago_gpu.sources.table.tables import Tables

if TYPE_CHECKING:
    from datago_gpu.sources.http.http_client import HttpClient
    from datago_gpu.sources.table.remote_tables import RemoteTables

__all__ = ["open_rows"]

_DIGEST_BYTES = 8


async def open_rows(config: LoaderConfig, source: TableSource, http: HttpClient) -> TableRows:
    """Returns the rows that the settings name. Raises ConfigError, SourceError."""
    located: list[Located] = []
    remote: RemoteTables | None = None
    try:
        for address in source.addresses:
            if "://" in address and not address.lower().startswith(FILE_SCHEME):
                from datago_gpu.sources.table.remote_tables import RemoteTables

                remote = remote or RemoteTables(config, source, http)
                located += await remote.find(address)
            else:
                located += await call_in_thread(None, local_tables, address, config.absolute)
        return await call_in_thread(None, _open_all, located, config, source)
    finally:
        if remote:
            remote.close()


def _root_of(source: TableSource, config: LoaderConfig) -> str:
    """Returns where relative paths begin, if the settings say so."""
    if not source.root:
        return ""
    if source.root.lower().startswith(HUB_SCHEME):
        return HubPath.parse(source.root).url
    if "://" not in source.root or source.root.lower().startswith(FILE_SCHEME):
        return config.absolute(source.root)
    is_http = source.root.lower().startswith(("http://", "https://"))  # a login is sent as a header: headers_by_origin
    return without_login(source.root)[0] if is_http else source.root


def _open_all(located: list[Located], config: LoaderConfig, source: TableSource) -> TableRows:
    root = _root_of(source, config)
    texts = [name for name in (source.image, source.id, *usual_texts()) if name]
    patience = Patience(config.http_config)
    opened = [open_table(each, texts, patience) for each in located]
    tables = Tables(located, opened, partitions_of(located))
    roles = structs.replace(roles_of(source, tables.schema, located[0].shown), sized=config.wants_sizes)
    tables.check(roles.places)
    many = len(located) > 1
    origins = [
        Origin(
            each.address.partition("?")[0],
            root or root_of(table.schema) or each.folder,
            f"{utf8_text(each.below)}:" if many else "",
        )
        for each, table in zip(located, opened, strict=True)
    ]
    rows = TableRows(config, tables, roles, origins, _digest(located, opened))
    if not len(rows):
        raise SourceError(_nothing(source, sum(sum(table.counts) for table in opened)))
    if config.lockstep:
        rows.sizes()  # on this thread, since they may be remote
    return rows


def _nothing(source: TableSource, count: int) -> str:
    """Returns why there is nothing to load. count: rows of all tables."""
    if not count:
        return f"the tables of {source.shown_path} have no rows"
    return f"none of the {count:,} rows of {source.shown_path} passes source_config.filter: {source.filter}"


def _digest(located: Sequence[Located], opened: Sequence[ParquetTable | WholeTable]) -> str:
    """Returns a digest of the tables' names and contents."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    whole = sum(each.size() for each in located) <= SMALL
    for each, table in zip(located, opened, strict=True):
        digest.update(os.fsencode(each.below) + b"\0" + str(sum(table.counts)).encode() + b"\0")
        digest.update(fingerprint(each, whole=whole))
    return digest.hexdigest()
