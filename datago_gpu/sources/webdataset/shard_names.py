"""What shards are called wherever they lie, and how long they are: what a state remembers of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from urllib.parse import unquote, urlsplit

from datago_gpu.sources.base import utf8_text
from datago_gpu.sources.webdataset.addresses import is_http
from datago_gpu.sources.webdataset.shard_list import Shard

__all__ = ["lengths_of", "names_of"]


def names_of(shards: Sequence[Shard]) -> list[bytes]:
    """The path of each below the folder that all of them share: the same for a copy on another server or disk."""
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
    """Bytes of each; None where that of one is unknown. Looks at local files, which may take a while."""
    lengths = []
    for shard in shards:
        length = shard.length
        if length is None and "://" not in shard.address:
            try:
                length = os.stat(shard.address).st_size
            except OSError:  # whoever opens it says so
                return None
        if length is None:
            return None
        lengths.append(length)
    return lengths
