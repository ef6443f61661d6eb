"""Statistics of real runs: a stall shows in its own stage and percentile, and the epoch's progress is known in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import Loader, Row
from datago_gpu.loader.stats import Stats
from tests.support.images import SHAPES, add_pictures, file_config, small_jpeg
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes

STALL_S = 0.2
PATIENCE_S = 30


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as server:
        yield server


def one_by_one(**more: Any) -> dict[str, Any]:
    """Settings with which nothing hides a stall: one download at a time, one sample a batch."""
    image = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
    http = {"concurrent_downloads": 1, "max_payload_mb": 1}
    small = {"batch_size": 1, "arena_mb": 2, "decode_config": {"processes": 0}}
    return {"image_config": image, "http_config": http, **small, **more}


def wait_for(seen: Callable[[], bool]) -> None:
    """Waits until a snapshot shows something."""
    end = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.02)


def waited_s(stats: Stats, name: str) -> float:
    """Returns how many seconds a stage has waited for its input."""
    (stage,) = [stage for stage in stats.stages if stage.name == name]
    return stage.waited_input * stats.seconds


def test_a_slow_answer_shows_in_fetch_and_in_the_highest_percentile_of_the_data_wait(server: MisbehavingServer) -> None:
    answers = threading.Event()
    for number in range(30):
        server.script(f"/{number}.jpg", Answer(body=small_jpeg(number), hold=answers if number == 20 else None))
    rows = [Row(str(number), f"{server.url}/{number}.jpg") for number in range(30)]
    with Loader(one_by_one(), device="cpu", backend="pillow", source=rows) as loader:
        for _ in range(10):
            next(loader)
        before = loader.stats()
        for _ in range(10):
            next(loader)
        timer = threading.Timer(STALL_S, answers.set)  # from when the trainer waits for it
        timer.start()
        assert sum(len(batch) for batch in loader) == 10
        late = loader.stats().since(before)
        timer.join()
    assert late.slowest == "fetch"
    assert late.data_wait.percentile_s(99) > 0.7 * STALL_S
    assert late.data_wait.percentile_s(50) < late.data_wait.percentile_s(99)
    assert late.data_wait.count == 20


def test_a_slow_step_shows_in_the_trainer_and_in_the_highest_percentile_of_the_step(tmp_path: Path) -> None:
    add_pictures(tmp_path, [SHAPES[0]] * 40)
    config = file_config(tmp_path, batch_size=1, samples_buffer_size=20, decode_config={"processes": 0})
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(loader)
        wait_for(lambda: loader.stats().queues[-1].depth == 20)
        before = loader.stats()
        for number in range(19):
            next(loader)
            if number == 10:
                time.sleep(STALL_S)
        late = loader.stats().since(before)
        assert [(queue.name, queue.size) for queue in late.queues] == [
            ("fetch", 256), ("bucket", 0), ("decode", 4), ("ready", 20)
        ]  # fmt: skip
    assert late.slowest == "trainer"
    assert late.step.percentile_s(99) > 0.9 * STALL_S
    assert late.step.percentile_s(50) < late.step.percentile_s(99)


def test_a_stall_that_goes_on_is_seen_while_it_lasts(server: MisbehavingServer) -> None:
    """The feeder has no batch to send, and tells its counts all the same."""
    goes_on = threading.Event()
    server.script("/0.jpg", Answer(body=small_jpeg()))
    server.script("/1.jpg", Answer(body=small_jpeg(), hold=goes_on))
    rows = [Row(str(number), f"{server.url}/{number}.jpg") for number in range(2)]
    with Loader(one_by_one(), device="cpu", backend="pillow", source=rows) as loader:
        next(loader)
        before = loader.stats()
        taker = threading.Thread(target=next, args=(loader,))
        taker.start()
        try:
            for stage in ("trainer", "decode", "pack"):
                wait_for(lambda stage=stage: waited_s(loader.stats().since(before), stage) > 2 * STALL_S)
            assert loader.stats().since(before).slowest == "fetch"
            assert loader.stats().queues[0].depth == 1
        finally:
            goes_on.set()
            taker.join(PATIENCE_S)


@pytest.mark.parametrize("kind", ["shuffled", "listed", "rows", "shards"])
def test_the_number_of_samples_is_known_at_once_or_from_the_second_epoch_on(kind: str, tmp_path: Path) -> None:
    add_pictures(tmp_path / "files", [SHAPES[number % 3] for number in range(14)])
    files = sorted((tmp_path / "files").iterdir())
    (tmp_path / "0.tar").write_bytes(tar_bytes((file.name, file.read_bytes()) for file in files))
    rows = [Row(file.name, str(file)) for file in files] if kind == "rows" else None
    source: dict[str, Any] = {"root_path": str(tmp_path / "files"), "random_sampling": kind == "shuffled"}
    config = {**one_by_one(batch_size=2, epochs=2, samples_buffer_size=2), "source_config": source}
    if kind == "rows":
        config["source_config"] = {}
    if kind == "shards":
        config["source_config"] = {"url": str(tmp_path / "0.tar")}
    config["source_type"] = {"rows": "rows", "shards": "webdataset"}.get(kind, "file")
    with Loader(config, device="cpu", backend="pillow", source=rows) as loader:
        seen = [(stats.epoch, stats.epoch_done, stats.epoch_total) for _ in loader if (stats := loader.stats())]
    totals = {total for epoch, _, total in seen if epoch == 0}
    assert totals == ({None} if kind == "shards" else {14})
    assert seen[-1] == (1, 14, 14)
    assert all(done <= 14 for _, done, _ in seen)


def test_a_limit_ends_the_epoch_sooner(tmp_path: Path) -> None:
    add_pictures(tmp_path, [SHAPES[0]] * 14)
    config = file_config(tmp_path, limit=8, source={"random_sampling": True}, decode_config={"processes": 0})
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(loader)
        stats = loader.stats()
        assert (stats.epoch_done, stats.epoch_total, stats.progress) == (4, 8, 0.5)
        assert stats.eta_s is not None
