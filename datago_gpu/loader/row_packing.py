"""Checks the rows of the user's code, and makes messages of them for the feeder."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.config.local_paths import FILE_SCHEME, plain_path
from datago_gpu.config.settings import Kind
from datago_gpu.config.storage import STORE_SCHEMES
from datago_gpu.errors import SourceError
from datago_gpu.loader.given_rows import NotRows
from datago_gpu.loader.row_sizes import side_of
from datago_gpu.row import Row
from datago_gpu.sources.attributes import NO_ATTRIBUTES, UNREADABLE, check_attributes, describe_problem
from datago_gpu.sources.reference import utf8_text
from datago_gpu.sources.user.row_wire import Given, Piece, Refused

__all__ = ["RowPacking", "bytes_in", "row_attributes"]

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HUB_SCHEME = "hf://"
_ADDRESSES = ("http://", "https://", *STORE_SCHEMES, _HUB_SCHEME)
_PARTS: tuple[tuple[str, Kind], ...] = (
    ("masks", "mask"),
    ("additional_images", "image"),
    ("latents", "latent"),
)


class RowPacking:
    """Makes the message of a row, and lists the payloads that follow the message."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config, self._most_bytes = config, Limits.of(config).payload
        self._base = config.base_folder or ""

    def pack(self, row: object, turn: int, number: int) -> tuple[Given | Refused, list[Buffer]]:
        """Returns the message and the payloads. Raises NotRows, which names the row and the field."""
        if not isinstance(row, Row):
            hint = "make one: Row(id=..., image=...)"
            raise NotRows(f"row {number} of the source must be a datago_gpu.Row, got {_shown(row)}; {hint}")
        try:
            return self._pack(row, turn, number)
        except _Wrong as wrong:
            raise NotRows(f"row {number} of the source: {wrong}") from None

    def _pack(self, row: Row, turn: int, number: int) -> tuple[Given | Refused, list[Buffer]]:
        if type(row.id) is not str:
            raise _Wrong(f"id must be text, got {_shown(row.id)}: use str(...)")
        _check_size(row)
        payloads: list[Buffer] = []
        pieces = [self._piece("image", "", row.image, "image", payloads)]
        for field, kind in _PARTS:
            for name, value in _items(field, getattr(row, field)):
                pieces.append(self._piece(kind, name, value, f"{field}[{name!r}]", payloads))
        too_large = next((piece for piece in pieces if piece.length > self._most_bytes), None)
        name = utf8_text(row.id)
        if too_large:
            what = f"{too_large.kind} {too_large.name!r}: " if too_large.name else ""
            detail = f"{what}{too_large.length} bytes, above http_config.max_payload_mb"
            return Refused(turn, number, name, "too-large", detail), []
        label = _label(row)
        attributes, flaw = _encode(row, label)
        size = side_of(row.height), side_of(row.width)
        return Given(turn, number, name, attributes, pieces, size, flaw, label), payloads

    def _piece(self, kind: Kind, name: str, value: object, field: str, payloads: list[Buffer]) -> Piece:
        """Describes a payload. Adds it to `payloads` if it is bytes."""
        encoded = bytes_in(value)
        if encoded is not None:
            payloads.append(encoded)
            return Piece(kind, name, len(encoded))
        if isinstance(value, str) and (found := _SCHEME.match(value)):
            scheme = found[0].lower()
            if scheme == FILE_SCHEME:
                return self._file(kind, name, plain_path(value, self._base), field)
            return Piece(kind, name, url=_url(scheme, value[len(scheme) :], field))
        if isinstance(value, str | os.PathLike):
            return self._file(kind, name, os.fsdecode(value), field)
        hint = ", such as the content of a JPEG file" if hasattr(value, "size") else ""
        raise _Wrong(f"{field} must be encoded bytes{hint}, a path or an address, got {_shown(value)}")

    def _file(self, kind: Kind, name: str, path: str, field: str) -> Piece:
        whole = os.path.join(self._base, path)
        if not path or "\0" in path:
            raise _Wrong(f"{field} is not a path: {path!r}")
        if not os.path.isabs(whole):
            raise _Wrong(f"{field} is relative, and the working folder was removed: {path!r}")
        return Piece(kind, name, path=whole.encode("utf-8", "surrogateescape"))


class _Wrong(Exception):
    """Says what is wrong with a field."""


def _url(scheme: str, rest: str, field: str) -> str:
    """Returns the address that is to be asked."""
    if utf8_text(rest) != rest:
        raise _Wrong(f"{field} must be UTF-8 text, got {scheme + rest!r}")
    if scheme not in _ADDRESSES:
        raise _Wrong(f"{field} begins with {scheme}, which is not supported: use {', '.join(_ADDRESSES)} or a path")
    if scheme != _HUB_SCHEME:
        return scheme + rest
    from datago_gpu.sources.hub import HubPath  # most rows do not need it

    try:
        return HubPath.parse(scheme + rest).url
    except SourceError as problem:
        raise _Wrong(f"{field}: {problem}") from None


def bytes_in(value: object) -> Buffer | None:
    """Returns the bytes of a value that holds bytes and nothing else; None for any other value."""
    if isinstance(value, bytes | bytearray):
        return value
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    if not isinstance(value, memoryview) and (view.ndim != 1 or view.itemsize != 1):
        return None  # an array of pixels
    return view.cast("B") if view.c_contiguous else view.tobytes()


def _check_size(row: Row) -> None:
    """Checks width and height."""
    for field in ("width", "height"):
        value = getattr(row, field)
        if type(value) is int and value >= 0:
            continue
        try:
            number = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = -1
        if number < 0:
            raise _Wrong(f"{field} must be a whole number of at least 0, got {_shown(value)}")


def _items(field: str, given: object) -> Sequence[tuple[str, object]]:
    if not given and (given is None or isinstance(given, Mapping)):
        return ()
    if not isinstance(given, Mapping):
        raise _Wrong(f"{field} must be a dict of name -> payload, got {_shown(given)}")
    for name in given:
        if not isinstance(name, str) or not name:
            raise _Wrong(f"{field} must have texts as names, got {name!r}")
    return [(utf8_text(name), value) for name, value in given.items()]


def row_attributes(row: Row) -> bytes:
    """Returns attributes and label as JSON; none if they are wrong, which is an error once a batch needs the row."""
    try:
        attributes, flaw = _encode(row, _label(row))
    except _Wrong:
        return NO_ATTRIBUTES
    return NO_ATTRIBUTES if flaw else check_attributes(attributes)[0]


def _label(row: Row) -> int | None:
    if row.label is None:
        return None
    try:
        label = int(operator.index(row.label))  # True is an index, too
    except TypeError:
        raise _Wrong(f"label must be a whole number or None, got {_shown(row.label)}") from None
    if abs(label) >= 2**63:
        raise _Wrong(f"label must be a number of 64 bits, got {label}")
    return label


def _encode(row: Row, label: int | None) -> tuple[bytes, str]:
    """Returns attributes and label as JSON, and ""; or empty attributes, and why JSON cannot hold the given ones."""
    attributes: Any = row.attributes
    if attributes is not None and not isinstance(attributes, Mapping):
        raise _Wrong(f"attributes must be a dict, got {_shown(attributes)}")
    if label is not None:
        attributes = {"label": label, **(attributes or {})}
    if not attributes:
        return NO_ATTRIBUTES, ""
    try:
        return msgspec.json.encode(dict(attributes), enc_hook=_plain), ""
    except UNREADABLE as error:
        return NO_ATTRIBUTES, describe_problem(error)


def _plain(value: Any) -> Any:
    """Returns numbers and arrays of numpy and torch as plain numbers and lists."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON has no value for the type {type(value).__name__}")


def _shown(value: object) -> str:
    """Describes a value of the wrong type: short values as they are, others by their type."""
    text = repr(value) if isinstance(value, int | float | str | None) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"
