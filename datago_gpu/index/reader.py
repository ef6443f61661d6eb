"""A process that reads local files for an index: `python -m datago_gpu.index.reader SOCKET_FD PARENT_PID`."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct, msgpack

from datago_gpu.config import LoaderConfig, WebDatasetSource
from datago_gpu.feeder.decoding.fork_server import die_with
from datago_gpu.feeder.wire import HEADER_BYTES, frame
from datago_gpu.index.local_files import FilesJob, LocalFiles, ShardJob
from datago_gpu.sources.index_form import IndexRow

if TYPE_CHECKING:
    from datago_gpu.index.members import LocalShards

__all__ = ["Answer", "Job", "Reader", "ReaderSetup"]

Job: TypeAlias = FilesJob | ShardJob


class ReaderSetup(Struct, array_like=True):
    """The first message to a reader process. config: the settings as plain values."""

    config: dict[str, Any]


class Answer(Struct, array_like=True):
    """The result of a job.

    rows: of files, one row for each file, or None in its place if the file has not changed. Of a shard, its rows; None
    in place of the list if the shard has not changed.
    """

    rows: list[IndexRow | None] | None


class Reader:
    """Does the jobs."""

    def __init__(self, config: LoaderConfig) -> None:
        self._files = LocalFiles(config)
        self._shards: LocalShards | None = None
        if isinstance(config.source_config, WebDatasetSource):
            from datago_gpu.index.members import LocalShards  # imports asyncio: a reader of pictures starts without

            self._shards = LocalShards(config)

    def answer(self, job: Job) -> Answer:
        """Returns the result of a job."""
        if isinstance(job, FilesJob):
            return Answer(self._files.rows(job))
        assert self._shards
        rows = self._shards.rows(os.fsdecode(job.address), job.path, job.known)
        return Answer(None if rows is None else [*rows])


def serve(descriptor: int, parent: int) -> None:
    """Answers jobs until the other end of the socket is closed."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rb") as messages:
        jobs = msgpack.Decoder(Job)
        reader: Reader | None = None
        while head := messages.read(HEADER_BYTES):
            message = messages.read(int.from_bytes(head, "big"))
            if reader is None:
                setup = msgpack.decode(message, type=ReaderSetup)
                reader = Reader(LoaderConfig.load(setup.config))
            else:
                channel.sendall(frame(reader.answer(jobs.decode(message))))


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
