"""Bounds that two sides know: whatever the sizes, the limit and the state, a stream ends within its time."""

from __future__ import annotations

import asyncio
import mmap
import re
import socket
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Loader, TooManyErrors
from datago_gpu.config.limits import Limits
from datago_gpu.feeder import wire
from datago_gpu.feeder.pack import Packer
from datago_gpu.feeder.wire import Counts, Mark, Report, Resume
from datago_gpu.sources.reference import Part, Position, Refs, SampleRef, Tally
from datago_gpu.sources.sample_info import SampleInfo
from datago_gpu.units import MiB, aligned
from tests.feeder.test_grouper import sample
from tests.feeder.test_production import QUICK, names_of, stream
from tests.support.images import add_picture, add_pictures, file_config

WAIT_S = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    add_pictures(folder, [(40, 40), (30, 60), (60, 30)] * 4 + [(40, 40)])
    return folder


class Heavy:
    """A source of samples, each an image and latents of such sizes in bytes."""

    passed_over: ClassVar[dict[str, int]] = {}
    epoch_samples = None
    tally = Tally()

    def __init__(self, image: bytes, sizes: list[list[int]]) -> None:
        self.image, self.sizes = image, sizes

    async def refs(self, start: Position) -> Refs:
        for index, sizes in enumerate(self.sizes):
            parts = [Part(str(number), "latent", payload=bytes(size)) for number, size in enumerate(sizes)]
            yield SampleRef(index, SampleInfo(str(index)), path=f"/{index}", payload=self.image, parts=parts)

    def fits(self, index: int) -> bool:
        return aligned(len(self.image)) + sum(map(aligned, self.sizes[index])) <= 2 * MiB


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from([1, 64, 1000, 300_000, 700_000, MiB - 64, MiB]), max_size=4), max_size=8),
    st.integers(1, 5),
    st.sampled_from([1, 4]),
)
@pytest.mark.timeout(120)
def test_a_sample_that_never_fits_into_the_arena_is_skipped_and_all_others_come(
    folder: Path, sizes: list[list[int]], batch_size: int, depth: int
) -> None:
    source = Heavy((folder / "0000.jpg").read_bytes(), sizes)
    config = file_config(folder, batch_size=batch_size)
    taken = stream(config, source=source, depth=depth, content=lambda _: source.image)
    assert taken.ids == [str(index) for index in range(len(sizes)) if source.fits(index)]
    assert taken.skips() == Counter(
        (0, str(index), "too-large") for index in range(len(sizes)) if not source.fits(index)
    )
    assert isinstance(taken.end, wire.Ended)


def test_the_skip_names_the_setting(folder: Path) -> None:
    source = Heavy((folder / "0000.jpg").read_bytes(), [[700_000] * 3])
    taken = stream(file_config(folder), source=source, content=lambda _: source.image)
    assert isinstance(taken.end, wire.Ended)
    (skip,) = taken.end.skipped
    assert re.fullmatch(r"\d{7} bytes of all its payloads together, above arena_mb", skip.detail)


@QUICK
@given(st.integers(0, 40), st.integers(1, 40), st.booleans(), st.sampled_from([1, 3, None]))
def test_a_limit_that_was_passed_before_the_start_ends_the_stream_at_once(
    folder: Path, delivered: int, limit: int, drop_last: bool, epochs: int | None
) -> None:
    config = file_config(folder, limit=limit, drop_last=drop_last, epochs=epochs)
    taken = stream(config, Resume(Position(0, 4), delivered=delivered))
    missing = max(0, limit - delivered)
    if drop_last:
        missing -= missing % config.batch_size
    assert len(taken.ids) <= missing
    if epochs is None and not drop_last:
        assert len(taken.ids) == missing
    assert isinstance(taken.end, wire.Ended)


def test_a_loader_with_a_lower_limit_than_its_state_ends_at_once(folder: Path) -> None:
    with Loader(file_config(folder), device="cpu") as loader:
        for _ in range(3):
            next(loader)
        state = loader.state_dict()
    with Loader(file_config(folder, limit=5), device="cpu", state=state) as loader:
        assert list(loader) == []


@QUICK
@given(
    st.integers(1, 6), st.integers(0, 9), st.integers(1, 4), st.integers(0, 3), st.sampled_from([None, 50]), st.data()
)
def test_passes_that_bring_no_sample_do_not_go_on_for_ever(
    folder: Path, batch_size: int, timing: int, depth: int, good_epochs: int, epochs: int | None, data: st.DataObject
) -> None:
    """The first whole pass ends the stream, and later on the second one in a row, whatever the timing."""
    names = set(names_of(folder))
    config = file_config(folder, batch_size=batch_size, epochs=epochs)
    resume = Resume(Position(0, data.draw(st.sampled_from([0, 5]))), delivered=data.draw(st.sampled_from([0, 3])))
    taken = stream(
        config,
        resume,
        undecodable=lambda epoch: set() if epoch < good_epochs else names,
        timing=timing,
        depth=depth,
    )
    assert isinstance(taken.end, wire.Ended)
    assert taken.end.fruitless
    last = good_epochs + 1
    if good_epochs == 0:
        last = 2 if resume.delivered else 0
    assert sorted({epoch for epoch, _, _ in taken.skips()}) == list(range(good_epochs, last + 1))
    assert Counter(epoch for epoch, _, ids in taken.batches for _ in ids).keys() == set(range(good_epochs))


def test_a_single_good_sample_keeps_a_stream_going(folder: Path) -> None:
    names = set(names_of(folder))
    taken = stream(file_config(folder, epochs=6), undecodable=names - {"0003.jpg"})
    assert taken.ids == ["0003.jpg"] * 6


@pytest.fixture(params=["pillow", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("epochs", [1, None, 10**6])
def test_images_that_only_a_decoder_finds_bad_end_the_run_after_one_pass(
    tmp_path: Path, backend: str, epochs: int | None
) -> None:
    spoil(tmp_path, 4)
    with Loader(file_config(tmp_path, epochs=epochs), device="cpu", backend=backend) as loader:
        with pytest.raises(
            TooManyErrors, match=r"^4 of 4 samples were bad \(4 undecodable\); the last bad ones"
        ) as caught:
            next(loader)
        assert all(str(each).count("undecodable") == 1 for each in caught.value.last)
        assert loader.stats().skipped == {"undecodable": 4}


def spoil(folder: Path, count: int) -> None:
    """Fill a folder with pictures whose pixels only a decoder looks at."""
    for number in range(count):
        path = add_picture(folder / f"{number}.png", color=number)
        whole = path.read_bytes()
        data = whole.index(b"IDAT") + 4
        path.write_bytes(whole[:data] + bytes(8) + whole[data + 8 :])


def test_a_source_that_goes_bad_later_on_is_an_error_and_no_early_end(tmp_path: Path) -> None:
    add_pictures(tmp_path, [(40, 40)] * 4)
    config = file_config(tmp_path, epochs=None, samples_buffer_size=1, prefetch_buffer_size=1)
    with Loader(config, device="cpu") as loader:
        next(loader)
        for path in tmp_path.iterdir():
            path.write_bytes(b"no image")
        with pytest.raises(TooManyErrors, match=r"the last epochs had no good sample; the last bad ones"):
            list(loader)


@pytest.mark.parametrize("prefetch", [1, 2, 4, 9, 40])
def test_as_many_batches_may_be_under_way_as_the_decoder_takes_and_two_more(prefetch: int) -> None:
    async def main() -> None:
        config = file_config("/images", decode_config={"prefetch": prefetch})
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        packer = Packer(reader, writer, mmap.mmap(-1, config.arena_mb * MiB), Limits.of(config))
        tasks = [asyncio.create_task(packer.listen())]
        sent: list[int] = []

        async def send() -> None:
            for number in range(prefetch + 5):
                await packer.send([sample(number, None)], 0, Mark(Position()), Counts)
                sent.append(number)

        tasks.append(asyncio.create_task(send()))
        for _ in range(10 * prefetch + 100):  # until all wait
            await asyncio.sleep(0)
        assert len(sent) == prefetch + 2
        for number in range(3):
            ours.sendall(wire.frame(Report(number)))
        await tasks[1]
        ours.close()
        await tasks[0]
        writer.close()

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
