"""Whole loaders beside a model of what they promise: any settings, any data, any way to use them.

Each example draws a data set with bad files in it (worlds.py), settings, and a script: take batches or samples, save a
state and go on from there in the same loader or in another one, close. Whatever the loader hands out is compared with
the model (model/__init__.py says what is promised), and everything has to come within its time.

    DATAGO_GPU_MODEL_EXAMPLES=2000 python -m pytest tests/test_model.py      longer; the suite runs 40
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Loader, LoaderConfig, Sample, SourceError, TooManyErrors
from tests.model import Item, Listing, NoSamples, Order, Reader, Skip, Start, files, rooms, shards
from tests.worlds import WORLDS, World

EXAMPLES = int(os.environ.get("DATAGO_GPU_MODEL_EXAMPLES", "40"))
WAIT_S = 20
"""For one batch, at most."""
ALL = 10**6
"""Batches or samples: more than there are."""

Step = tuple[str, int]
T = TypeVar("T")


@pytest.fixture(scope="module", autouse=True)
def _worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    for name, world in WORLDS.items():
        world.write(tmp_path_factory.mktemp(name))
    yield
    for world in WORLDS.values():
        world.close()


# What is drawn.


@dataclass(frozen=True)
class Case:
    """world: which data set. config: less what only the machine knows. script: steps, each a word and a number."""

    world: str
    config: dict[str, Any]
    script: list[Step]


@st.composite
def sources(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Settings of a source, whose place is not known yet."""
    world_size = draw(st.sampled_from([1, 1, 2, 3, 5, 7]))
    source: dict[str, Any] = {
        "rank": draw(st.integers(0, world_size - 1)),
        "world_size": world_size,
        "random_sampling": draw(st.booleans()),
    }
    kind = draw(st.sampled_from(["file", "webdataset", "db"]))
    if kind != "db":
        source["rank_split"] = draw(st.sampled_from(["shuffled", "listed"]))
    if kind != "file":
        source["shuffle_buffer"] = draw(st.sampled_from([1, 3, 1000]))
    if kind == "webdataset":
        source["interleave"] = draw(st.sampled_from([1, 2, 3, 8]))
        source["concurrent_downloads"] = draw(st.sampled_from([source["interleave"], 8]))
        source["buffer_mb"] = draw(st.sampled_from([1, 256]))
    if kind == "db":
        source["page_size"] = draw(st.sampled_from([1, 7, 500]))
    return kind, source


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Settings whose bounds are as small as they can be, or as usual."""
    kind, source = draw(sources())
    limit = draw(st.none() | st.integers(1, 60))
    small = draw(st.booleans())
    downloads = draw(st.sampled_from([1, 3, 64]))
    processes = draw(st.sampled_from([0, 0, 1])) if kind == "db" else 0
    return {
        "source_type": kind,
        "source_config": source,
        "image_config": {
            "crop_and_resize": draw(st.booleans()),
            "mixed_buckets": draw(st.booleans()),
            "default_image_size": 64,
            "downsampling_ratio": 16,
        },
        "http_config": {"max_payload_mb": 1, "concurrent_downloads": downloads, "download_processes": processes},
        "decode_config": {"threads": draw(st.sampled_from([1, 2])), "prefetch": draw(st.sampled_from([1, 2]))},
        "batch_size": draw(st.sampled_from([1, 2, 3, 5, 16])),
        "limit": limit,
        "epochs": draw(st.sampled_from([1, 2, 3] if limit is None else [1, 2, 3, None])),
        "seed": draw(st.sampled_from([0, 1, 2**63 - 1])),
        "drop_last": draw(st.booleans()),
        "ordered": draw(st.sampled_from([True, True, True, False])),
        "samples_buffer_size": draw(st.sampled_from([1, 5, 64])),
        "prefetch_buffer_size": draw(st.sampled_from([1, 2, 7, 256])),
        "prefetch_memory_mb": 1 if small else 512,
        "bucket_memory_mb": draw(st.sampled_from([1, 1024])),
        "arena_mb": 2 if small else 512,
    }


STEPS = ["batches", "samples", "go on in another loader", "load the state"]
SCRIPTS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), max_size=5)
ENDS = st.sampled_from([("batches", ALL), ("samples", ALL), ("close", 0)])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world = draw(st.sampled_from(["mixed", "mixed", "mixed", "good", "bad", "one"]))
    return Case(world, draw(configs()), [*draw(SCRIPTS), draw(ENDS)])


# What happens.


def settled(case: Case, folder: Path) -> tuple[LoaderConfig, Order]:
    """The settings with the place of the data set, and the order that the model has for them."""
    world, source = WORLDS[case.world], dict(case.config["source_config"])
    if case.config["source_type"] == "file":
        source["root_path"] = str(world.root / "files")
    elif case.config["source_type"] == "webdataset":
        source["url"] = str(world.root / "shards")
    else:
        source |= {"api_url": world.server.url, "api_key": world.server.key}
    config = LoaderConfig.load({**case.config, "source_config": source, "skipped_file": str(folder / "skipped.jsonl")})
    return config, order_of(config, world)


def order_of(config: LoaderConfig, world: World) -> Order:
    if config.source_type == "file":
        return files(config, world.as_files())
    if config.source_type == "webdataset":
        return shards(config, world.as_shards())
    return rooms(config, world.as_dataroom())


def check_picture(sample: Sample, item: Item, bucket: tuple[int, int] | None) -> None:
    """The pixels are those of this very sample. bucket: their size, where it is known."""
    assert sample.id == item.id
    pixels = np.asarray(sample.image)
    assert sample.original_size == item.shape
    assert bucket is None or pixels.shape == (*bucket, 3)
    assert item.color is None or abs(pixels[..., 0].mean() - item.color) < 4


class Run:
    """One loader after the other. What they hand out is held to the model."""

    def __init__(self, config: LoaderConfig, order: Order) -> None:
        self.config, self.order = config, order
        self.threads = ThreadPoolExecutor(1)
        self.told: Counter[Skip] = Counter()
        """What was left out so far, of all loaders."""
        self.begin(Start())
        self.loader = Loader(config, device="cpu", backend="pillow")

    def begin(self, start: Start) -> None:
        """A loader is about to start there."""
        self.reader = Reader(self.config, self.order, start)

    def follow(self, script: list[Step]) -> None:
        try:
            for word, times in script:
                if not self.take(word, times):
                    break
        finally:
            self.loader.close()
            self.threads.shutdown(wait=False)

    def take(self, word: str, times: int) -> bool:
        """One step. False when nothing more is to come."""
        if word == "batches":
            return all(self.take_batch() for _ in range(times))
        if word == "samples":
            samples = self.loader.samples()
            return all(self.take_sample(samples) for _ in range(times))
        if word == "close":
            self.close()
            return False
        self.go_on(word)
        return True

    def take_batch(self) -> bool:
        expected = self.reader.next_batch()
        if expected is None:
            self.end(lambda: next(self.loader, None))
            return False
        batch = self.in_time(lambda: next(self.loader, None))
        assert batch is not None, f"the loader ends before {expected}"
        assert batch.ids == [item.id for item in expected.items]
        assert (batch.epoch, batch.bucket) == (expected.epoch, expected.bucket)
        for sample, item in zip(batch, expected.items, strict=True):
            check_picture(sample, item, batch.bucket)
        return True

    def take_sample(self, samples: Iterator[Sample]) -> bool:
        expected = self.reader.next_sample()
        if expected is None:
            self.end(lambda: next(samples, None))
            return False
        sample = self.in_time(lambda: next(samples, None))
        assert sample is not None, f"the loader ends before {expected}"
        check_picture(sample, expected, None)
        return True

    def end(self, take: Callable[[], object]) -> None:
        """Nothing may come any more. What is bad has been told of, each sample once, also over several loaders."""
        error = self.error_of(take)
        expected, before = Counter(self.reader.skipped), self.told
        found = self.newly_told()
        assert singles(found) == singles(expected - before)
        assert found <= expected
        assert self.loader.stats().delivered == self.reader.delivered
        assert self.loader.stats().skipped == dict(Counter(reason for _, _, reason in found.elements()))
        barren = self.reader.is_fruitless or not self.total()
        assert error == ("SourceError" if self.reader.is_empty else "TooManyErrors" if found and barren else "")
        assert self.in_time(lambda: next(self.loader, None)) is None

    def error_of(self, take: Callable[[], object]) -> str:
        """How the stream ends."""
        try:
            taken = self.in_time(take)
        except (SourceError, TooManyErrors) as error:
            return type(error).__name__
        assert taken is None, f"{taken} comes behind the end"
        return ""

    def close(self) -> None:
        """In the middle: nothing comes any more."""
        self.loader.close()
        assert self.in_time(lambda: list(self.loader)) == []
        assert self.in_time(lambda: list(self.loader.samples())) == []
        self.check_told()

    def check_told(self) -> None:
        """In the middle: no more was told of than is bad."""
        rest = Reader(self.config, self.order, self.reader.start)
        while rest.next_batch():
            pass
        assert self.newly_told() <= Counter(rest.skipped)

    def go_on(self, word: str) -> None:
        state = json.loads(json.dumps(self.loader.state_dict()))
        self.loader.close()
        self.check_told()
        assert state["resume"]["delivered"] == self.total()
        self.begin(self.reader.state())
        if word == "load the state":
            self.loader.load_state_dict(state)
        else:
            self.loader = Loader(self.config, device="cpu", backend="pillow", state=state)

    def total(self) -> int:
        """Samples that were taken, of all loaders."""
        return self.reader.state().delivered

    def newly_told(self) -> Counter[Skip]:
        """What was left out since this was asked last, by the list that all loaders write."""
        assert self.config.skipped_file is not None
        entries = map(json.loads, Path(self.config.skipped_file).read_text().splitlines())
        told = Counter((entry["epoch"], entry["id"], entry["reason"]) for entry in entries)
        found, self.told = told - self.told, told
        return found

    def in_time(self, call: Callable[[], T]) -> T:
        """What the call returns. A loader that does not answer is closed, so that its thread ends."""
        waiting = self.threads.submit(call)
        try:
            return waiting.result(WAIT_S)
        except TimeoutError:
            self.loader.close()
            raise AssertionError(f"nothing for {WAIT_S} s") from None


class Unordered(Run):
    """Where the order is that of the network: each sample once an epoch, and in the end as many as there are."""

    def __init__(self, config: LoaderConfig, order: Order) -> None:
        self.seen: Counter[str] = Counter()
        self.items: dict[str, Item] = {}
        self.all: Counter[str] = Counter()
        """How often each sample can come, in all epochs that there are."""
        self.fails = False
        """Whether one of the epochs has no sample for this rank, which is an error."""
        try:
            for epoch in range(config.epochs or config.limit or 1):
                self.note_listing(order(epoch))
        except NoSamples:
            self.fails = True
        super().__init__(config, order)

    def note_listing(self, listing: Listing) -> None:
        for item in listing:
            if isinstance(item, Item):
                self.items[item.id] = item
                self.all[item.id] += item.is_good

    def take_batch(self) -> bool:
        return self.note(lambda: list(next(self.loader, ())))

    def take_sample(self, samples: Iterator[Sample]) -> bool:
        return self.note(lambda: [sample for sample in [next(samples, None)] if sample])

    def note(self, take: Callable[[], list[Sample]]) -> bool:
        """What is taken; at the end, whether it was all."""
        error, taken = "", []
        try:
            taken = self.in_time(take)
        except (SourceError, TooManyErrors) as problem:
            error = type(problem).__name__
        for sample in taken:
            check_picture(sample, self.items[sample.id], None)
            self.seen[sample.id] += 1
        assert self.seen <= self.all
        if not taken:
            self.check_end(error)
        return bool(taken)

    def check_end(self, error: str) -> None:
        if self.fails:
            reached = self.seen.total() == self.config.limit
            assert error in ("SourceError", "TooManyErrors") or (reached and not error)
        elif error or self.config.drop_last:
            assert error in ("", "TooManyErrors")
        elif self.config.limit is None:
            assert self.seen == self.all
        else:
            assert self.seen.total() == min(self.config.limit, self.all.total())
        self.check_told()

    def check_told(self) -> None:
        bad = {item.id for item in self.items.values() if not item.is_good}
        assert {name for _, name, _ in self.newly_told()} <= {*bad, ""}

    def total(self) -> int:
        return self.seen.total()


def singles(skips: Counter[Skip]) -> Counter[Skip]:
    """Those of single samples. The rest of a shard may be told of again where its samples are listed again."""
    return Counter({skip: times for skip, times in skips.items() if skip[1] and times > 0})


@pytest.mark.timeout(max(180, 8 * EXAMPLES))
@settings(max_examples=EXAMPLES)
@given(case=cases())
def test_a_loader_does_what_the_model_does(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config, order = settled(case, Path(folder))
        run = Run if config.ordered else Unordered
        run(config, order).follow(case.script)


@given(case=cases())
def test_the_ranks_of_the_model_share_everything_without_overlap(case: Case) -> None:
    """And so those of the loader do, which does what the model does."""
    with tempfile.TemporaryDirectory() as folder:
        config, _ = settled(case, Path(folder))
        world_size = config.source_config.world_size or 1
        for epoch in (0, 1):
            found: list[str] = []
            for rank in range(world_size):
                with suppress(NoSamples):
                    listing = order_of(config.with_source(rank=rank), WORLDS[case.world])(epoch)
                    found += [item.id for item in listing if isinstance(item, Item)]
            alone = order_of(config.with_source(rank=0, world_size=1), WORLDS[case.world])(epoch)
            assert sorted(found) == sorted(item.id for item in alone if isinstance(item, Item))
