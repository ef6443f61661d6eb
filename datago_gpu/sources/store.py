"""Object storage: s3, gs and az addresses, by way of the package obstore, which signs requests and tries them again.

Only here is obstore imported. Its errors, whose texts hold whole answers and addresses, become HttpFailures, so that
those who read need not know where from. Credentials come from the environment, the machine's own identity, or, for s3
where boto3 is installed, from its files; see `storage_options`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from datago_gpu.config import HttpConfig
from datago_gpu.errors import ConfigError
from datago_gpu.eventloop import is_ending, started
from datago_gpu.redact import without_query
from datago_gpu.settings import without_secrets
from datago_gpu.source_config import STORE_SCHEMES
from datago_gpu.sources.base import Need
from datago_gpu.sources.failure import HttpFailure

__all__ = ["MOST_STORED_PAGES", "Listed", "Stores", "is_stored"]

_PART_BYTES = 4 * 1024 * 1024
_PARTS_AHEAD = 4
"""Parts of one object that are asked for at once: stores give a single connection 50 to 100 MB/s."""
_LISTED_AT_ONCE = 1000
MOST_STORED_PAGES = 10_000
"""Of a listing, in a row, in which nothing is what is looked for: 10 million objects."""
_FIRST_BACKOFF_S = 0.1
_STALE_S = 1.0
_DOWN_AFTER = 4
"""Objects in a row that could not be had, each after all its tries, after which the store is down."""
_CLIENT_OPTIONS = frozenset(
    (
        *("allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "http1_only"),
        *("http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_only"),
        *("pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_ca_certificate", "proxy_excludes"),
        *("randomize_addresses", "read_timeout", "root_certificate", "timeout", "user_agent"),
    )
)
"""Options of obstore's HTTP client. obstore takes them apart from those of a store, among which it panics."""
_PREFIX = re.compile(r"^(aws|google|azure)_")
_PANIC_HINT = "does the endpoint in storage_options or the environment begin with http:// or https://?"
_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3}),")


def is_stored(address: str) -> bool:
    """Whether an address is one of object storage."""
    return address.startswith(STORE_SCHEMES)


class Listed(Struct, frozen=True):
    """An object. key: its path in the bucket. size: in bytes."""

    key: str
    size: int


class Stores:
    """Reads objects, of any number of buckets. Raises ConfigError where obstore is missing or refuses the options."""

    def __init__(self, config: HttpConfig, options: Mapping[str, str]) -> None:
        try:
            import obstore
        except ImportError:
            raise ConfigError("object storage needs the package obstore: pip install 'datago_gpu[cloud]'") from None
        self._obstore: Any = obstore
        self._config, self._options = config, options
        self._stores: dict[str, Any] = {}
        self._failed_in_a_row = 0

    async def get(self, url: str, max_bytes: int, need: Need | None = None) -> bytes:
        """The whole object at `url`, of at most `max_bytes`. Raises HttpFailure.

        need: is asked for the memory of the object before it is read.
        """
        store, key = self._at(url)
        loop = asyncio.get_running_loop()

        async def read() -> bytes:
            while True:
                result = await self._obstore.get_async(store, key)
                size = result.meta["size"]
                if size > max_bytes:
                    raise HttpFailure("too-large", f"{size} bytes, {max_bytes} are allowed")
                asked = loop.time()
                if need:
                    await need(size)
                if loop.time() - asked < _STALE_S:  # else the answer may be past its limits of time
                    return bytes(await result.bytes_async())

        content: bytes = await self._translated(url, read)
        return content

    async def stream(self, url: str, sink: Callable[[bytes], Awaitable[None]]) -> None:
        """Give the object at `url` to `sink`, in order, several parts of it on their way at once. Raises HttpFailure.

        Reason "changed": it was replaced meanwhile.
        """
        store, key = self._at(url)
        first, size, tag = await self._translated(url, lambda: self._first(store, key))
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
        """The first part, the size of the whole, and what it is recognised by."""
        result = await self._obstore.get_async(store, key, options={"range": (0, _PART_BYTES)})
        return bytes(await result.bytes_async()), result.meta["size"], result.meta["e_tag"]

    async def _part(self, url: str, store: Any, key: str, part: tuple[int, int], tag: str | None) -> bytes:
        async def read() -> bytes:
            options: dict[str, Any] = {"range": part} | ({"if_match": tag} if tag else {})
            result = await self._obstore.get_async(store, key, options=options)
            return bytes(await result.bytes_async())

        content: bytes = await self._translated(url, read)
        if len(content) != part[1] - part[0]:
            raise _failure(url, "cut-short", f"{len(content)} of {part[1] - part[0]} bytes came")
        return content

    async def listed(self, url: str, after: str = "") -> AsyncGenerator[list[Listed], None]:
        """The objects below a prefix, in the store's order, a page at a time. Raises HttpFailure.

        after: a key; only those behind it are listed.
        """
        store, prefix = self._at(url)
        stream = self._obstore.list(store, prefix or None, offset=after or None, chunk_size=_LISTED_AT_ONCE)
        pages = aiter(stream)

        async def following() -> Any:
            return await anext(pages, None)

        while (page := await self._translated(url, following)) is not None:
            yield [Listed(each["path"], each["size"]) for each in page]

    def _at(self, url: str) -> tuple[Any, str]:
        """The store of an address, and the key in it."""
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        root = f"{scheme}://{bucket}"
        if root not in self._stores:
            self._stores[root] = self._opened(root)
        return self._stores[root], key

    def _opened(self, root: str) -> Any:
        from obstore.store import from_url

        limits = self._config
        config, client = self._sorted_options()
        retries = {
            "max_retries": limits.max_tries - 1,
            "backoff": {  # it panics where the longest is below the first
                "init_backoff": timedelta(seconds=min(_FIRST_BACKOFF_S, limits.max_backoff_s)),
                "max_backoff": timedelta(seconds=limits.max_backoff_s),
            },
            "retry_timeout": timedelta(seconds=limits.total_timeout_s),
        }
        options: dict[str, Any] = {"config": config} if config else {}
        if root.startswith("s3://") and self._wants_profile():
            from obstore.auth.boto3 import Boto3CredentialProvider

            options["credential_provider"] = Boto3CredentialProvider()
        try:
            return from_url(root, client_options=client, retry_config=retries, **options)  # type: ignore[call-overload]
        except BaseException as error:  # obstore panics at some options
            if is_ending(error) or isinstance(error, MemoryError):
                raise
            words = self._words(error)
        names = ", ".join(self._options) or "none"
        raise ConfigError(
            f"{without_query(root)} cannot be opened ({words}): check the address, the environment and "
            f"source_config.storage_options (given: {names})"
        )

    def _sorted_options(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The options of the store, and those of its HTTP client, where the user's replace ours."""
        limits = self._config
        store: dict[str, str] = {}
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=limits.connect_timeout_s),
            "read_timeout": timedelta(seconds=limits.stall_timeout_s),
            "timeout": timedelta(seconds=limits.total_timeout_s),
            "allow_http": any(value.startswith("http://") for value in self._options.values())
            or any(value.startswith("http://") for name, value in os.environ.items() if "ENDPOINT" in name),
        }
        for name, value in self._options.items():
            plain = _PREFIX.sub("", name.lower())
            if plain in _CLIENT_OPTIONS:
                client[plain] = value
            else:
                store[name] = value
        return store, client

    def _words(self, error: BaseException) -> str:
        """What an error of obstore's says, less what it repeats of the options."""
        first, *_ = str(error).splitlines() or [""]
        return without_secrets(f"{type(error).__name__}: {first}".rstrip(": "), self._options.values())

    def _wants_profile(self) -> bool:
        """Whether the keys of S3 are in the files of the AWS command line, which obstore itself does not read."""
        given = {name.lower().removeprefix("aws_") for name in self._options}
        if given & {"access_key_id", "skip_signature"} or os.environ.get("AWS_ACCESS_KEY_ID"):
            return False
        files = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE"), os.environ.get("AWS_CONFIG_FILE")]
        known = [Path(file) for file in files if file] or [
            Path.home() / ".aws" / name for name in ("credentials", "config")
        ]
        return find_spec("boto3") is not None and any(file.exists() for file in known)

    async def _translated(self, url: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """What `work` returns. Raises HttpFailure, on which no foreign text hangs."""
        try:
            result = await work()
            self._failed_in_a_row = 0
            return result
        except HttpFailure as known:
            failure = known
            failure.url = failure.url or without_query(url)
        except FileNotFoundError:
            failure = _failure(url, "http-404", "no such object", 404)
        except self._obstore.exceptions.BaseError as error:
            failure = _meaning(url, error, self._obstore.exceptions)
        except (OSError, ValueError) as error:
            failure = _failure(url, "bad-url", type(error).__name__)
        except BaseException as error:  # obstore panics where an endpoint is no address, for one
            if is_ending(error) or isinstance(error, MemoryError):
                raise
            failure = _failure(url, "store-failed", f"obstore has failed, {self._words(error)}: {_PANIC_HINT}")
        silent = failure.reason in ("connection", "timeout", "store-failed") or failure.status >= 500
        self._failed_in_a_row = self._failed_in_a_row + 1 if silent else 0
        failure.down = self._failed_in_a_row >= _DOWN_AFTER
        raise failure


def _meaning(url: str, error: Exception, kinds: Any) -> HttpFailure:
    if isinstance(error, kinds.PermissionDeniedError):
        return _failure(url, "http-403", "the store refused the credentials", 403)
    if isinstance(error, kinds.UnauthenticatedError):
        return _failure(url, "http-401", "the store wants credentials", 401)
    if isinstance(error, kinds.PreconditionError):
        return _failure(url, "changed", "the object was replaced while it was read")
    if isinstance(error, kinds.InvalidPathError):
        return _failure(url, "bad-url", "not a path of an object")
    text = str(error)  # nothing else tells what kind of failure it was
    status = _STATUS.search(text)
    if status:
        number = int(status[1] or status[2])
        return _failure(url, f"http-{number}", "", number)
    if "timed out" in text or "Timeout" in text or "TimedOut" in text:
        return _failure(url, "timeout", "not done in time")
    return _failure(url, "connection", "no answer of the store, or no credentials for it")


def _failure(url: str, reason: str, detail: str, status: int = 0) -> HttpFailure:
    failure = HttpFailure(reason, detail, status=status)
    failure.url = without_query(url)
    return failure
