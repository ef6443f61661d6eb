"""Looks at local files: reads their headers, and asks the file system whether they have changed."""

from __future__ import annotations

import os

from msgspec import Struct

from datago_gpu.config import LoaderConfig
from datago_gpu.index.look import Look, Looker
from datago_gpu.index.survey import attributes_text
from datago_gpu.sources.attributes import NO_ATTRIBUTES
from datago_gpu.sources.caption_text import MOST_CAPTION_BYTES, attributes_of_caption
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.local import NUL_IN_PATH, Patience, read_file
from datago_gpu.sources.reference import Span, utf8_text

__all__ = ["FilesJob", "LocalFiles", "ShardJob", "digest_of", "local_text"]


class FilesJob(Struct, array_like=True, tag="files"):
    """Some files to look at. names: their paths below the root. known: their digests in an earlier index, or None.

    spans: the parts of the files that are images, None for a whole file; empty if all are whole. captions: the absolute
    paths of the files' captions, empty for a file without one; empty if captions are not wanted.
    """

    root: bytes
    names: list[bytes]
    known: list[str | None]
    spans: list[Span | None] = []
    captions: list[bytes] = []


class ShardJob(Struct, array_like=True, tag="shard"):
    """A shard to read. path: as its rows name the shard; None if it has no such name. known: its digest in an earlier
    index, or None."""

    address: bytes
    path: str | None
    known: str | None


class LocalFiles:
    """Looks at images in local files. Any thread may use it."""

    def __init__(self, config: LoaderConfig) -> None:
        self._looker, self._patience = Looker(config, near=True), Patience(config.http_config)

    def rows(self, job: FilesJob) -> list[IndexRow | None]:
        """Returns the row of each file; None for a file that has not changed."""
        above = os.path.join(os.fsdecode(job.root), "")
        spans = job.spans or [None] * len(job.names)
        captions = map(os.fsdecode, job.captions or [b""] * len(job.names))
        return [self._row(above, *each) for each in zip(job.names, job.known, spans, captions, strict=True)]

    def _row(self, above: str, name: bytes, known: str | None, span: Span | None, caption: str) -> IndexRow | None:
        below = os.fsdecode(name)
        row = IndexRow(utf8_text(below), local_text(below), source="filesystem")
        row.offset, row.length = span or (None, None)
        if row.path is None:
            row.reason, row.detail = "odd-name", "the path is not UTF-8 text: rename the file"
            return row
        if "\0" in below:
            row.reason, row.detail = NUL_IN_PATH
            return row
        try:
            found = self._patience(lambda: self._look(above + below, known, span, caption))
        except FileNotFoundError:
            row.reason = "missing"
            return row
        except OSError as error:
            row.reason, row.detail = "unreadable", error.strerror
            return row
        if found is None:
            return None
        row.digest, row.bytes, look = found
        look.fill(row)
        if caption and not look.reason:
            row.attributes = self._caption(caption)
        return row

    def _caption(self, path: str) -> str | None:
        """Returns the attributes in a caption; None if it cannot be used."""
        try:
            content, size = self._patience(lambda: read_file(path, MOST_CAPTION_BYTES))
        except OSError:
            return None
        attributes, _ = attributes_of_caption(path, content) if size <= MOST_CAPTION_BYTES else (NO_ATTRIBUTES, "")
        return attributes_text(attributes)

    def _look(self, path: str, known: str | None, span: Span | None, caption: str) -> tuple[str, int, Look] | None:
        """Returns digest, size and look of an image; None if the files have the known digest. Raises OSError."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            digest = digest_of(status) + (f"+{_digest_at(caption)}" if caption else "")
            if digest == known:
                return None
            at, size = span or (0, status.st_size)
            if at + size > status.st_size:
                return digest, size, Look(reason="cut-short", detail="the file ends before the end of this part")
            look = self._looker.look_into(lambda begin, end: os.pread(file, end - begin, at + begin), size)
            return digest, size, look
        finally:
            os.close(file)


def digest_of(status: os.stat_result) -> str:
    """Returns what changes when a file changes."""
    return f"{status.st_mtime_ns}-{status.st_size}"


def _digest_at(path: str) -> str:
    """Returns the same for a file that may have been deleted. Raises OSError."""
    try:
        return digest_of(os.stat(path))
    except FileNotFoundError:
        return ""


def local_text(path: str) -> str | None:
    """Returns a path as text that an index can hold; None if it is not UTF-8."""
    return path if path.isascii() or utf8_text(path) == path else None
