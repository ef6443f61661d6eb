"""Expands the setting `url` of shards: brace lists, lists in files, paths, wildcards, addresses."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from urllib.parse import unquote, urlsplit

from datago_gpu.config.file_names import is_hidden
from datago_gpu.config.local_paths import FILE_SCHEME, plain_path
from datago_gpu.config.shards import addresses_in
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.redact import without_query
from datago_gpu.sources.http.origins import origin_of
from datago_gpu.sources.hub import HUB_SCHEME, HubPath
from datago_gpu.sources.object_store.stores import is_stored
from datago_gpu.sources.reference import utf8_text

__all__ = [
    "ENDINGS",
    "MOST_SHARDS",
    "http_origin",
    "is_http",
    "is_remote",
    "is_shard",
    "list_addresses",
]

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MOST_SHARDS = 1_000_000
_WILDCARD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")


Retry = Callable[[Callable[[], list[str]]], list[str]]
"""Calls a function that reads from a file system, again after an error that may pass."""


def list_addresses(url: str, absolute: Callable[[str], str], retry: Retry = lambda work: work()) -> list[str]:
    """Returns the addresses that the setting `url` names. Reads local files and folders. Raises SourceError.

    absolute: makes a relative path absolute.
    """
    found: list[str] = []
    whole = url.strip()
    for each in [whole] if "://" not in whole and os.path.exists(absolute(whole)) else addresses_in(url):
        if each.startswith("@"):
            for line in _lines(absolute(each[1:]), retry):
                found += _local(line, absolute, retry)
        elif each:
            found += _local(each, absolute, retry)
        if len(found) > MOST_SHARDS:
            raise SourceError(f"source_config.url names more than {MOST_SHARDS} shards")
    return found


def _lines(path: str, retry: Retry) -> Iterator[str]:
    def read() -> list[str]:
        with open(path, encoding="utf-8-sig") as file:  # with or without a byte order mark
            return [line.strip() for line in file]

    try:
        lines = retry(read)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        shown = utf8_text(path)
        raise SourceError(f"cannot read the list of shards {shown!r}: {reason}; check source_config.url") from None
    return (line for line in lines if line and not line.startswith("#"))


def _local(text: str, absolute: Callable[[str], str], retry: Retry) -> list[str]:
    """Expands one address: its braces, and its wildcards if it is a path or in object storage."""
    text = _with_plain_scheme(text)
    if "://" not in text or text.startswith(FILE_SCHEME):
        text = plain_path(text, _base(absolute))
    if "://" not in text and os.path.exists(absolute(text)):  # a name may contain braces
        return _paths(text, absolute, retry)
    found: list[str] = []
    for address in _braces(text):
        if address.startswith("pipe:"):
            raise SourceError("source_config.url contains a command (pipe:), which is not supported: name the shards")
        if address.startswith(HUB_SCHEME):
            found.append(_on_hub(address))
        elif is_remote(address):
            found.append(address)
        else:
            found += _paths(address, absolute, retry)
    return found


def _with_plain_scheme(address: str) -> str:
    """Returns the address with its scheme in lower case."""
    scheme, slashes, rest = address.partition("://")
    return f"{scheme.lower()}://{rest}" if slashes and scheme.isalnum() else address


def _base(absolute: Callable[[str], str]) -> str:
    """Returns the folder in which relative paths begin; "" if unknown."""
    try:
        return absolute("")
    except ConfigError:
        return ""


def _braces(text: str) -> list[str]:
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

    ranges = [abs(int(end) - int(begin)) for begin, end in _RANGE.findall(text)]  # each range would be held as a list
    try:
        found = [""] if max(ranges, default=0) > MOST_SHARDS else list(islice(braceexpand(text), MOST_SHARDS + 1))
    except UnbalancedBracesError:
        raise SourceError(f"the braces in source_config.url do not match: {without_query(text)!r}") from None
    if found == [""] or len(found) > MOST_SHARDS:
        raise SourceError(f"{without_query(text)!r} names more than {MOST_SHARDS} shards")
    return found


def _paths(path: str, absolute: Callable[[str], str], retry: Retry) -> list[str]:
    place = absolute(path)
    if os.path.isdir(place) and not path.endswith(ENDINGS):
        names = (name for name in _names_in(place, retry) if is_shard(name) and not is_hidden(name))
        found = [os.path.join(place, name) for name in names]
    elif glob.has_magic(path) and not os.path.exists(place):
        # Relative to the folder, not joined with it: the folder's own name may contain wildcards.
        found = glob.glob(path, root_dir=None if os.path.isabs(path) else absolute(""), recursive=True)
        if not found:  # glob ignores a folder that cannot be read
            _names_in(absolute(os.path.dirname(_WILDCARD.split(path, 1)[0])), retry)
    else:
        return [place]
    if not found:
        raise SourceError(f"no shards: {utf8_text(place)!r} in source_config.url matches nothing")
    return [absolute(each) for each in sorted(found)]


def _names_in(folder: str, retry: Retry) -> list[str]:
    try:
        return retry(lambda: os.listdir(folder))
    except OSError as error:
        raise SourceError(
            f"cannot list the shards in {utf8_text(folder)!r}: {error.strerror}; check source_config.url"
        ) from error


def _on_hub(address: str) -> str:
    """Returns the https address of hf://datasets/OWNER/NAME[@REVISION]/PATH."""
    if not address.endswith(ENDINGS):
        raise SourceError(f"{address!r} does not name a shard: use hf://datasets/OWNER/NAME/PATH.tar")
    return HubPath.parse(address).url


def is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def is_remote(address: str) -> bool:
    if is_http(address) or is_stored(address):
        return True
    if "://" in address and not address.startswith("file://"):
        scheme = address.partition("://")[0]
        raise SourceError(f"source_config.url: {scheme}:// is not supported; use http, https, s3, gs, az or hf")
    return False


def is_shard(address: str) -> bool:
    return (unquote(urlsplit(address).path) if is_http(address) else address).lower().endswith(ENDINGS)


def http_origin(address: str) -> str:
    try:
        return origin_of(address)
    except ValueError as problem:
        raise SourceError(f"an address in source_config.url {problem}: {without_query(address)!r}") from None
