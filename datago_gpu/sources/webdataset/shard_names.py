"""Returns the names of shards independent of where they lie, and their lengths, for a state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from urllib.parse import unquote, urlsplit

from datago_gpu.sources.reference import utf8_text
from datago_gpu.sources.webdataset.addresses import is_http
from datago_gpu.sources.webdataset.shard_list import Shard

__all__ = ["lengths_of", "names_of"]


def names_of(shards: Sequence[Shard]) -> list[bytes]:
    """Returns the path of each shard below their common folder: the same for a copy on another server or disk."""
    paths = [_path(shard.address).split("/") for shard in shards]
    folders = [path[:-1] for path in paths]
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
    shared = len(list(alike))
    return [utf8_text("/".join(path[shared:])).encode() for path in paths]


def _path(address: str) -> str:
    if is_http(address):
        return unquote(urlsplit(address).path, errors="surrogateescape")
    return address.partition("://")[2].partition("/")[2] if "://" in address else address


def lengths_of(shards: Sequence[Shard]) -> list[int] | None:
    """Returns the bytes of each shard; None if any length is unknown. Looks at local files, which may take a while."""
    lengths = []
    for shard in shards:
        length = shard.length
        if length is None and "://" not in shard.address:
            try:
                length = os.stat(shard.address).st_size
            except OSError:  # opening the shard reports the error
                return None
        if length is None:
            return None
        lengths.append(length)
    return lengths
