"""Builds the attributes of a sample in a shard: one JSON object from its JSON, text and class files."""

from __future__ import annotations

from typing import Any

from datago_gpu.sources.attributes import NO_ATTRIBUTES, check_attributes, decode_json, encode
from datago_gpu.sources.reference import utf8_text

__all__ = ["attributes_of"]


def attributes_of(files: dict[str, bytes], *, as_text: bool) -> tuple[bytes, str]:
    """Returns one JSON object of all files, and what is wrong with them, as `attributes.checked` does.

    files: part name -> content. as_text: every file becomes its text, in datago's form.
    """
    if not files:
        return NO_ATTRIBUTES, ""
    try:
        return check_attributes(encode(_texts(files) if as_text else _values(files)))
    except (ValueError, RecursionError) as error:
        return NO_ATTRIBUTES, str(error)


def _texts(files: dict[str, bytes]) -> dict[str, str]:
    """Returns datago's form of these files: name -> text, also for JSON."""
    return {utf8_text(part): content.decode("utf-8", "replace") for part, content in files.items()}


def _values(files: dict[str, bytes]) -> dict[str, Any]:
    """Returns the object of a file called "json" itself, and the others under their names, without the extension if the
    name has more parts.

    Raises ValueError, RecursionError.
    """
    merged: dict[str, Any] = {}
    for part in sorted(files, key=lambda part: part != "json"):
        stem, _, extension = part.rpartition(".")
        value = _attribute(part, extension, files[part])
        if part == "json" and isinstance(value, dict):
            merged |= value
        else:
            merged[utf8_text(stem or extension)] = value
    return merged


def _attribute(part: str, extension: str, content: bytes) -> Any:
    if extension == "json":
        return _json(part, content)
    text = content.decode("utf-8", "replace")
    if extension == "cls":
        try:
            return int(text)
        except ValueError:
            return text.strip()
    return text


def _json(part: str, content: bytes) -> Any:
    try:
        return decode_json(content)
    except ValueError:
        raise ValueError(f"{utf8_text(part)!r} is not JSON") from None
