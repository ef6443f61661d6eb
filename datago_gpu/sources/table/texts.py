"""Reads tables that are texts: JSON lines and CSV. Lines that are no rows are left out, with a warning."""

from __future__ import annotations

import io
import json
import logging
import mmap
import os
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from datago_gpu.sources.attributes import decode_object
from datago_gpu.sources.reference import utf8_text
from datago_gpu.sources.table.located import Located
from datago_gpu.sources.table.settled import WholeTable, settle
from datago_gpu.units import MiB

__all__ = ["read_csv", "read_jsonl"]

log = logging.getLogger("datago_gpu")

_BLOCK = 16 * MiB
"""The size of the pieces in which text is parsed."""
_LARGE_TEXT = 256 * MiB
"""The size from which on texts are parsed piece by piece: types then follow from the first piece."""


_NULL, _NULL_AT_FIRST = re.compile(rb"\n\s*null"), re.compile(rb"(?:\xef\xbb\xbf)?\s*null")


def read_jsonl(file: Located, _: Sequence[str]) -> WholeTable:
    """Reads JSON lines. Raises pa.ArrowException, OSError."""
    from pyarrow.json import ParseOptions, ReadOptions, open_json, read_json

    options, given = ReadOptions(block_size=_BLOCK), file.open()
    is_large = os.path.getsize(given) >= _LARGE_TEXT
    if _has_null(given):
        if is_large:
            raise pa.ArrowInvalid("a line is null, which is no JSON object")
        return _whole(_lines(file, given))
    if is_large:
        texts = _time_columns(open_json(given, options).schema)
        reader = open_json(given, options, ParseOptions(explicit_schema=texts))
        return settle(reader.schema, reader)
    try:
        table = read_json(given, options)
        texts = _time_columns(table.schema)
        return _whole(read_json(given, options, ParseOptions(explicit_schema=texts)) if len(texts) else table)
    except pa.ArrowInvalid:
        return _whole(_lines(file, given))


def _has_null(path: str) -> bool:
    """Returns whether a line begins with null: pyarrow ends the process if such a line is the first of a block."""
    if not os.path.getsize(path):
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return bool(_NULL_AT_FIRST.match(content) or _NULL.search(content))


def _time_columns(schema: pa.Schema) -> pa.Schema:
    """Returns the columns of times, as texts. JSON has no times: pyarrow takes texts for times that look like some."""
    return pa.schema([(field.name, pa.string()) for field in schema if pa.types.is_timestamp(field.type)])


def _lines(file: Located, given: str) -> pa.Table:
    """Reads JSON lines one by one, where pyarrow refuses the file: lines that are no objects, columns of several types.

    Raises pa.ArrowInvalid if there is no row at all.
    """
    rows, bad = list[dict[str, Any]](), list[int]()
    with open(given, "rb") as lines:
        for number, line in enumerate(lines, 1):
            row = decode_object(line)
            if row is not None:
                rows.append(row)
            elif line.strip():
                bad.append(number)
    if not rows:
        raise pa.ArrowInvalid("no line of the file is a JSON object")
    _tell(file, bad, "are no JSON objects")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({utf8_text(name): _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Returns values as a column. If they have several types, as texts: those that are no texts, as JSON."""
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array(list(map(_as_text, values)), pa.string())


def _as_text(value: Any) -> str | None:
    """Returns a text as it is, and any other value as JSON. A "?" replaces bytes that are not UTF-8."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


def read_csv(file: Located, texts: Sequence[str], separator: str) -> WholeTable:
    """Reads CSV. texts: columns that are texts, whatever they look like. Raises pa.ArrowException, OSError."""
    from pyarrow import csv

    given = file.open()
    options = {
        "read_options": csv.ReadOptions(block_size=_BLOCK),
        "parse_options": csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            column_types=dict.fromkeys(texts, pa.string()), timestamp_parsers=["no time"], check_utf8=False
        ),
    }
    if os.path.getsize(given) >= _LARGE_TEXT:
        reader = csv.open_csv(given, **options)
        return settle(reader.schema, reader)
    try:
        return _whole(csv.read_csv(given, **options))
    except pa.ArrowInvalid:
        content, bad = _even_rows(given, separator)
        found = _whole(csv.read_csv(content, **options))
    _tell(file, bad, "have more or fewer values than there are columns")
    return found


def _even_rows(given: str, separator: str) -> tuple[io.BytesIO, list[int]]:
    """Returns the rows of a CSV file that have as many values as the first one, and the lines where the others end."""
    import csv

    kept, bad = io.StringIO(newline=""), list[int]()
    writer = csv.writer(kept, delimiter=separator)
    with open(given, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader, count = csv.reader(lines, delimiter=separator), 0
        try:
            for row in reader:
                count = count or len(row)
                if len(row) == count:
                    writer.writerow(row)
                elif row:
                    bad.append(reader.line_num)
        except csv.Error as error:  # a field of more than 128 KiB
            raise pa.ArrowInvalid(str(error)) from error
    return io.BytesIO(kept.getvalue().encode("utf-8", "surrogateescape")), bad


def _tell(file: Located, bad: Sequence[int], why: str) -> None:
    """Warns of lines that are left out."""
    if bad:
        log.warning("%s: %d lines %s and are left out, the first is line %d", file.shown, len(bad), why, bad[0])


def _whole(table: pa.Table) -> WholeTable:
    table = table.combine_chunks()
    return WholeTable(table.schema, table.to_batches())
