"""Finds out where the bytes of a cell lie: in the cell, in a file, at an address, or in a part of these."""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin

from datago_gpu.config.local_paths import FILE_SCHEME, plain_path
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.errors import SourceError
from datago_gpu.redact import without_query
from datago_gpu.sources.hub import HUB_SCHEME, HubPath
from datago_gpu.sources.reference import Span

__all__ = ["Place", "place_of"]

_MOST_OFFSET = 2**62


class Place(NamedTuple):
    """Says where bytes lie: exactly one of `payload`, `path`, `url` and `problem` is set."""

    payload: bytes | None = None
    path: str = ""
    url: str = ""
    span: Span | None = None
    name: str = ""
    """The place as the cell has it, fit for an id; "" if it has none."""
    problem: str = ""
    """Why there are no bytes: a reason of `Skipped`."""
    detail: str = ""


def place_of(cell: Any, offset: Any, length: Any, root: str) -> Place:
    """Returns the place that a cell names. root: the folder or address at which relative paths begin.

    offset, length: the part of the file, None for all of it.
    """
    if isinstance(cell, dict):
        return _place_of_struct(cell, root)
    if isinstance(cell, bytes | bytearray | memoryview):
        return Place(payload=bytes(cell)) if cell else Place(problem="empty", detail="the cell has no bytes")
    if not isinstance(cell, str):
        what = "the cell is null" if cell is None else f"the cell has the type {type(cell).__name__}"
        return Place(problem="no-image", detail=what)
    if not cell.strip():
        return Place(problem="no-image", detail="the cell is an empty text")
    place = _place_of_text(cell.strip(), root)
    if (offset is None and length is None) or place.problem:
        return place
    if not (_is_natural(offset) and _is_natural(length)):
        return Place(problem="bad-entry", detail=f"offset {offset} and length {length} are no part of a file")
    if not length:
        return Place(problem="empty", detail="the length is 0")
    return place._replace(span=Span(offset, length), name=f"{place.name}@{offset}")


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _MOST_OFFSET


def _place_of_struct(cell: dict[str, Any], root: str) -> Place:
    """Returns the place of a struct with some of bytes, path, url, offset and length."""
    text = cell.get("path") or cell.get("url")
    payload = cell.get("bytes")
    if payload is None:
        return place_of(text, cell.get("offset"), cell.get("length"), root)
    place = place_of(payload, None, None, root)
    return place._replace(name=text) if isinstance(text, str) else place


def _place_of_text(text: str, root: str) -> Place:
    scheme, slashes, _ = text.partition("://")
    if slashes and scheme.isalnum():
        return _place_of_address(text, f"{scheme.lower()}://")
    if text.startswith("data:"):
        return Place(problem="bad-url", detail="data: addresses are not supported")
    if "://" in root:
        return Place(url=_address_below(root, text), name=text)
    return Place(path=os.path.join(root, text), name=text)


def _address_below(root: str, path: str) -> str:
    """Returns the address of a path below an address. The path is that of a file: a "?" in it begins no query."""
    if root.startswith(STORE_SCHEMES):
        bucket, _, folder = root.partition("://")[2].partition("/")
        key = os.path.normpath(os.path.join("/", folder, path)).lstrip("/")
        return f"{root.partition('://')[0]}://{bucket}/{key}"
    return urljoin(f"{root.rstrip('/')}/", quote(path, safe="/%!$&'()*+,;=:@~"))


def _place_of_address(text: str, scheme: str) -> Place:
    if scheme in ("http://", "https://", *STORE_SCHEMES):
        return Place(url=scheme + text[len(scheme) :], name=without_query(text))
    if scheme == FILE_SCHEME:
        return Place(path=plain_path(text, ""), name=text)
    if scheme == HUB_SCHEME:
        try:
            return Place(url=HubPath.parse(text).url, name=text)
        except SourceError as error:
            return Place(problem="bad-url", detail=str(error))
    return Place(problem="bad-url", detail=f"{scheme} is not supported: use http, https, s3, gs, az or hf")
