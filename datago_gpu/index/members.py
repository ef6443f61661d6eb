"""Reads the rows of one shard: its samples, grouped as the source of shards does, and where their files lie in the tar.

Only tar headers, attributes and the beginnings of images are read of a local shard. Files of a compressed shard cannot
be read one by one: such a shard gets one row, with the reason "compressed-shard".
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, cast

from datago_gpu.config import LoaderConfig
from datago_gpu.index.local_files import digest_of
from datago_gpu.index.look import Look, Looker, ReadAt, read_fully
from datago_gpu.index.survey import row_of_sample, row_of_skip
from datago_gpu.sources.index_form import IndexPart, IndexRow
from datago_gpu.sources.local import Patience
from datago_gpu.sources.reference import SampleRef, Skipped, Span, utf8_text
from datago_gpu.sources.webdataset.compression import compression_of, format_name
from datago_gpu.sources.webdataset.grouping import Collector
from datago_gpu.sources.webdataset.links import Links
from datago_gpu.sources.webdataset.shard_reader import MOST_BYTES, MOST_FILES
from datago_gpu.sources.webdataset.shard_turns import reason_and_detail
from datago_gpu.sources.webdataset.tar import BadShard, TarStream

__all__ = ["LocalShards", "Members", "ShardPlace", "compressed_row", "lost", "read_stream"]

_BUFFER_BYTES = 16 * 1024
"""Read at once of a local shard: a tar header and the small files that follow it."""
_STREAM_BYTES = 1024 * 1024


class ShardPlace:
    """Names a shard in its rows: by a local path or by a URL. shown: its name in messages."""

    def __init__(self, path: str | None, url: str | None, shown: str) -> None:
        self.path, self.url, self.shown = path, url, shown

    def row(self, skip: Skipped) -> IndexRow:
        """Returns the row for something in the shard, or the shard itself, that cannot be used."""
        return row_of_skip(skip, path=self.path, url=self.url)


class Members:
    """Makes rows of the samples of one shard."""

    def __init__(self, config: LoaderConfig, place: ShardPlace, looker: Looker, digest: str | None) -> None:
        self._collector = Collector(config, place.shown)
        self._place, self._looker, self._digest = place, looker, digest
        self._looks: dict[Span, Look] = {}
        """The pictures of the current sample: its image, masks and further images."""

    def rows(self, stream: TarStream, links: Links, read: ReadAt | None) -> Iterator[IndexRow]:
        """Yields the row of each sample. Raises BadShard, and errors of the file.

        read: reads the shard at any place; None if the shard can be read only once, from its beginning.
        """
        try:
            yield from self._rows(stream, links, read)
        finally:
            self._collector.tell_left_out()

    def _rows(self, stream: TarStream, links: Links, read: ReadAt | None) -> Iterator[IndexRow]:
        collector, files, since = self._collector, 0, 0
        for name, size, link in stream:
            begin = stream.position
            extent = links.note(name, link, begin, size)
            span = Span(begin, size) if extent is None else Span(extent.offset, extent.size)
            finished, wanted = collector.begin(name, span.length)
            if finished is not None:
                yield self._row(finished)
            files, since = (1, begin) if isinstance(finished, SampleRef) else (files + 1, since)
            if files > MOST_FILES or begin + size - since > MOST_BYTES:
                raise BadShard(f"no sample in {files} files and {begin + size - since} bytes, before byte {begin}")
            if wanted and link and extent is None:
                collector.refuse("link", f"a link to {utf8_text(link)!r}: {links.why}")
            elif wanted:
                self._keep(stream, span, read)
        last = collector.finish()
        if last is not None:
            yield self._row(last)

    def _keep(self, stream: TarStream, span: Span, read: ReadAt | None) -> None:
        """Reads as much of a file as is needed."""
        kind = self._collector.kind
        if kind == "attribute":
            self._collector.keep(stream.read() if read is None else _exactly(read, span.begin, span.end))
            return
        if kind != "latent":
            source = read or _reader_of(stream.read(), span.begin)
            self._looks[span] = self._looker.look_into(
                lambda begin, end: _exactly(source, span.begin + begin, span.begin + end), span.length
            )
        self._collector.keep(b"", span)

    def _row(self, sample: SampleRef | Skipped) -> IndexRow:
        looks, self._looks = self._looks, {}
        if isinstance(sample, Skipped):
            row = self._place.row(sample)
            row.digest = self._digest
            return row
        assert sample.span
        place = self._place
        row = IndexRow("", place.path, place.url, sample.span.begin, sample.span.length, sample.span.length)
        row = row_of_sample(sample, looks[sample.span], row)
        row.digest = self._digest
        row.parts = [
            IndexPart(part.name, part.kind, place.path, place.url, part.span.begin, part.span.length)
            for part in sample.parts
            if part.span
        ]
        for part in sample.parts:
            assert part.span
            look = looks.get(part.span) or Look(reason="" if part.span.length else "empty")
            if look.reason and row.reason is None:
                words = (f"{part.kind} {part.name!r}", look.reason, look.detail)
                row.reason, row.detail = look.reason, ": ".join(filter(None, words))
        return row


class LocalShards:
    """Reads the rows of local shards. Any thread may use it."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config, self._patience = config, Patience(config.http_config)
        self._looker = Looker(config, near=True)

    def rows(self, address: str, path: str | None, known: str | None) -> list[IndexRow] | None:
        """Returns the rows of a shard; None if it has the known digest. path: as its rows name it.

        An error that loses the rest of the shard is its last row.
        """
        place, rows = ShardPlace(path, None, address), list[IndexRow]()
        if path is None:
            return [IndexRow("", utf8_text(address), reason="odd-name", detail="the path is not UTF-8 text: rename it")]
        try:
            with self._patience(lambda: open(address, "rb", _BUFFER_BYTES)) as file:
                status = os.fstat(file.fileno())
                digest = digest_of(status)
                if digest == known:
                    return None
                self._collect(rows, cast(io.BufferedReader, file), status.st_size, place, digest)
        except (BadShard, OSError) as error:
            rows.append(place.row(lost(error)))
        return rows

    def _collect(
        self, rows: list[IndexRow], file: io.BufferedReader, size: int, place: ShardPlace, digest: str
    ) -> None:
        kind = compression_of(file.peek())
        if kind:
            rows.append(compressed_row(place, kind))
            return
        check_tar(cast(BinaryIO, file))
        members = Members(self._config, place, self._looker, digest)
        descriptor = file.fileno()

        def read(begin: int, end: int) -> bytes:
            return self._patience(lambda: os.pread(descriptor, end - begin, begin))

        for row in members.rows(TarStream(cast(BinaryIO, file), size=size), Links(place.shown, self._patience), read):
            rows.append(row)  # noqa: PERF402 - one by one: those before an error are kept


def read_stream(raw: io.RawIOBase, members: Members, patience: Patience, rows: list[IndexRow]) -> None:
    """Appends the rows of a shard that is downloaded. Raises BadShard, and errors of the download."""
    with io.BufferedReader(raw, _STREAM_BYTES) as file:
        check_tar(cast(BinaryIO, file))
        for row in members.rows(TarStream(cast(BinaryIO, file)), Links(None, patience), None):
            rows.append(row)  # noqa: PERF402 - one by one: those before an error are kept


def check_tar(file: BinaryIO) -> None:
    """Raises BadShard if a file is apparently of another format."""
    if other := format_name(file):
        raise BadShard(f"it is not a tar archive, but {other}")


def compressed_row(place: ShardPlace, kind: str) -> IndexRow:
    """Returns the row for a shard whose files cannot be read one by one."""
    detail = f"a shard compressed with {kind}: no single sample can be read from it; decompress the shard"
    return place.row(Skipped(-1, "", place.shown, "compressed-shard", detail))


def lost(error: Exception) -> Skipped:
    """Returns the skip for the rest of a shard."""
    reason, detail = reason_and_detail(error)
    return Skipped(-1, "", "", reason, detail)


def _reader_of(content: bytes, at: int) -> ReadAt:
    """Returns what reads the bytes of a file of which only `content`, from byte `at` on, is in memory."""
    return lambda begin, end: content[begin - at : end - at]


def _exactly(read: ReadAt, begin: int, end: int) -> bytes:
    """Reads bytes. Raises BadShard if the file ends before."""
    content = read_fully(read, begin, end)
    if len(content) < end - begin:
        raise BadShard(f"it ends within a file, at byte {begin + len(content)}")
    return content
