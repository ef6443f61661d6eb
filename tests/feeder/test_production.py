"""The feeder's main line, with everything real but the process: folder, fetcher, packer, sockets and shared memory.

At the other end stands a taker that does what the loader does, less the decoding.
"""

from __future__ import annotations

import asyncio
import mmap
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import DatagoError, SourceError
from datago_gpu.feeder import wire
from datago_gpu.feeder.fetch import Fetcher
from datago_gpu.feeder.lockstep import LockstepProduction
from datago_gpu.feeder.pack import SKIPS_A_MESSAGE, Packer
from datago_gpu.feeder.prefetch_budget import Claim
from datago_gpu.feeder.production import Production
from datago_gpu.feeder.window import Outcome
from datago_gpu.feeder.wire import Resume
from datago_gpu.loader.steps import progress_of
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import Position, Refs, SampleRef, Skipped, Source, Tally
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.sources.shuffle import permutation
from datago_gpu.units import MiB
from tests.support.images import SHAPES, add_picture, file_config

WAIT_S = 20
COUNTS = (1, 4, 13, 30)
BROKEN = 7
"""Each seventh file of a folder is no image."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of files -> a folder of so many, of mixed shapes, some of them broken."""
    return {count: fill(tmp_path_factory.mktemp(f"of{count}"), count) for count in COUNTS}


def fill(root: Path, count: int) -> Path:
    shapes = Random(1)
    for number in range(count):
        path = root / "abc"[number % 3] / f"{number:03}.jpg"
        add_picture(path, *shapes.choice(SHAPES), color=number)
        if number % BROKEN == BROKEN - 1:
            path.write_text("no image")
    return root


class Late(Fetcher):
    """Each fetch takes a few turns of the loop longer than it would, so that they end in another order."""

    def __init__(self, config: LoaderConfig, http: HttpClient, random: Random) -> None:
        super().__init__(config, http)
        self._random = random

    async def __call__(self, refs: list[SampleRef], claim: Claim) -> list[Outcome]:
        for _ in range(self._random.randrange(8)):
            await asyncio.sleep(0)
        return await super().__call__(refs, claim)


@dataclass
class Taken:
    """What came over, as the trainer would have seen it."""

    batches: list[tuple[int, tuple[int, int] | None, tuple[str, ...]]] = field(default_factory=list)
    """(epoch, bucket, ids) of each."""
    skipped: list[Counter[tuple[int, str, str]]] = field(default_factory=list)
    """(epoch, id, reason) of the skips that were told of by each batch; the last with the end."""
    resumes: list[Resume] = field(default_factory=list)
    """Where to go on from behind each batch; the first is the start."""
    end: wire.Ended | wire.Failed | None = None
    filtered: int = 0
    """Samples that `where` left out."""

    @property
    def ids(self) -> list[str]:
        return [id_ for _, _, ids in self.batches for id_ in ids]

    def skips(self, until: int | None = None) -> Counter[tuple[int, str, str]]:
        return sum(self.skipped[:until], Counter())


Undecodable = set[str] | Callable[[int], set[str]]
"""Names of the samples that the decoder refuses, of all epochs or of the one given."""


Making = Callable[[LoaderConfig, Resume, Source, Fetcher, Packer], Production | LockstepProduction]


class Taker:
    """Takes up to `depth` batches before it gives back the first, as a decoder does."""

    def __init__(
        self, channel: socket.socket, memory: mmap.mmap, config: LoaderConfig, resume: Resume, undecodable: Undecodable,
        depth: int, random: Random, content: Callable[[str], bytes],
    ) -> None:  # fmt: skip
        self.channel, self.memory, self.limits, self.content = channel, memory, Limits.of(config), content
        self.undecodable, self.depth, self.random = undecodable, depth, random
        self.progress = progress_of(config, resume)
        self.taken = Taken(resumes=[self.progress.resume()])
        self.skipped: list[Skipped] = []

    async def take(self) -> Taken:
        reader, writer = await asyncio.open_connection(sock=self.channel)
        under_way: deque[wire.EncodedBatch] = deque()
        reading = asyncio.create_task(wire.read(reader))
        while True:
            for _ in range(self.random.randrange(12)):
                await asyncio.sleep(0)
            if under_way and (self.taken.end or len(under_way) >= self.depth or not reading.done()):
                message = under_way.popleft()
                self._hand_on(message, writer)
            elif self.taken.end:
                break
            else:
                message = msgpack.decode(await reading, type=wire.FromFeeder)
                if isinstance(message, wire.EncodedBatch):
                    under_way.append(message)
                    assert len(under_way) <= self.limits.batches_under_way
                else:
                    self.skipped += message.skipped
                if isinstance(message, wire.Ended | wire.Failed):
                    self.taken.end = message
                else:
                    reading = asyncio.create_task(wire.read(reader))
        self._note_skips()
        writer.close()
        return self.taken

    def _hand_on(self, message: wire.EncodedBatch, writer: asyncio.StreamWriter) -> None:
        for id_, offset, length in zip(message.ids, message.offsets, message.lengths, strict=True):
            assert self.memory[offset : offset + length] == self.content(id_), "its memory is still its own"
        undecodable = self.undecodable(message.epoch) if callable(self.undecodable) else self.undecodable
        bad = [id_ for id_ in message.ids if id_ in undecodable]
        writer.write(wire.frame(wire.Report(message.number, len(bad))))
        kept = [(index, id_) for index, id_ in zip(message.indices, message.ids, strict=True) if id_ not in bad]
        self.skipped += message.skipped
        self.skipped += [
            Skipped(index, id_, "", "undecodable", epoch=epoch)
            for number, id_ in zip(message.indices, message.ids, strict=True)
            for epoch, index in [wire.epoch_and_index(number, message.epoch)]
            if id_ in bad
        ]
        self.progress.begin(message.mark)
        self.progress.skip(self.skipped)
        if kept:
            self._note_skips()
            self.progress.deliver([index for index, _ in kept])
            self.taken.batches.append((message.epoch, message.bucket, tuple(id_ for _, id_ in kept)))
            self.taken.resumes.append(self.progress.resume())

    def _note_skips(self) -> None:
        self.taken.filtered += sum(each.count for each in self.skipped if each.is_filtered)
        self.taken.skipped.append(Counter((each.epoch, each.id, each.reason) for each in self.skipped))
        self.skipped = []


def stream(
    config: LoaderConfig,
    resume: Resume | None = None,
    *,
    source: Source | None = None,
    undecodable: Undecodable | None = None,
    timing: int = 0,
    depth: int = 2,
    content: Callable[[str], bytes] | None = None,
    make: Making = Production,
    take: type[Taker] = Taker,
) -> Taken:
    """All that a feeder sends with these settings. `timing` decides in which order things happen."""
    resume = resume or Resume()
    content = content or (lambda name: (Path(config.source_config.root_path) / name).read_bytes())  # type: ignore[union-attr]

    async def produce(packer: Packer) -> None:
        async with HttpClient(config.http_config) as http:
            fetcher = Late(config, http, Random(timing))
            try:
                await make(config, resume, source or open_source(config, None), fetcher, packer).run()
            except DatagoError as error:
                packer.fail(type(error).__name__, str(error))
            finally:
                fetcher.close()

    async def main() -> Taken:
        ours, theirs = socket.socketpair()
        memory = mmap.mmap(-1, config.arena_mb * MiB)
        reader, writer = await asyncio.open_connection(sock=theirs)
        packer = Packer(reader, writer, memory, Limits.of(config))
        listening = asyncio.create_task(packer.listen())
        producing = asyncio.create_task(produce(packer))
        taker = take(ours, memory, config, resume, undecodable or set(), depth, Random(timing + 1), content)
        taken = await taker.take()
        await producing
        await listening
        writer.close()
        return taken

    async def whole() -> Taken:
        taken = await asyncio.wait_for(main(), WAIT_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return taken

    return asyncio.run(whole())


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """A number of files, and settings."""
    world_size = draw(st.integers(1, 3))
    return draw(st.sampled_from(COUNTS)), {
        "source": {
            "rank": draw(st.integers(0, world_size - 1)),
            "world_size": world_size,
            "random_sampling": draw(st.booleans()),
        },
        "batch_size": draw(st.integers(1, 6)),
        "seed": draw(st.integers(0, 3)),
        "epochs": draw(st.integers(1, 3)),
        "limit": draw(st.none() | st.integers(1, 60)),
        "prefetch_buffer_size": draw(st.sampled_from([1, 2, 5, 64])),
        "drop_last": draw(st.booleans()),
        "image": {"crop_and_resize": draw(st.booleans())},
    }


def names_of(root: Path) -> list[str]:
    """All files in the order of the walk."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))


def is_good(root: Path, name: str) -> bool:
    return (root / name).read_bytes().startswith(b"\xff\xd8")


def share(config: LoaderConfig, root: Path, epoch: int) -> list[str]:
    """The good files of this rank in this epoch."""
    names, (rank, world_size) = names_of(root), config.rank_and_world_size()
    order = permutation(len(names), config.seed, epoch) if config.source_config.random_sampling else range(len(names))
    return [names[number] for number in order[rank::world_size] if is_good(root, names[number])]


def until_fruitless(shares: list[list[str]]) -> list[list[str]]:
    """The epochs up to the one behind which no other begins: the first without a sample, or the second in a row."""
    for epoch, good in enumerate(shares):
        if not good and (epoch == 0 or not shares[epoch - 1]):
            return shares[: epoch + 1]
    return shares


BAD = st.sets(st.integers(0, 29).map(lambda number: f"{'abc'[number % 3]}/{number:03}.jpg"), max_size=6)
QUICK = settings(max_examples=60)


@QUICK
@given(streams(), BAD, st.integers(0, 99), st.integers(1, 4), st.sampled_from([1, 3, 64]))
def test_batches_do_not_depend_on_timing(
    folders: dict[int, Path],
    stream_of: tuple[int, dict[str, Any]],
    undecodable: set[str],
    timing: int,
    depth: int,
    prefetch: int,
) -> None:
    count, more = stream_of
    root = folders[count]
    first = stream(file_config(root, **more), undecodable=undecodable)
    second = stream(
        file_config(root, **{**more, "prefetch_buffer_size": prefetch}),
        undecodable=undecodable,
        timing=timing,
        depth=depth,
    )
    assert second.batches == first.batches
    assert second.skips() == first.skips()


@pytest.mark.parametrize("limit", [5, 7, 12, 16])
@pytest.mark.parametrize("drop_last", [False, True])
def test_near_the_limit_it_does_not_matter_when_the_decoder_tells_of_bad_samples(
    folders: dict[int, Path], limit: int, drop_last: bool
) -> None:
    names = names_of(folders[30])
    config = file_config(folders[30], limit=limit, drop_last=drop_last, batch_size=3, prefetch_buffer_size=2)
    seen = [
        stream(config, undecodable=set(names[1:30:4]), timing=timing, depth=1 + timing % 4).batches
        for timing in range(24)
    ]
    assert all(batches == seen[0] for batches in seen)
    delivered = sum(len(ids) for _, _, ids in seen[0])
    assert delivered == limit or (drop_last and delivered < limit)


@QUICK
@given(streams(), BAD)
def test_every_epoch_brings_each_good_sample_once_up_to_the_limit(
    folders: dict[int, Path], stream_of: tuple[int, dict[str, Any]], undecodable: set[str]
) -> None:
    count, more = stream_of
    more["drop_last"] = False
    config = file_config(folders[count], **more)
    taken = stream(config, undecodable=undecodable)
    shares = [
        [name for name in share(config, folders[count], epoch) if name not in undecodable]
        for epoch in range(config.epochs or 0)
    ]
    shares = until_fruitless(shares)
    available = sum(map(len, shares))
    assert len(taken.ids) == min(config.limit or available, available)
    for epoch, good in enumerate(shares):
        of_epoch = [id_ for at, _, ids in taken.batches if at == epoch for id_ in ids]
        assert len(set(of_epoch)) == len(of_epoch)
        assert set(of_epoch) <= set(good)
        if config.limit is None:
            assert sorted(of_epoch) == sorted(good)
    assert all(len(ids) <= config.batch_size for _, _, ids in taken.batches)
    assert isinstance(taken.end, wire.Ended)


@QUICK
@given(streams())
def test_drop_last_sends_full_batches_only_and_as_many_as_the_limit_allows(
    folders: dict[int, Path], stream_of: tuple[int, dict[str, Any]]
) -> None:
    count, more = stream_of
    config = file_config(folders[count], **{**more, "drop_last": True})
    taken = stream(config)
    assert {len(ids) for _, _, ids in taken.batches} <= {config.batch_size}
    unlimited = stream(file_config(folders[count], **{**more, "drop_last": True, "limit": None}))
    allowed = len(unlimited.batches) if config.limit is None else config.limit // config.batch_size
    assert taken.batches == unlimited.batches[:allowed]


@settings(max_examples=120)
@given(streams(), BAD, st.data())
def test_resuming_behind_any_batch_gives_exactly_the_batches_that_were_to_come(
    folders: dict[int, Path], stream_of: tuple[int, dict[str, Any]], undecodable: set[str], data: st.DataObject
) -> None:
    count, more = stream_of
    config = file_config(folders[count], **more)
    whole = stream(config, undecodable=undecodable)
    behind = data.draw(st.integers(0, len(whole.batches)))
    rest = stream(config, whole.resumes[behind], undecodable=undecodable, timing=data.draw(st.integers(0, 9)))
    assert rest.batches == whole.batches[behind:]
    assert rest.skips() == whole.skips() - whole.skips(behind)


@QUICK
@given(streams(), BAD, st.integers(2, 9), st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_with_drop_last_what_waits_goes_on_into_the_next_epochs_also_through_states(
    folders: dict[int, Path],
    stream_of: tuple[int, dict[str, Any]],
    undecodable: set[str],
    epochs: int,
    stops: list[int],
) -> None:
    """However often the stream is stopped: its batches are those of a run without a stop."""
    count, more = stream_of
    config = file_config(folders[count], **{**more, "drop_last": True, "epochs": epochs})
    whole = stream(config, undecodable=undecodable)
    resume, batches = Resume(), list[Any]()
    for timing, stop in enumerate([*stops, len(whole.batches)]):
        taken = stream(config, resume, undecodable=undecodable, timing=timing)
        kept = min(stop, len(taken.batches))
        batches += taken.batches[:kept]
        resume = taken.resumes[kept]
    assert batches == whole.batches
    assert isinstance(whole.end, wire.Ended)
    assert isinstance(taken.end, wire.Ended)
    assert taken.end.dropped == whole.end.dropped


@QUICK
@given(streams(), st.integers(1, 9))
def test_with_drop_last_each_sample_comes_in_each_epoch_but_for_what_is_dropped_at_the_end(
    folders: dict[int, Path], stream_of: tuple[int, dict[str, Any]], epochs: int
) -> None:
    count, more = stream_of
    config = file_config(folders[count], **{**more, "drop_last": True, "epochs": epochs, "limit": None})
    taken = stream(config)
    good = share(config, folders[count], 0)
    assert isinstance(taken.end, wire.Ended)
    if not taken.end.fruitless:
        samples = Counter(name for epoch in range(epochs) for name in share(config, folders[count], epoch))
        assert not Counter(taken.ids) - samples
        assert (samples - Counter(taken.ids)).total() == taken.end.dropped
    else:
        assert len(good) == 0
    assert taken.end.dropped < config.batch_size * max(1, len(SHAPES))


def test_resuming_behind_every_batch_of_a_long_stream(folders: dict[int, Path]) -> None:
    config = file_config(folders[30], batch_size=3, epochs=2, source={"random_sampling": True})
    whole = stream(config)
    assert len(whole.batches) > 15
    for behind in range(len(whole.batches) + 1):
        assert stream(config, whole.resumes[behind], timing=behind).batches == whole.batches[behind:]


@QUICK
@given(streams(), st.integers(0, 99), st.data())
def test_unordered_streams_bring_the_same_samples_and_resume_to_the_rest(
    folders: dict[int, Path], stream_of: tuple[int, dict[str, Any]], timing: int, data: st.DataObject
) -> None:
    count, more = stream_of
    config = file_config(folders[count], **{**more, "ordered": False, "limit": None, "drop_last": False})
    ordered = stream(file_config(folders[count], **{**more, "limit": None, "drop_last": False}))
    whole = stream(config, timing=timing)
    assert sorted(whole.ids) == sorted(ordered.ids)
    behind = data.draw(st.integers(0, len(whole.batches)))
    rest = stream(config, whole.resumes[behind], timing=timing + 1)
    assert sorted([id_ for _, _, ids in whole.batches[:behind] for id_ in ids] + rest.ids) == sorted(whole.ids)


class Listing:
    """A source that lists given files; then it ends, or fails."""

    passed_over: ClassVar[dict[str, int]] = {}
    epoch_samples = None
    tally = Tally()

    def __init__(self, root: Path, names: list[str], error: Exception | None = None) -> None:
        self.root, self.names, self.error = root, names, error

    async def refs(self, start: Position) -> Refs:
        for index, name in enumerate(self.names):
            if index >= start.index:
                yield SampleRef(index, SampleInfo(name), path=str(self.root / name), cursor=f"at {index}")
        if self.error:
            raise self.error


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_source_that_fails_is_told_behind_all_that_it_listed(
    folders: dict[int, Path], ordered: bool, drop_last: bool
) -> None:
    names = [name for name in names_of(folders[13]) if is_good(folders[13], name)]
    source = Listing(folders[13], names, SourceError("the listing ended early"))
    taken = stream(file_config(folders[13], ordered=ordered, drop_last=drop_last), source=source)
    assert sorted(taken.ids) == sorted(names)
    assert taken.end == wire.Failed("SourceError", "the listing ended early", [])


def test_the_position_carries_the_source_s_cursor(folders: dict[int, Path]) -> None:
    names = [name for name in names_of(folders[13]) if is_good(folders[13], name)]
    taken = stream(file_config(folders[13], batch_size=1), source=Listing(folders[13], names))
    for resume in taken.resumes[1:]:
        assert resume.position.cursor == f"at {resume.position.index}"


def test_what_is_listed_for_no_reader_ends_with_the_source_s_own_words(tmp_path: Path) -> None:
    taken = stream(file_config(tmp_path / "nowhere"))
    assert isinstance(taken.end, wire.Failed)
    assert (taken.end.kind, taken.end.message) == (
        "SourceError",
        f"cannot list {tmp_path}/nowhere: No such file or directory; check root_path",
    )


@pytest.mark.parametrize("limit", [None, 5])
def test_a_folder_with_nothing_good_in_it_does_not_go_on_for_ever(tmp_path: Path, limit: int | None) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("no image")
    taken = stream(file_config(tmp_path, epochs=None, limit=limit))
    assert taken.batches == []
    assert taken.skips() == Counter((0, f"{number}.jpg", "unknown-format") for number in range(3))
    assert isinstance(taken.end, wire.Ended)
    assert taken.end.fruitless


def test_a_limit_reaches_over_as_many_epochs_as_it_takes(folders: dict[int, Path]) -> None:
    taken = stream(file_config(folders[4], epochs=None, limit=11))
    assert len(taken.ids) == 11
    assert max(epoch for epoch, _, _ in taken.batches) == 2


def test_many_skips_are_told_of_before_there_is_a_batch(tmp_path: Path) -> None:
    count = 3 * SKIPS_A_MESSAGE + 5
    for number in range(count):
        (tmp_path / f"{number:03}.jpg").touch()
    add_picture(tmp_path / "z.jpg")
    taken = stream(file_config(tmp_path))
    assert taken.ids == ["z.jpg"]
    assert taken.skips().total() == count


def test_a_batch_waits_for_room_in_the_memory(tmp_path: Path) -> None:
    """Two megabytes hold five payloads of 400 KB, which come four at a time by number but never fit by size."""
    for number in range(20):
        with add_picture(tmp_path / f"{number:02}.jpg", color=number).open("ab") as file:
            file.write(bytes(400_000))
    taken = stream(file_config(tmp_path, batch_size=2, bucket_memory_mb=1), depth=4)
    assert taken.ids == [f"{number:02}.jpg" for number in range(20)]


def test_images_of_no_bucket_share_batches(folders: dict[int, Path]) -> None:
    taken = stream(file_config(folders[13], image={"crop_and_resize": False}, batch_size=5))
    assert {bucket for _, bucket, _ in taken.batches} == {None}
    assert [len(ids) for _, _, ids in taken.batches] == [5, 5, 2]
