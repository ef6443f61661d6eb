"""Finds the tables that the setting `path` names on this machine: files, folders, wildcards."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from datago_gpu.config.file_names import is_hidden
from datago_gpu.config.local_paths import plain_path
from datago_gpu.errors import SourceError
from datago_gpu.redact import without_query
from datago_gpu.sources.reference import printable_path

__all__ = ["ENDINGS", "Located", "ending_of", "is_private", "local_tables", "one_kind", "partitions_of"]

ENDINGS = (".parquet", ".arrow", ".feather", ".jsonl", ".ndjson", ".csv", ".tsv")
"""In a folder with tables of several kinds, those of the first kind are taken."""
_MOST_TABLES = 100_000


class Located(Struct):
    """A table, at a path or an address.

    below: the path below the folder that was named, or the name. opener, length: of a remote table, what opens it as a
    file object, and its bytes.
    """

    address: str
    below: str
    opener: Callable[[], Any] | None = None
    length: int = 0

    @property
    def shown(self) -> str:
        """Returns the place for messages."""
        return without_query(self.address) if "://" in self.address else printable_path(self.address)

    @property
    def ending(self) -> str:
        """Returns the extension, which says what kind of table this is."""
        return ending_of(self.below)

    @property
    def folder(self) -> str:
        """Returns the folder, or the address up to the last slash."""
        return self.address.partition("?")[0].rpartition("/")[0] or "/"

    def size(self) -> int:
        """Returns the bytes of the file. Raises OSError."""
        return os.path.getsize(self.address) if self.opener is None else self.length

    def open(self) -> Any:
        """Returns the path of a local table, a file object of a remote one."""
        return self.opener() if self.opener else self.address


def ending_of(name: str) -> str:
    """Returns the extension of a table; "" if the name is not that of a table."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def local_tables(text: str, absolute: Callable[[str], str]) -> list[Located]:
    """Returns the tables that an entry of `path` names, in the order of their names. Raises SourceError."""
    place = absolute(text)
    try:
        if os.path.isdir(place):
            found = [Located(path, os.path.relpath(path, place)) for path in _walk(place)]
        elif os.path.exists(place) or not glob.has_magic(text):
            found = [Located(place, os.path.basename(place))]
        else:
            pattern = plain_path(text, absolute(""))
            root = "" if os.path.isabs(pattern) else absolute("")
            paths = sorted(absolute(path) for path in glob.glob(pattern, root_dir=root or None, recursive=True))
            found = [Located(path, os.path.basename(path)) for path in paths if os.path.isfile(path)]
    except OSError as error:
        raise SourceError(
            f"cannot list the tables in {printable_path(place)}: {error.strerror}; check source_config.path"
        ) from error
    return one_kind(found, printable_path(place))


def one_kind(found: Iterable[Located], shown: str) -> list[Located]:
    """Returns the tables of the first kind that occurs. Raises SourceError if there is none."""
    tables = [table for table in found if table.ending]
    if not tables:
        raise SourceError(
            f"no table: {shown} names no file that ends in {', '.join(ENDINGS)}; check source_config.path"
        )
    if len(tables) > _MOST_TABLES:
        raise SourceError(f"{shown} names more than {_MOST_TABLES:,} tables")
    kind = min((table.ending for table in tables), key=ENDINGS.index)
    return [table for table in tables if table.ending == kind]


def _walk(folder: str) -> Iterator[str]:
    """Yields the files below a folder by name, without private ones: see `is_private`."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=False):
        folders[:] = sorted(name for name in folders if not is_private(name))
        yield from (os.path.join(root, name) for name in sorted(names) if not is_private(name))


def is_private(name: str) -> bool:
    """Returns whether a file or folder is hidden, or one that writers keep beside their tables, such as `_metadata`."""
    return name.startswith("_") or is_hidden(name)


def partitions_of(tables: list[Located]) -> list[dict[str, Any]]:
    """Returns of each table the columns that its folders name, as in `year=2024/part-0.parquet`.

    Values are numbers where all tables have whole numbers.
    """
    given = [dict(_pairs(table.below)) for table in tables]
    numbers = {
        name for name in {name for each in given for name in each} if all(_is_number(each.get(name)) for each in given)
    }
    return [{name: int(text) if name in numbers else text for name, text in each.items()} for each in given]


def _pairs(below: str) -> Iterator[tuple[str, str]]:
    for folder in below.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name:
            yield name, unquote(value)


def _is_number(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdecimal() and len(text) < 16 and text == str(int(text))
