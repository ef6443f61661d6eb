"""Whole loaders with a cache: requests are counted at the server, and batches are equal to the bit."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from datago_gpu import Loader
from datago_gpu.loader.stats import Stats
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_pictures
from tests.support.listing import KEY, Listing, names
from tests.support.servers import Answer, MisbehavingServer

COUNT = 24
SMALL = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
BLOCK = 4096

Seen = list[tuple[list[str], bytes]]


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (8, 8 + number % 3, 3), np.uint8)
    Image.fromarray(noise).resize((60 + 20 * (number % 3), 60), Image.Resampling.BICUBIC).save(file, "JPEG", quality=50)
    return file.getvalue()


class Store:
    """A Dataroom whose payloads are on an origin of their own, signed anew for each page."""

    def __init__(self, api: MisbehavingServer, files: MisbehavingServer) -> None:
        self.files = files
        listing = Listing(api, names(COUNT))
        self.url = listing.api_url
        for number, (name, entry) in enumerate(listing.entries.items()):
            files.script(f"/{name}.jpg", Answer(200, jpeg(number)))
            entry["image_direct_url"] = f"{files.url}/{name}.jpg"
        listing.fault = lambda request, answer: self._sign(answer)
        self._signed = 0

    def _sign(self, answer: Answer) -> Answer:
        self._signed += 1
        query = f'.jpg?X-Amz-Signature={self._signed:064}&X-Amz-Date={self._signed}"'.encode()
        return Answer(answer.status, answer.body.replace(b'.jpg"', query), answer.headers)

    @property
    def requested(self) -> int:
        """The number of payloads that were requested since this was last read."""
        number = len(self.files.requests)
        self.files.requests.clear()
        return number


@pytest.fixture
def store() -> Iterator[Store]:
    with MisbehavingServer() as api, MisbehavingServer() as files:
        yield Store(api, files)


def config(url: str, cache: Path | None = None, blocks: int = 1000, **more: Any) -> dict[str, Any]:
    kept = {"cache_config": {"path": str(cache), "size_gb": blocks * BLOCK / 2**30}} if cache else {}
    source = {"api_url": url, "api_key": KEY, "check_count": False, **more.pop("source", {})}
    return {
        "source_type": "db", "source_config": source, "image_config": SMALL, "batch_size": 4,
        "decode_config": {"processes": 0, "threads": 1}, **kept, **more,
    }  # fmt: skip


def load(given: dict[str, Any]) -> tuple[Seen, Stats]:
    with Loader(given, device="cpu", backend="pillow") as loader:
        found = [(batch.ids, np.asarray(batch.image).tobytes()) for batch in loader]
        return found, loader.stats()


def test_epoch_2_with_half_of_the_set_cached_makes_half_of_the_requests(store: Store, tmp_path: Path) -> None:
    plain, _ = load(config(store.url, epochs=2))
    assert store.requested == 2 * COUNT
    kept, stats = load(config(store.url, tmp_path, blocks=COUNT // 2, epochs=2))
    assert kept == plain
    assert store.requested == COUNT + COUNT // 2
    assert (stats.cache_hits, stats.cache_misses) == (COUNT // 2, COUNT + COUNT // 2)
    assert stats.cache_bytes > 0
    assert f"from the cache: {COUNT // 2} (" in str(stats)
    again, stats = load(config(store.url, tmp_path, blocks=COUNT // 2, http_config={"download_processes": 1}))
    assert plain[: len(again)] == again
    assert store.requested == COUNT // 2
    assert stats.cache_hits == COUNT // 2


def test_two_ranks_at_once_with_a_feeder_that_is_killed(store: Store, tmp_path: Path) -> None:
    """The ranks share the cache; the feeder that replaces a killed one uses what that one has kept."""

    def of(rank: int) -> dict[str, Any]:
        # Few batches may wait, so no feeder ends before its batches are taken.
        few = {"batch_size": 1, "samples_buffer_size": 1}
        return config(store.url, tmp_path, source={"rank": rank, "world_size": 2}, epochs=2, **few)

    loaders = [Loader(of(rank), device="cpu", backend="pillow") for rank in range(2)]
    found: list[list[list[str]]] = [[], []]
    try:
        for rank in range(2):
            found[rank].append(next(loaders[rank]).ids)
        os.kill(loaders[0].feeder_pid, signal.SIGKILL)
        for rank in range(2):
            found[rank] += [batch.ids for batch in loaders[rank]]
    finally:
        for loader in loaders:
            loader.close()
    seen = sorted(name for batches in found for batch in batches for name in batch)
    assert seen == sorted(2 * names(COUNT))
    # What was downloading or being written when the feeder was killed may be requested once more.
    assert COUNT <= store.requested <= COUNT + COUNT // 2
    # What the killed feeder was writing is removed by the next run that has the folder for itself, and then kept.
    load(config(store.url, tmp_path))
    assert store.requested <= COUNT
    assert load(config(store.url, tmp_path))[1].cache_hits == COUNT
    assert store.requested == 0
    assert not list(tmp_path.rglob("*.new"))


def spoil(cache: Path, random: Random) -> None:
    """Deletes the folder or one of its files, or cuts one, or turns a bit of it."""
    what, paths = random.choice(["all", "one", "cut", "cut", "turn", "turn", "turn"]), list(cache.glob("*/??/*"))
    if what == "all":
        shutil.rmtree(cache, ignore_errors=True)
    with suppress(OSError, IndexError):  # it may be gone by now
        path = random.choice(paths)
        if what == "one":
            path.unlink()
        elif what == "cut":
            os.truncate(path, random.randrange(path.stat().st_size + 1))
        elif what == "turn":
            with path.open("r+b") as file:
                at = random.randrange(path.stat().st_size + 1)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes((byte ^ 1 << random.randrange(8),)))


def test_a_folder_that_is_spoilt_all_the_time_changes_no_batch(store: Store, tmp_path: Path) -> None:
    plain, _ = load(config(store.url))
    ended = threading.Event()

    def go_on_spoiling() -> None:
        random = Random(1)
        while not ended.wait(0.003):
            spoil(tmp_path / "cache", random)

    spoiler = threading.Thread(target=go_on_spoiling)
    spoiler.start()
    try:
        found, stats = load(config(store.url, tmp_path / "cache", epochs=12))
    finally:
        ended.set()
        spoiler.join()
    assert found == plain * 12
    assert stats.cache_hits + stats.cache_misses == 12 * COUNT


def test_an_embedded_dataroom_whose_image_is_replaced(tmp_path: Path) -> None:
    """The listing tells the hash of the pixels: the cache has the new image, not the old one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    add_pictures(folder, [SHAPES[0]] * 6)
    with DataroomServer(folder, watch_interval_s=None) as server:
        given = config(server.url, tmp_path / "cache", source={"api_key": server.key, "require_images": True})
        first, stats = load(given)
        assert (stats.cache_hits, stats.cache_misses) == (0, 6)
        second, stats = load(given)
        assert (second, stats.cache_hits, stats.cache_misses) == (first, 6, 0)
        port = urlsplit(server.url).port or 0
    Image.new("RGB", (40, 40), (250, 0, 0)).save(min(folder.iterdir()))
    with DataroomServer(folder, watch_interval_s=None, port=port) as server:
        given["source_config"] = {**given["source_config"], "api_url": server.url, "api_key": server.key}
        third, stats = load(given)
        assert third != second
        assert (stats.cache_hits, stats.cache_misses) == (5, 1)
