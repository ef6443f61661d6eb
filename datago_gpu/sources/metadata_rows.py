"""Parses metadata.jsonl and metadata.csv, in which Hugging Face's ImageFolder has the attributes of images.

Each row has the column `file_name`: the path of an image, from the folder of the metadata file. All other columns are
attributes.
"""

from __future__ import annotations

import csv
import io
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Any

from datago_gpu.errors import SourceError
from datago_gpu.sources.attributes import check_attributes, decode_object, encode

__all__ = ["MetadataRows", "parse_metadata"]

log = logging.getLogger("datago_gpu")

_FILE_NAME = "file_name"
_LONGEST_FIELD = 1024 * 1024
_field_limit = Lock()
"""Whoever has the lock may change the longest field of module csv, which all threads have in common."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_TRUTH = {"true": True, "false": False}

MetadataRows = dict[bytes, bytes]
"""Path of an image, from the folder of the metadata file -> its attributes, as JSON."""

_Rows = Iterable[tuple[int, dict[str, Any] | None]]
"""The line of each row, and its values; None if the line is no row."""


def parse_metadata(name: str, content: bytes) -> MetadataRows:
    """Returns the rows of a metadata file. name: its path, for messages. Any thread may call this.

    Rows that cannot be used are left out, with a warning. Raises SourceError if no row can be used.
    """
    rows: _Rows = _csv_rows(name, content) if name.lower().endswith(".csv") else _json_rows(content)
    found, bad = MetadataRows(), list[tuple[int, str]]()
    for line, values in rows:
        row = _row(values)
        if isinstance(row, str):
            bad.append((line, row))
        else:
            found[row[0]] = row[1]
    if bad:
        line, why = bad[0]
        if not found:
            raise SourceError(f"{name}: none of its rows can be used. Line {line}: {why}")
        log.warning("%s: %d rows cannot be used and are left out, the first in line %d: %s", name, len(bad), line, why)
    return found


def _row(values: dict[str, Any] | None) -> tuple[bytes, bytes] | str:
    """Returns path and attributes of a row, or why it cannot be used."""
    if values is None:
        return "it is not a JSON object"
    path = values.pop(_FILE_NAME, None)
    if not isinstance(path, str) or not path:
        return f"it has no text in the column {_FILE_NAME!r}"
    try:
        attributes, problem = check_attributes(encode(values))
        key = posixpath.normpath(path.replace("\\", "/")).encode()
    except (ValueError, RecursionError) as error:
        return str(error)
    return problem or (key, attributes)


def _json_rows(content: bytes) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for number, line in enumerate(io.BytesIO(content.removeprefix(b"\xef\xbb\xbf")), 1):
        if line.strip():
            yield number, decode_object(line)


def _csv_rows(name: str, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a CSV file. A column's values are numbers, or true and false, if all of them are."""
    try:
        text = content.decode("utf-8-sig")
        with _field_limit:
            header, *rows = _split(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{name}, line {line}: the text is not UTF-8: save it as UTF-8") from None
    except csv.Error as error:
        raise SourceError(f"{name} is not CSV: {error}") from None
    except ValueError:
        raise SourceError(f"{name} is empty") from None
    names = header[1]
    columns = [
        cells if column == _FILE_NAME else _typed(cells)
        for at, column in enumerate(names)
        for cells in [[row[at] if at < len(row) else "" for _, row in rows]]
    ]
    for (line, _), values in zip(rows, zip(*columns, strict=True), strict=True):
        yield line, dict(zip(names, values, strict=True))


def _split(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each row with the line in which it ends."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        for row in reader:
            if row:
                yield reader.line_num, row
    finally:
        csv.field_size_limit(before)


def _typed(cells: list[str]) -> list[Any]:
    """Returns the cells of a column as values; empty cells are None."""
    given = [cell for cell in cells if cell]
    convert: Any = str
    if all(map(_INTEGER.fullmatch, given)):
        convert = int
    elif all(map(_is_float, given)):
        convert = float
    elif all(cell.lower() in _TRUTH for cell in given):
        convert = lambda cell: _TRUTH[cell.lower()]  # noqa: E731
    return [convert(cell) if cell else None for cell in cells]


def _is_float(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.strip("+-").lower() not in ("infinity", "inf", "nan")
