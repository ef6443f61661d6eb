"""Which shards there are: brace lists, lists in files, globs, prefixes of buckets, listings in JSON."""

from __future__ import annotations

import asyncio
import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import aclosing
from itertools import islice
from urllib.parse import parse_qsl, unquote, urlencode, urljoin, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from datago_gpu.config import HttpConfig, LoaderConfig, MiB
from datago_gpu.errors import SourceError
from datago_gpu.redact import without_query
from datago_gpu.shard_config import WebDatasetSource
from datago_gpu.sources.barren import Barren
from datago_gpu.sources.base import utf8_text
from datago_gpu.sources.failure import HttpFailure
from datago_gpu.sources.http import HttpClient, origin_of
from datago_gpu.sources.pieces import NotJson, TooMany, cut
from datago_gpu.sources.store import MOST_STORED_PAGES, Stores, is_stored

__all__ = ["Shard", "expanded", "list_shards"]

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_MOST_SHARDS = 1_000_000
_MOST_PAGES = 10_000
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")


class Shard(Struct, frozen=True):
    """address: a local path, or a URL. own: on an origin that the user named, where the token may go."""

    address: str
    own: bool = False

    @property
    def shown(self) -> str:
        """The address for messages."""
        return without_query(self.address) if "://" in self.address else self.address


async def list_shards(
    config: LoaderConfig, source: WebDatasetSource, http: HttpClient, stores: Callable[[], Stores]
) -> list[Shard]:
    """All shards that the setting `url` names, in its order. Raises SourceError."""
    named = await asyncio.to_thread(expanded, source.url, config.absolute)
    origins = {_origin(address) for address in named if _is_http(address)}
    shards: list[Shard] = []
    for address in named:
        if not _is_remote(address) or _is_shard(address):
            shards.append(Shard(address, _is_http(address)))
            continue
        try:
            if is_stored(address):
                found = await _in_bucket(address, stores())
            else:
                found = await _in_listing(address, source.auth_token.strip(), config.http_config, http)
        except HttpFailure as failure:
            what = f"cannot list the shards of {failure}; check source_config.url, and the token or the credentials"
            raise SourceError(source.hidden(what)) from None
        if not found:
            raise SourceError(f"no shards in {without_query(address)}: none of its files ends in {', '.join(ENDINGS)}")
        shards += [Shard(each, _is_http(each) and _origin(each) in origins) for each in found]
    return shards


def expanded(url: str, absolute: Callable[[str], str]) -> list[str]:
    """The addresses that the setting `url` names by itself. Reads local files and folders. Raises SourceError.

    absolute: makes an absolute path of one that may be relative.
    """
    found: list[str] = []
    for each in (each.strip() for each in url.split("::")):
        if each.startswith("@"):
            for line in _lines(absolute(each[1:])):
                found += _local(line, absolute)
        elif each:
            found += _local(each, absolute)
        if len(found) > _MOST_SHARDS:
            raise SourceError(f"source_config.url names more than {_MOST_SHARDS} shards")
    return found


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SourceError(f"cannot read the list of shards {path!r}: {reason}; check source_config.url") from None
    return (line for line in lines if line and not line.startswith("#"))


def _local(text: str, absolute: Callable[[str], str]) -> list[str]:
    """One address with braces, and with wildcards where it is a path."""
    found: list[str] = []
    for address in _braces(text):
        if address.startswith("pipe:"):
            raise SourceError("source_config.url holds a command (pipe:), and commands are not run: name the shards")
        if address.startswith("hf://"):
            found.append(_on_hub(address))
        elif _is_remote(address):
            found.append(address)
        else:
            found += _paths(address.removeprefix("file://"), absolute)
    return found


def _braces(text: str) -> list[str]:
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

    ranges = [abs(int(end) - int(begin)) for begin, end in _RANGE.findall(text)]  # each would be held as a list
    try:
        found = [""] if max(ranges, default=0) > _MOST_SHARDS else list(islice(braceexpand(text), _MOST_SHARDS + 1))
    except UnbalancedBracesError:
        raise SourceError(f"the braces in source_config.url do not match: {without_query(text)!r}") from None
    if found == [""] or len(found) > _MOST_SHARDS:
        raise SourceError(f"{without_query(text)!r} names more than {_MOST_SHARDS} shards")
    return found


def _paths(path: str, absolute: Callable[[str], str]) -> list[str]:
    place = absolute(path)
    if os.path.isdir(place) and not path.endswith(ENDINGS):
        found = sorted(each.path for each in os.scandir(place) if each.name.endswith(ENDINGS))
    elif glob.has_magic(path) and not os.path.exists(place):
        # Relative to the folder, not joined with it: the folder's own name may hold wildcards.
        found = sorted(glob.glob(path, root_dir=None if os.path.isabs(path) else absolute(""), recursive=True))
    else:
        return [place]
    if not found:
        raise SourceError(f"no shards: {utf8_text(place)!r} in source_config.url matches nothing")
    return [absolute(each) for each in found]


def _on_hub(address: str) -> str:
    """hf://datasets/OWNER/NAME[@REVISION]/PATH as https."""
    kind, _, rest = address.removeprefix("hf://").partition("/")
    owner, name, path = [*rest.split("/", 2), "", ""][:3]
    name, _, revision = name.partition("@")
    if kind != "datasets" or not (owner and name) or not path.endswith(ENDINGS):
        raise SourceError(f"{address!r} does not name a shard: hf://datasets/OWNER/NAME/PATH.tar is what it should be")
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{hub}/datasets/{owner}/{name}/resolve/{revision or 'main'}/{path}"


async def _in_bucket(address: str, stores: Stores) -> list[str]:
    root = "/".join(address.split("/", 3)[:3])
    shards, barren = list[str](), Barren(without_query(address), MOST_STORED_PAGES)
    async with aclosing(stores.listed(address)) as pages:
        async for page in pages:
            found = [f"{root}/{each.key}" for each in page if each.key.endswith(ENDINGS)]
            shards += found
            barren.note(len(page), usable=bool(found))
            if len(shards) > _MOST_SHARDS:
                raise SourceError(f"{without_query(address)}: more than {_MOST_SHARDS} shards")
    return shards


async def _in_listing(address: str, token: str, limits: HttpConfig, http: HttpClient) -> list[str]:
    """The shards of a JSON listing, page by page: as Google's storage has it, `{"shardlist": []}`, or a plain list."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    url, shards, room, barren = address, list[str](), _MOST_SHARDS, Barren(without_query(address))
    for _ in range(_MOST_PAGES):
        answer = await http.get(url, max_bytes=limits.max_page_mb * MiB, headers=headers, compressed=True)
        try:
            page = await asyncio.to_thread(_page, answer.body, url, room)
        except TooMany:
            raise SourceError(f"{without_query(address)}: a listing of more than {_MOST_SHARDS} shards") from None
        except (NotJson, ValueError, RecursionError):
            raise SourceError(
                f"{without_query(address)} does not end like a shard ({', '.join(ENDINGS)}), and what it answers "
                "is no JSON listing of shards; check source_config.url"
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
    """A shard in a listing: Google's storage has the one, the index of webdataset the other."""

    media_link: str | None = None
    url: str | None = None


class _Page(Struct):
    """entries: how many there were, shards or not. token: of the next page; "" at the end."""

    shards: list[str]
    entries: int
    token: str


_item_decoder = msgspec.json.Decoder(_Item | str)
_token_decoder = msgspec.json.Decoder(str | int | None)


def _page(body: bytes, url: str, most: int) -> _Page:
    """A page of a listing, at `url`. Takes a while. Raises NotJson, TooMany, ValueError."""
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
        if _is_http(found) and _is_shard(found):
            shards.append(found)
    return _Page(shards, len(pieces.entries or ()), str(token or ""))


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _is_remote(address: str) -> bool:
    if _is_http(address) or is_stored(address):
        return True
    if "://" in address and not address.startswith("file://"):
        scheme = address.partition("://")[0]
        raise SourceError(f"source_config.url: {scheme}:// is not known; http, https, s3, gs, az and hf are")
    return False


def _is_shard(address: str) -> bool:
    return (unquote(urlsplit(address).path) if _is_http(address) else address).endswith(ENDINGS)


def _origin(address: str) -> str:
    try:
        return origin_of(address)
    except ValueError:
        raise SourceError(f"not an address: {without_query(address)!r} in source_config.url") from None
