"""Reads one shard: a task downloads its bytes, a thread unpacks them, and samples come out."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from datago_gpu.eventloop import as_exception, guarded
from datago_gpu.sources.local import Patience, PatientFile
from datago_gpu.sources.reference import SampleRef, Skipped, sample_bytes, utf8_text
from datago_gpu.sources.webdataset.budget import Channel, GivenUp, Pipe
from datago_gpu.sources.webdataset.compression import DAMAGED, format_name, plain
from datago_gpu.sources.webdataset.grouping import Collector
from datago_gpu.sources.webdataset.links import Links
from datago_gpu.sources.webdataset.tar import BadShard, TarStream
from datago_gpu.sources.webdataset.windows import Windows

__all__ = ["MOST_BYTES", "MOST_FILES", "OpenShard", "Supply", "pump"]

Supply = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
"""Passes the bytes of a shard to the given function."""

_READ_BYTES = 1024 * 1024
_LOT_SAMPLES = 32
"""Samples passed from the thread to the loop at once: each handover costs about 60 us."""
_LOT_BYTES = 1024 * 1024
MOST_FILES, MOST_BYTES = 100_000, 64 * 1024**3
"""The most consecutive files, and unpacked bytes, without a sample: a shard with more counts as one without samples."""
_ROOM_BYTES, _ROOM_SHARE = 256 * 1024, 64
"""The least room reserved at a time, so that small files need not reserve one by one: this many bytes, or this
fraction (1/N) of all room."""
_CLOSE_S = 1.0


class OpenShard:
    """Reads a shard from the moment it is made, as far ahead as `channel` has room for samples, plus `piped` bytes.

    Reads no file before there is room for it.

    supply: downloads the shard's bytes; None if `address` is a local path, which is read with `patience`.
    windows: the memory that the decompressors of all shards share. arrived: called once, when all bytes have arrived.
    """

    def __init__(
        self,
        address: str,
        supply: Supply | None,
        collector: Collector,
        channel: Channel[SampleRef | Skipped],
        piped: int,
        patience: Patience,
        windows: Windows,
        arrived: Callable[[], None],
    ) -> None:
        self._patience, self._windows, self._window = patience, windows, 0
        self._closing = False
        self._address, self._collector, self._channel, self._arrived = address, collector, channel, arrived
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._pipe = Pipe(loop, piped, self._flush) if supply else None
        self._here = deque[SampleRef | Skipped]()
        self._lot: list[SampleRef | Skipped] = []
        self._lot_bytes = 0
        self._least_room = min(_ROOM_BYTES, channel.capacity // _ROOM_SHARE)
        self._room = self._begun = 0
        """Reserved bytes that are unused, and reserved bytes that the current sample uses."""
        self._gone = asyncio.Event()
        self._pump = loop.create_task(pump(supply, self._pipe)) if supply and self._pipe else None
        threading.Thread(target=self._run, name="datago-shard", daemon=True).start()

    async def take(self) -> SampleRef | Skipped | None:
        """Returns the next sample; None at the end. Raises an error that ends the shard after all earlier samples."""
        while not self._here:
            lot = await self._channel.take()
            if lot is None:
                return None
            self._here.extend(lot)
        return self._here.popleft()

    async def close(self) -> None:
        """Ends the request and the thread, which gets a second to finish its current work."""
        self._closing = True
        self._windows.wake()
        self._channel.give_up()
        if self._pipe is not None:
            self._pipe.give_up()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._gone.wait()

    def _run(self) -> None:
        """Runs in the thread."""
        error: Exception | None = None
        try:
            self._unpack()
        except GivenUp:
            pass
        except BaseException as problem:  # raised when the samples are taken
            error = as_exception(problem)
        self._windows.give_back(self._window)
        self._channel.end(error)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._note_end)

    def _note_end(self) -> None:
        self._gone.set()
        self._arrived()

    def _unpack(self) -> None:
        raw: Any = self._pipe or PatientFile(self._address, self._patience)
        with io.BufferedReader(raw, _READ_BYTES) as file:
            try:
                content = plain(file, self._take_window)
                if other := format_name(content):
                    raise BadShard(f"it is not a tar archive, but {other}")
                # The files of a local shard that is not compressed can be read a second time.
                links = Links(self._address if self._pipe is None and content is file else None, self._patience)
                self._collect(TarStream(content, marked=content is not file), links)
            except (BadShard, *DAMAGED) as error:
                detail = "the compressed data ends early" if isinstance(error, EOFError) else str(error)
                raise BadShard(detail) from None
            finally:  # also if the download breaks: complete samples are passed on
                self._flush()
                self._collector.tell_left_out()

    def _take_window(self, size: int) -> None:
        self._windows.take(self._channel.number, size, lambda: self._closing)
        self._window += size

    def _collect(self, stream: TarStream, links: Links) -> None:
        collector, files, since = self._collector, 0, 0
        for name, size, link in stream:
            place = links.note(name, link, stream.position, size)
            finished, wanted = collector.begin(name, size if place is None else place.size)
            if finished is not None:
                self._hand_over(finished)
            files, since = (1, stream.position) if isinstance(finished, SampleRef) else (files + 1, since)
            del finished  # otherwise the sample stays in memory while this thread waits for room
            if files > MOST_FILES or stream.position + size - since > MOST_BYTES:
                told = f"{files} files and {stream.position + size - since} bytes in a row"
                raise BadShard(f"no sample in {told}, before byte {stream.position}")
            if wanted:
                self._take_room(size if place is None else place.size)
            if wanted and not link:
                collector.keep(stream.read())
            elif wanted and place is not None:
                collector.keep(links.read(place))
            elif wanted:
                collector.refuse("link", f"a link to {utf8_text(link)!r}: {links.why}")
        last = collector.finish()
        if last is not None:
            self._hand_over(last)

    def _take_room(self, size: int) -> None:
        """Makes room for `size` bytes of the current sample. Passes complete samples on before it waits."""
        if size > self._room:
            missing = max(size - self._room, self._least_room)
            if not self._channel.has_room(missing):
                self._flush()
                self._channel.reserve(missing)
            self._room += missing
        self._room -= size
        self._begun += size

    def _hand_over(self, sample: SampleRef | Skipped) -> None:
        size = sample_bytes(sample)
        self._take_room(max(0, size - self._begun))
        self._room += self._begun - size
        self._begun = 0
        if self._room > self._least_room:
            self._channel.give_back(self._room - self._least_room)
            self._room = self._least_room
        if self._lot_bytes + size > _LOT_BYTES:
            self._flush()  # a large sample is a lot of its own: a lot is counted until it is taken
        self._lot.append(sample)
        self._lot_bytes += size
        if len(self._lot) >= _LOT_SAMPLES or self._lot_bytes >= _LOT_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Passes complete samples on, so that they do not wait for bytes that are still on their way."""
        if self._lot:
            lot, size = self._lot, self._lot_bytes
            self._lot, self._lot_bytes = [], 0
            self._channel.put(lot, size)


async def pump(supply: Supply, pipe: Pipe) -> None:
    try:
        await guarded(supply(pipe.put))
    except Exception as error:  # raised after all earlier samples
        pipe.end(error)
    else:
        pipe.end()
