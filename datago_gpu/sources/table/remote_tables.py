"""Finds the tables behind an address: one file, those below a prefix of a bucket, those of a Hugging Face dataset."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, aclosing
from functools import cached_property, partial

import msgspec

from datago_gpu.config import LoaderConfig, TableSource
from datago_gpu.config.shards import without_login
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.errors import SourceError
from datago_gpu.redact import without_query
from datago_gpu.sources.authorization import headers_by_origin
from datago_gpu.sources.http.excerpt import Excerpt
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.http.origins import origin_of
from datago_gpu.sources.hub import HUB_SCHEME, HubPath
from datago_gpu.sources.object_store.stores import Stores, is_stored
from datago_gpu.sources.table.located import Located, ending_of, is_private, one_kind
from datago_gpu.sources.table.remote_file import RemoteFile
from datago_gpu.sources.wildcards import folder_before_wildcard, has_wildcard, matches_pattern
from datago_gpu.system import descriptor_path
from datago_gpu.units import MiB

__all__ = ["RemoteTables"]

_NEXT = re.compile(r"<([^>]*)>\s*;[^,]*rel=\"?next\"?")
_MOST_PAGES = 1000


class _Entry(msgspec.Struct):
    """A file of a dataset, as the server of Hugging Face lists it."""

    path: str
    type: str = "file"


class RemoteTables:
    """Finds and opens remote tables. Must be used in the loop of `http`."""

    def __init__(self, config: LoaderConfig, source: TableSource, http: HttpClient) -> None:
        self._config, self._source, self._http = config, source, http
        self._headers = headers_by_origin(source)
        self._loop = asyncio.get_running_loop()
        self._copies = ExitStack()

    def close(self) -> None:
        """Closes the copies of tables. What is mapped of them stays readable."""
        self._copies.close()

    async def find(self, address: str) -> list[Located]:
        """Returns the tables that an entry of `path` names, in the order of their names. Raises SourceError."""
        scheme, _, rest = address.partition("://")
        address = f"{scheme.lower()}://{rest}"
        try:
            if address.startswith(HUB_SCHEME):
                found = await self._of_hub(address)
            elif is_stored(address):
                found = await self._of_bucket(address)
            elif scheme.lower() in ("http", "https"):
                found = [(without_login(address)[0], address.partition("?")[0].rpartition("/")[2])]
            else:
                known = ", ".join(("http://", "https://", *STORE_SCHEMES, HUB_SCHEME))
                raise SourceError(f"source_config.path: {scheme}:// is not supported: use a path, or {known}")
            tables = one_kind((Located(url, below) for url, below in found), without_query(address))
            return [await self._open(table) for table in tables]
        except HttpFailure as failure:
            words = f"cannot read {failure}; check source_config.path, and the token or the credentials"
        raise SourceError(self._source.redacted(words))

    async def _of_hub(self, address: str) -> list[tuple[str, str]]:
        """Returns address and path of the files of a dataset. A path that ends like a table is taken as it is."""
        whole = HubPath.parse(address)
        if ending_of(whole.path) and not has_wildcard(whole.path):
            return [(whole.url, whole.path.rpartition("/")[2])]
        folder = folder_before_wildcard(whole.path).rstrip("/") if has_wildcard(whole.path) else whole.path
        matches = _matcher(whole.path, folder)
        listed = await self._tree(msgspec.structs.replace(whole, path=folder))
        return [
            (msgspec.structs.replace(whole, path=path).url, path.removeprefix(f"{folder}/"))
            for path in sorted(listed)
            if matches(path)
        ]

    async def _tree(self, folder: HubPath) -> list[str]:
        """Returns the paths of all files below a folder of a dataset."""
        url, paths = folder.tree_url, list[str]()
        for _ in range(_MOST_PAGES):
            most = self._config.http_config.max_page_mb * MiB
            answer = await self._http.get(url, max_bytes=most, headers=self._headers_for(url), compressed=True)
            try:
                entries = msgspec.json.decode(answer.body, type=list[_Entry])
            except msgspec.MsgspecError:
                raise SourceError(f"{without_query(url)} has not answered with a list of files") from None
            paths += [entry.path for entry in entries if entry.type == "file"]
            match = _NEXT.search(answer.link)
            if not match:
                return paths
            url = match[1]
        raise SourceError(f"{without_query(url)}: the list of files has more than {_MOST_PAGES} pages")

    async def _of_bucket(self, address: str) -> list[tuple[str, str]]:
        """Returns address and key below the prefix of the tables that an address names."""
        if ending_of(address) and not has_wildcard(address):
            return [(address, address.rpartition("/")[2])]
        root = "/".join(address.split("/", 3)[:3]) + "/"
        wanted = address.removeprefix(root).rstrip("/")
        folder = folder_before_wildcard(wanted).rstrip("/") if has_wildcard(wanted) else wanted
        matches, keys = _matcher(wanted, folder), list[str]()
        async with aclosing(self._stores.list_objects(f"{root}{folder}")) as pages:
            async for page in pages:
                keys += [each.key for each in page if ending_of(each.key) and matches(each.key)]
        return [(root + key, key.removeprefix(f"{folder}/")) for key in sorted(keys)]

    async def _open(self, table: Located) -> Located:
        """Completes a table: a Parquet file is read by its parts, others are copied to a temporary file first."""
        if table.ending == ".parquet":
            head = await self._range(table.address, "", 0, 4)
            if head.total is None:
                raise SourceError(f"{table.shown}: the server does not tell the size of the file (Content-Range)")
            read = partial(self._range, table.address, head.tag)
            table.length = head.total
            table.opener = partial(RemoteFile, read, head.total, self._loop)
            return table
        file = self._copies.enter_context(tempfile.TemporaryFile(prefix="datago-table-"))  # noqa: SIM115 - see `close`

        async def keep(piece: bytes) -> None:
            file.write(piece)

        if is_stored(table.address):
            await self._stores.stream(table.address, keep)
        else:
            await self._http.stream(table.address, keep, headers=self._headers_for(table.address))
        file.flush()
        table.length = file.tell()
        path = descriptor_path(file.fileno())
        table.opener = lambda: path
        return table

    async def _range(self, url: str, tag: str, begin: int, end: int) -> Excerpt:
        if is_stored(url):
            return await self._stores.get_range(url, begin, end, tag=tag)
        found = await self._http.get_range(url, begin, end, tag=tag, headers=self._headers_for(url))
        assert found is not None
        return found

    def _headers_for(self, url: str) -> Mapping[str, str] | None:
        try:
            return self._headers.get(origin_of(url))
        except ValueError as problem:
            words = str(problem)
        raise SourceError(f"an address in source_config.path {words}: {without_query(url)!r}")

    @cached_property
    def _stores(self) -> Stores:
        return Stores(self._config.http_config, self._source.storage_options)


def _matcher(wanted: str, folder: str) -> Callable[[str], bool]:
    """Returns a function that decides by the path of a file whether the file is wanted.

    With wildcards, the path must match. Without, no part of the path below `folder` may be private.
    """
    if has_wildcard(wanted):
        return partial(matches_pattern, wanted.split("/"))

    def is_below(path: str) -> bool:
        return not any(map(is_private, path.removeprefix(f"{folder}/").split("/")))

    return is_below
