"""Makes samples of rows: a record, places of the image and its parts, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from datago_gpu.redact import shown_place
from datago_gpu.sources.attributes import NO_ATTRIBUTES, UNREADABLE, check_attributes, describe_problem
from datago_gpu.sources.class_labels import ClassLabels
from datago_gpu.sources.reference import BAD_ATTRIBUTES, Part, SampleRef, Skipped, utf8_text
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.table.cells import Place, place_of
from datago_gpu.sources.table.columns import PartColumn, Roles
from datago_gpu.sources.table.tables import MOST_PIXELS

__all__ = ["Origin", "SampleMaker"]

_KINDS = ("mask", "image", "latent")


class Origin(msgspec.Struct, frozen=True):
    """The table of a row."""

    address: str
    """A path or an address without query, for messages."""
    root: str
    """The folder or address at which relative paths begin."""
    label: str
    """What precedes a row's number in an id that is made of that number."""

    @property
    def is_remote(self) -> bool:
        """Returns whether the table has an address."""
        return "://" in self.address


class SampleMaker:
    """Makes a SampleRef, or a Skipped, of each row."""

    def __init__(self, roles: Roles, labels: ClassLabels, most_bytes: int) -> None:
        """most_bytes: of a payload in a cell."""
        self._roles, self._labels, self._most_bytes = roles, labels, most_bytes
        self._first, *self._others = roles.images

    def make(self, row: Mapping[str, Any], number: int, origin: Origin) -> SampleRef | Skipped:
        """Returns the sample of a row, or why there is none. row: column -> value. number: of the row."""
        roles = self._roles
        place = self._image(row, origin)
        given = row[roles.id] if roles.id else None
        name = utf8_text(str(given)) if given not in (None, "") else self._name(place, number, origin)
        where = utf8_text(place.path or shown_place(place.url) or origin.address)
        if roles.is_index and row["reason"]:
            return Skipped(number, name, where, row["reason"], row["detail"] or "")
        if place.problem:
            return Skipped(number, name, where, place.problem, place.detail)
        info, flaws = self._info(row, name)
        parts: list[Part] = []
        for part, there in self._places_of_parts(row, origin):
            if there.problem and (there.problem != "no-image" or not part.optional):
                reason = _lacking(part.kind) if there.problem == "no-image" else there.problem
                return Skipped(number, name, where, reason, f"{part.kind} {part.name!r}: {there.detail}")
            if not there.problem:
                made = Part(part.name, part.kind, there.path, there.url, there.payload, part.optional, there.span)
                parts.append(made)
        path, url = place.path, place.url
        if place.payload is not None:
            path, url = ("", origin.address) if origin.is_remote else (origin.address, "")
        size = (_side(row, roles.height), _side(row, roles.width)) if roles.sized else (0, 0)
        version = (row["digest"] or "") if roles.is_index else ""
        return SampleRef(
            number, info, path, url, place.payload, parts, flaws, size=size, span=place.span, version=version
        )

    def _image(self, row: Mapping[str, Any], origin: Origin) -> Place:
        cell = row[self._first]
        for other in self._others:
            cell = row[other] if cell is None else cell
        offset, length = (row[name] if name else None for name in (self._roles.offset, self._roles.length))
        return self._place(cell, offset, length, origin)

    def _place(self, cell: Any, offset: Any, length: Any, origin: Origin) -> Place:
        place = place_of(cell, offset, length, origin.root)
        size = len(place.payload or b"")
        if size > self._most_bytes:
            return Place(name=place.name, problem="too-large", detail=f"{size} bytes, above http_config.max_payload_mb")
        return place

    def _name(self, place: Place, number: int, origin: Origin) -> str:
        if place.name:
            query = f"#{number}" if "?" in place.url else ""
            return utf8_text(place.name) + query
        return f"{origin.label}{number}"

    def _info(self, row: Mapping[str, Any], name: str) -> tuple[SampleInfo, dict[str, str]]:
        labels, column = self._labels, self._roles.label
        if self._roles.is_index:
            text, problem = check_attributes((row["attributes"] or "{}").encode("utf-8", "surrogatepass"))
            label, flaws = labels.in_attributes(text, column) if column else labels.stored(row["label"])
            info = SampleInfo(name, row["source"] or "", text, row["tags"] or [], label=label)
        else:
            text, problem = _encode({column: row[column] for column in self._roles.attributes})
            label, flaws = labels.of(row[column]) if column else (None, {})
            info = SampleInfo(name, "", text, label=label)
        return info, flaws | {BAD_ATTRIBUTES: problem} if problem else flaws

    def _places_of_parts(self, row: Mapping[str, Any], origin: Origin) -> list[tuple[PartColumn, Place]]:
        if not self._roles.is_index:
            return [(part, self._place(row[part.column], None, None, origin)) for part in self._roles.parts]
        return [
            (PartColumn(part["name"], part["kind"], "parts", optional=False), self._place(part, None, None, origin))
            for part in row["parts"] or ()
            if part["kind"] in _KINDS
        ]


def _side(row: Mapping[str, Any], column: str) -> int:
    """Returns a side of the picture in pixels, 0 where unknown: as `Tables.sizes` does for all rows."""
    value = row[column] if column else None
    return int(value) if value is not None and 0 < value < MOST_PIXELS else 0


def _lacking(kind: str) -> str:
    return "no-additional-image" if kind == "image" else f"no-{kind}"


def _encode(values: dict[str, Any]) -> tuple[bytes, str]:
    """Returns the attributes as JSON, and what is wrong with them, as `check_attributes` does."""
    if not values:
        return NO_ATTRIBUTES, ""
    try:
        return check_attributes(_encoder.encode(values))
    except UNREADABLE as error:
        return NO_ATTRIBUTES, describe_problem(error)


def _as_json(value: Any) -> Any:
    """Returns a value that msgspec does not know in a form that it does."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"values of the type {type(value).__name__} are no JSON")


_encoder = msgspec.json.Encoder(enc_hook=_as_json, decimal_format="number")
"""Writes NaN and infinity as null, times in ISO 8601, bytes in base64."""
