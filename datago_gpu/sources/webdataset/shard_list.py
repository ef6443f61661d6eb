"""Lists the shards: those that `url` names, those below a prefix of a bucket, or those in a JSON listing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from datago_gpu.config import HttpConfig, LoaderConfig
from datago_gpu.config.file_names import hidden_part
from datago_gpu.config.shards import WebDatasetSource, without_login
from datago_gpu.errors import SourceError
from datago_gpu.eventloop import call_in_thread
from datago_gpu.redact import without_query
from datago_gpu.sources.barren import Barren
from datago_gpu.sources.dataroom.pieces import NotJson, TooMany, cut
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.hub import hub_origin, hub_token
from datago_gpu.sources.local import Patience
from datago_gpu.sources.object_store.s3_listing import ODD_KEY
from datago_gpu.sources.object_store.stores import MOST_STORED_PAGES, Stores, is_stored
from datago_gpu.sources.webdataset.addresses import (
    ENDINGS,
    MOST_SHARDS,
    http_origin,
    is_http,
    is_remote,
    is_shard,
    list_addresses,
)
from datago_gpu.sources.webdataset.archive_start import is_archive_start
from datago_gpu.sources.wildcards import folder_before_wildcard, has_wildcard, matches_pattern
from datago_gpu.units import MiB

__all__ = ["Shard", "authorization", "list_shards"]

_HEAD_BYTES = 512
_MOST_PAGES = 10_000


class Shard(Struct, frozen=True):
    """Describes a shard. address: a local path, or a URL. own: whether its origin is one that the user named, to which
    the token may be sent.

    login: the value of an Authorization header, if the user gave a name and a password for that origin.
    length: in bytes, if the listing contains it. version: as `Excerpt.tag`; "" if the listing does not say it.
    """

    address: str
    own: bool = False
    login: str = ""
    length: int | None = None
    version: str = ""

    def __repr__(self) -> str:
        return f"Shard({self.shown!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("address", self.shown)]

    @property
    def shown(self) -> str:
        """Returns the address for messages."""
        return without_query(self.address) if "://" in self.address else self.address


async def list_shards(
    config: LoaderConfig, source: WebDatasetSource, http: HttpClient, stores: Callable[[], Stores]
) -> list[Shard]:
    """Returns all shards that the setting `url` names, in its order. Raises SourceError."""
    patience = Patience(config.http_config)
    given = await call_in_thread(None, list_addresses, source.url, config.absolute, patience)
    named, logins = _without_logins(given)
    shards: list[Shard] = []
    for address in named:
        login = logins.get(http_origin(address), "") if is_http(address) else ""
        if not is_remote(address) or (is_shard(address) and not has_wildcard(address)):
            shards.append(Shard(address, is_http(address), login))
            continue
        headers = authorization(source.auth_token, login)
        try:
            if is_stored(address):
                found = await _in_bucket(address, stores())
            elif await _is_archive(address, headers, http):
                found = [(address, None, "")]
            else:
                listed = await _in_listing(address, headers, config.http_config, http)
                found = [(each, None, "") for each in listed]
        except HttpFailure as failure:
            hint = "" if failure.reason == ODD_KEY else "; check source_config.url, and the token or the credentials"
            raise SourceError(source.redacted(f"cannot list the shards of {failure}{hint}")) from None
        if not found:
            raise SourceError(f"no shards in {without_query(address)}: none of its files ends in {', '.join(ENDINGS)}")
        for each, length, version in found:
            own = is_http(each) and http_origin(each) in logins
            shards.append(Shard(each, own, logins[http_origin(each)] if own else "", length, version))
    return shards


def _without_logins(given: list[str]) -> tuple[list[str], dict[str, str]]:
    """Returns the addresses without names and passwords, and origin -> the header that authenticates requests to it."""
    named, logins = list[str](), dict[str, str]()
    for address in given:
        plain, login = without_login(address) if is_http(address) else (address, "")
        named.append(plain)
        if is_http(plain):
            logins[http_origin(plain)] = logins.get(http_origin(plain), "") or login
    if (token := hub_token()) and hub_origin() in logins:
        logins[hub_origin()] = logins[hub_origin()] or f"Bearer {token}"
    return named, logins


def authorization(token: str, login: str) -> dict[str, str] | None:
    """Returns the headers that authenticate requests: by `auth_token`, else by the address's name and password."""
    proof = f"Bearer {token.strip()}" if token.strip() else login
    return {"Authorization": proof} if proof else None


async def _in_bucket(address: str, stores: Stores) -> list[tuple[str, int | None, str]]:
    """Returns the shards below a prefix, or those that match an address with wildcards, with lengths and versions."""
    root = "/".join(address.split("/", 3)[:3])
    prefix, matches = address, partial(_is_below, address.removeprefix(f"{root}/").rstrip("/"))
    if has_wildcard(address):
        prefix, pattern = folder_before_wildcard(address), address.removeprefix(f"{root}/").split("/")
        matches = partial(matches_pattern, pattern)
    shards, barren = list[tuple[str, int | None, str]](), Barren(without_query(address), MOST_STORED_PAGES)
    async with aclosing(stores.list_objects(prefix)) as pages:
        async for page in pages:
            found = [(f"{root}/{each.key}", each.size, each.tag) for each in page if matches(each.key)]
            shards += found
            barren.note(len(page), usable=bool(found))
            if len(shards) > MOST_SHARDS:
                raise SourceError(f"{without_query(address)}: more than {MOST_SHARDS} shards")
    return shards


def _is_below(prefix: str, key: str) -> bool:
    """Returns whether a key below the prefix is that of a shard, and not hidden."""
    return is_shard(key) and not hidden_part(key.removeprefix(prefix).split("/"))


async def _in_listing(address: str, headers: dict[str, str] | None, limits: HttpConfig, http: HttpClient) -> list[str]:
    """Returns the shards of a JSON listing, page by page: Google storage's form, `{"shardlist": []}`, or a plain
    list."""
    url, shards, room, barren = address, list[str](), MOST_SHARDS, Barren(without_query(address))
    for _ in range(_MOST_PAGES):
        answer = await http.get(url, max_bytes=limits.max_page_mb * MiB, headers=headers, compressed=True)
        try:
            page = await call_in_thread(None, _page, answer.body, url, room)
        except TooMany:
            raise SourceError(f"{without_query(address)}: a listing of more than {MOST_SHARDS} shards") from None
        except (NotJson, ValueError, RecursionError):
            raise SourceError(
                f"{without_query(address)} does not end like a shard ({', '.join(ENDINGS)}), and its response "
                "is not a JSON listing of shards; check source_config.url"
            ) from None
        shards += page.shards
        if not page.token:
            return shards
        room -= page.entries
        barren.note(page.entries, usable=bool(page.shards))
        split = urlsplit(address)
        query = [*parse_qsl(split.query, keep_blank_values=True), ("pageToken", page.token)]
        url = urlunsplit(split._replace(query=urlencode(query)))
    raise SourceError(f"{without_query(address)}: more than {_MOST_PAGES} pages of a listing")


class _Item(Struct, rename={"media_link": "mediaLink"}):
    """A shard in a listing: one field is from Google's storage, the other from the index of webdataset."""

    media_link: str | None = None
    url: str | None = None


class _Page(Struct):
    """A page of a listing. entries: their number, shards or not. token: of the next page; "" at the end."""

    shards: list[str]
    entries: int
    token: str


_item_decoder = msgspec.json.Decoder(_Item | str)
_token_decoder = msgspec.json.Decoder(str | int | None)


def _page(body: bytes, url: str, most: int) -> _Page:
    """Parses a page of the listing at `url`. Takes a while. Raises NotJson, TooMany, ValueError."""
    pieces = cut(body, ("items", "shardlist"), ("nextPageToken",), most)
    token = _token_decoder.decode(pieces.fields.get("nextPageToken", b"null"))
    if pieces.entries is None and "nextPageToken" not in pieces.fields:
        raise NotJson
    shards = []
    for piece in pieces.entries or ():
        item = _item_decoder.decode(piece)
        address = item if isinstance(item, str) else item.media_link or item.url
        if address is None:
            raise NotJson
        found = urljoin(url, address)
        if is_http(found) and is_shard(found):
            shards.append(found)
    return _Page(shards, len(pieces.entries or ()), str(token or ""))


class _Enough(Exception):
    """Says that the first bytes have arrived."""


async def _is_archive(address: str, headers: dict[str, str] | None, http: HttpClient) -> bool:
    """Returns whether an address without a shard's extension leads to a shard nevertheless, by its first bytes.

    Raises HttpFailure, and SourceError for wildcards, which a server cannot be asked about.
    """
    if has_wildcard(address) and is_shard(address):
        raise SourceError(
            f"{without_query(address)}: wildcards work only for local paths and object storage: "
            "name the shards with braces, such as {0000..0127}"
        )
    head = b""

    async def look(block: bytes) -> None:
        nonlocal head
        head += block
        if len(head) >= _HEAD_BYTES:
            raise _Enough

    with suppress(_Enough):
        await http.stream(address, look, headers=headers)
    return is_archive_start(head)
