"""Reads object storage (s3, gs and az addresses) through the package obstore, which signs requests and retries them.

obstore is imported only here. Its errors, whose texts contain whole answers and addresses, become HttpFailures, so that
callers need not know where a failure comes from. Credentials come from the environment, from the machine's own identity
or, for s3 if boto3 is installed, from its files; see `storage_options`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from email.utils import format_datetime
from functools import partial
from typing import Any

from msgspec import Struct

from datago_gpu.config import HttpConfig
from datago_gpu.config.settings import without_secrets
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.errors import ConfigError
from datago_gpu.eventloop import call_in_thread, is_ending, started
from datago_gpu.redact import without_query
from datago_gpu.sources.http.excerpt import Excerpt, read_span
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.object_store.failures import failure_of, meaning_of, other_region, proxy_of
from datago_gpu.sources.object_store.options import proxies_of, store_options
from datago_gpu.sources.object_store.s3_listing import S3Listing, cannot_be_read, ends_listing, is_odd, odd_key_of
from datago_gpu.sources.reference import Need, Span

__all__ = ["MOST_STORED_PAGES", "Listed", "Stores", "is_stored"]

_PART_BYTES = 4 * 1024 * 1024
_PARTS_AHEAD = 4
"""Parts of one object that are requested at once: stores give a single connection 50 to 100 MB/s."""
_LISTED_AT_ONCE = 1000
MOST_STORED_PAGES = 10_000
"""The most consecutive pages of a listing without a usable object: 10 million objects."""
_STALE_S = 1.0
_DOWN_AFTER = 4
"""Consecutive objects that could not be fetched, each after all its tries, after which the store counts as down."""
_PANIC_HINT = "does the endpoint in storage_options or the environment begin with http:// or https://?"


def is_stored(address: str) -> bool:
    """Returns whether an address is one of object storage."""
    return address.startswith(STORE_SCHEMES)


class Listed(Struct, frozen=True):
    """Describes an object. key: its path in the bucket; if `is_odd`, it cannot be read. size: in bytes.

    tag: as `Excerpt.tag`.
    """

    key: str
    size: int
    tag: str = ""


def tag_of_object(meta: Mapping[str, Any]) -> str:
    """Returns what identifies the version of an object, by what obstore says of it."""
    return meta["e_tag"] or format_datetime(meta["last_modified"])


class Stores:
    """Reads objects from any number of buckets. Raises ConfigError if obstore is missing or refuses the options."""

    def __init__(self, config: HttpConfig, options: Mapping[str, str]) -> None:
        try:
            import obstore
        except ImportError:
            raise ConfigError("object storage needs the package obstore: pip install 'datago_gpu[cloud]'") from None
        self._obstore: Any = obstore
        self._config, self._options = config, options
        self._proxies = proxies_of(options, config)
        self._secrets = [*options.values(), *(secret for each in self._proxies.all for secret in each.secrets)]
        self._stores: dict[str, Any] = {}
        self._regions: dict[str, str] = {}
        self._failed_in_a_row = 0

    async def get(self, url: str, max_bytes: int, need: Need | None = None, span: Span | None = None) -> bytes:
        """Returns the object at `url`, or the bytes `span` of it, of at most `max_bytes`. Raises HttpFailure.

        need: called with the size of the object before it is read.
        """
        if span:
            return await read_span(partial(self.get_range, url), span, max_bytes, need)
        store, key = self._at(url)
        loop = asyncio.get_running_loop()

        async def read() -> bytes:
            while True:
                result = await self._obstore.get_async(store, key)
                size = result.meta["size"]
                if size > max_bytes:
                    raise HttpFailure("too-large", f"an object of {size} bytes, at most {max_bytes} are allowed")
                asked = loop.time()
                if need:
                    await need(size)
                if loop.time() - asked < _STALE_S:  # else the answer may have exceeded its time limits
                    return bytes(await result.bytes_async())

        content: bytes = await self._translate(url, read)
        return content

    async def get_range(self, url: str, begin: int, end: int, *, tag: str = "") -> Excerpt:
        """Returns the bytes from `begin` up to `end` of the object at `url`. Raises HttpFailure.

        tag: of an earlier excerpt; reason "changed" if the object was replaced since.
        """
        store, key = self._at(url)

        async def read() -> Excerpt:
            result = await self._obstore.get_async(store, key, options={"range": (begin, end)})
            return Excerpt(bytes(await result.bytes_async()), result.meta["size"], tag_of_object(result.meta))

        async def look() -> Excerpt:
            meta = await self._obstore.head_async(store, key)
            return Excerpt(b"", meta["size"], tag_of_object(meta))

        try:
            found: Excerpt = await self._translate(url, read)
        except HttpFailure as failure:
            if failure.status != 416:
                raise
            found = await self._translate(url, look)  # the object ends before `begin`: it may be empty
        if tag and found.tag != tag:
            raise failure_of(url, "changed", "the object was replaced while it was read")
        if len(found.content) != max(0, min(end, found.total or 0) - begin):
            raise failure_of(url, "cut-short", f"{len(found.content)} bytes arrived")
        return found

    async def stream(
        self, url: str, sink: Callable[[bytes], Awaitable[None]], *, begun: Callable[[int | None], None] | None = None
    ) -> None:
        """Passes the object at `url` to `sink` in order, and requests several parts of it at once. Raises HttpFailure.

        begun: called with the size of the object before the first byte. Reason "changed": the object was replaced
        meanwhile.
        """
        store, key = self._at(url)
        first, size, tag = await self._translate(url, lambda: self._first(store, key))
        if begun:
            begun(size)
        await sink(first)
        coming: deque[asyncio.Task[bytes]] = deque()
        begin = len(first)
        try:
            while begin < size or coming:
                while begin < size and len(coming) < _PARTS_AHEAD:
                    end = min(begin + _PART_BYTES, size)
                    coming.append(started(self._part(url, store, key, (begin, end), tag)))
                    begin = end
                await sink(await coming.popleft())
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)

    async def _first(self, store: Any, key: str) -> tuple[bytes, int, str | None]:
        """Returns the first part, the size of the whole object, and the tag that identifies it."""
        result = await self._obstore.get_async(store, key, options={"range": (0, _PART_BYTES)})
        return bytes(await result.bytes_async()), result.meta["size"], result.meta["e_tag"]

    async def _part(self, url: str, store: Any, key: str, part: tuple[int, int], tag: str | None) -> bytes:
        async def read() -> bytes:
            options: dict[str, Any] = {"range": part} | ({"if_match": tag} if tag else {})
            result = await self._obstore.get_async(store, key, options=options)
            return bytes(await result.bytes_async())

        content: bytes = await self._translate(url, read)
        if len(content) != part[1] - part[0]:
            raise failure_of(url, "cut-short", f"{len(content)} of {part[1] - part[0]} bytes arrived")
        return content

    async def list_objects(self, url: str, after: str = "") -> AsyncGenerator[list[Listed], None]:
        """Yields the objects below a prefix, in the store's order, one page at a time. Raises HttpFailure.

        after: a key; only objects behind that key are listed.
        """
        odd = after if is_odd(after) else ""
        if not odd:
            store, prefix = self._at(url)
            stream = self._obstore.list(store, prefix or None, offset=after or None, chunk_size=_LISTED_AT_ONCE)
            pages = aiter(stream)

            async def next_page() -> Any:
                try:
                    return await anext(pages, None)
                except self._obstore.exceptions.InvalidPathError as error:
                    return odd_key_of(str(error)) or "?"

            while isinstance(page := await self._translate(url, next_page), list):
                yield [Listed(each["path"], each["size"], tag_of_object(each)) for each in page]
                after = page[-1]["path"] if page else after
            odd = page or ""
        if odd:
            async with aclosing(self._list_all_keys(url, after, odd)) as others:
                async for other in others:
                    yield other

    async def list_folders(self, url: str) -> list[str]:
        """Returns the keys of the folders directly below a prefix. Raises HttpFailure."""
        store, prefix = self._at(url)

        async def read() -> Any:
            return await self._obstore.list_with_delimiter_async(store, prefix or None)

        return list((await self._translate(url, read))["common_prefixes"])

    async def _list_all_keys(self, url: str, after: str, odd: str) -> AsyncGenerator[list[Listed], None]:
        """Yields the same for a prefix with odd keys, one of which is `odd`. Raises HttpFailure."""
        try:
            if not url.startswith("s3://"):
                raise ImportError
            listing = await call_in_thread(None, S3Listing, url, after, self._options, self._config, self._proxies)
        except ImportError:
            raise ends_listing(url, odd) from None
        try:
            while (page := await self._translate(url, partial(call_in_thread, None, listing.page))) is not None:
                yield [Listed(key, size) for key, size in page]
        finally:
            listing.close()

    def _at(self, url: str) -> tuple[Any, str]:
        """Returns the store of an address, and the key in the store."""
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        root = f"{scheme}://{bucket}"
        if root not in self._stores:
            self._stores[root] = self._open_store(root)
        return self._stores[root], key

    def _open_store(self, root: str) -> Any:
        from obstore.store import from_url

        try:
            arguments = store_options(root, self._options, self._config, self._proxies)
        except ValueError as problem:  # of an invalid proxy
            raise ConfigError(f"{without_query(root)} cannot be accessed: {problem}") from None
        try:
            return from_url(root, **arguments)
        except BaseException as error:  # obstore panics on some options
            if is_ending(error) or isinstance(error, MemoryError):
                raise
            words = self._words(error)
        names = ", ".join(self._options) or "none"
        raise ConfigError(
            f"{without_query(root)} cannot be opened ({words}): check the address, the environment and "
            f"source_config.storage_options (given: {names})"
        )

    def _words(self, error: BaseException) -> str:
        """Returns the text of an obstore error, without the options that it repeats."""
        first, *_ = str(error).splitlines() or [""]
        return without_secrets(f"{type(error).__name__}: {first}".rstrip(": "), self._secrets)

    async def _region(self, error: Exception) -> str:
        """Returns the bucket's region if an error says only that the requested one is wrong; else ""."""
        address = other_region(error)
        if not address:
            return ""
        bucket = "/".join(address.split("/", 4)[:4])  # the bucket is in the host or in the path
        if bucket not in self._regions:
            from datago_gpu.sources.object_store.region import region_of  # importing urllib takes 30 ms

            proxy, timeout_s = proxy_of(str(error), self._proxies), self._config.connect_timeout_s
            self._regions[bucket] = await call_in_thread(None, region_of, address, proxy, timeout_s)
        return self._regions[bucket]

    async def _translate(self, url: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Returns the result of `work`. Raises HttpFailure, without any foreign text."""
        try:
            result = await work()
            self._failed_in_a_row = 0
            return result
        except HttpFailure as known:
            failure = known
            failure.url = failure.url or without_query(url)
        except FileNotFoundError:
            failure = failure_of(url, "http-404", "no such object", 404)
        except self._obstore.exceptions.BaseError as error:
            failure = meaning_of(url, error, self._obstore.exceptions, self._proxies, await self._region(error))
        except (OSError, ValueError) as error:
            odd = is_odd(url.partition("://")[2].partition("/")[2])
            failure = cannot_be_read(url) if odd else failure_of(url, "bad-url", type(error).__name__)
        except BaseException as error:  # obstore panics, for example if an endpoint is no address
            if is_ending(error) or isinstance(error, MemoryError):
                raise
            failure = failure_of(url, "store-failed", f"obstore has failed, {self._words(error)}: {_PANIC_HINT}")
        silent = failure.reason in ("connection", "timeout", "tls", "proxy", "store-failed") or failure.status >= 500
        self._failed_in_a_row = self._failed_in_a_row + 1 if silent else 0
        failure.down = self._failed_in_a_row >= _DOWN_AFTER
        raise failure
