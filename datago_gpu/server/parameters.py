"""Request parameters, and the fields of an answer that they ask for, refused in the words of a real Dataroom."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

# fmt: off
DEFAULT_FIELDS = (
    "id", "source", "image_direct_url", "date_created", "date_updated", "author", "image_hash", "width", "height",
    "short_edge", "pixel_count", "aspect_ratio", "aspect_ratio_fraction", "original_url", "tags", "attributes",
    "datasets",
)
ALL_FIELDS = (
    "id", "source", "image", "image_direct_url", "date_created", "date_updated", "author", "image_hash", "width",
    "height", "short_edge", "pixel_count", "aspect_ratio", "aspect_ratio_fraction", "thumbnail", "thumbnail_direct_url",
    "thumbnail_error", "original_url", "tags", "coca_embedding", "latents", "attributes", "duplicate_state",
    "related_images", "datasets",
)
# fmt: on

MAX_PARAMETERS = 1000
NULL_CHARACTER = "Null characters are not allowed."
_TRUE = {"t", "y", "yes", "true", "on", "1"}
_FALSE = {"f", "n", "no", "false", "off", "0"}


class Refused(Exception):
    """A 400. `body` is what it answers: an object for a parameter's form, a list for a filter's meaning."""

    def __init__(self, body: dict[str, list[str]] | list[str]) -> None:
        super().__init__(body)
        self.body = body


class Parameters:
    """The query of one request; of a repeated parameter the last one counts. Raises ValueError over 1,000 of them."""

    def __init__(self, query: str) -> None:
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_PARAMETERS)
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def raw(self, name: str) -> str:
        """The value as sent; empty when it was not."""
        return self._values.get(name, [""])[-1]

    def text(self, name: str) -> str:
        """The value without outer blanks; empty when it was not sent."""
        return self.raw(name).strip()

    def encoded_with(self, name: str, value: str) -> str:
        """All parameters, encoded anew, with `name` set to `value`."""
        return urlencode({**self._values, name: [value]}, doseq=True)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which fields each image object of an answer has."""

    fields: tuple[str, ...]
    return_latents: frozenset[str] | None
    """Only these latent types; None means all."""


def parse_shape(parameters: Parameters) -> Shape:
    """The field parameters. Raises Refused."""
    shape, errors = _shape_and_errors(parameters)
    refuse(errors)
    return shape


def parse_page(parameters: Parameters) -> tuple[Shape, int, str]:
    """The parameters of a page: shape, page size, and cursor, empty at the start. Raises Refused."""
    shape, errors = _shape_and_errors(parameters)
    page_size = _integer(parameters, "page_size", 100, 2000, errors)
    cursor = parameters.text("cursor")
    if "\0" in cursor:
        errors["cursor"] = [NULL_CHARACTER]
    refuse(errors)
    return shape, page_size, cursor


def parse_draw(parameters: Parameters) -> tuple[Shape, int, int | None, int]:
    """The parameters of a random page: shape, page size, prefix length, number of prefixes. Raises Refused.

    The length is None where none was asked for.
    """
    shape, errors = _shape_and_errors(parameters)
    page_size = _integer(parameters, "page_size", 100, 2000, errors)
    prefix_length = _integer(parameters, "prefix_length", 0, 64, errors) or None
    num_prefixes = _integer(parameters, "num_prefixes", 100, 300, errors)
    refuse(errors)
    return shape, page_size, prefix_length, num_prefixes


def refuse(errors: dict[str, list[str]]) -> None:
    if errors:
        raise Refused(errors)


def _shape_and_errors(parameters: Parameters) -> tuple[Shape, dict[str, list[str]]]:
    names = ("fields", "include_fields", "exclude_fields", "return_latents")
    errors = {name: [NULL_CHARACTER] for name in names if "\0" in parameters.raw(name)}
    wants_all = parameters.text("all_fields").lower()
    if wants_all and wants_all not in _TRUE | _FALSE:
        errors["all_fields"] = ["Must be a valid boolean."]
    latents = parameters.text("return_latents")
    return Shape(_fields(parameters, wants_all in _TRUE), frozenset(latents.split(",")) if latents else None), errors


def _fields(parameters: Parameters, wants_all: bool) -> tuple[str, ...]:
    exactly = parameters.text("fields")
    if exactly:
        return _known_fields(["id", *exactly.split(",")])
    if wants_all:
        return ALL_FIELDS
    fields = _known_fields([*DEFAULT_FIELDS, *parameters.text("include_fields").split(",")])
    dropped = set(parameters.text("exclude_fields").split(",")) - {"id"}
    return tuple(name for name in fields if name not in dropped)


def _known_fields(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name in ALL_FIELDS)


def _integer(parameters: Parameters, name: str, default: int, most: int, errors: dict[str, list[str]]) -> int:
    text = parameters.text(name)
    if not text:
        return default
    try:
        value = int(re.sub(r"\.0*\s*$", "", text[:1001]))
    except ValueError:
        errors[name] = ["A valid integer is required."]
        return default
    if value < 1:
        errors[name] = ["Ensure this value is greater than or equal to 1."]
    elif value > most:
        errors[name] = [f"Ensure this value is less than or equal to {most}."]
    return value
