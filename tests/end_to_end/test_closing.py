"""`close` from every state, feeders that are stopped and go on, and loaders side by side."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from datago_gpu import FeederError, Loader, LoaderConfig
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.patience import quickest, rest
from tests.support.servers import Answer, MisbehavingServer, json_answer

CLOSE_S = 1.0
WAIT_S = 20
STOPPED_S = 1.0
KEY = "5ecret5ecret5ecret5ecret5ecret5ecret5ecr"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    add_pictures(root, [SHAPES[number % 3] for number in range(48)])
    return root


@pytest.fixture
def silent() -> Iterator[LoaderConfig]:
    """A server that takes requests and never answers."""
    with MisbehavingServer() as server:
        server.script("/api/images/", Answer(silent=True))
        source = {"api_url": f"{server.url}/api/", "api_key": KEY, "check_count": False}
        yield LoaderConfig.load({"source_type": "db", "source_config": source})


@pytest.fixture
def stalling() -> Iterator[LoaderConfig]:
    """A server whose payloads stop in the middle."""
    with MisbehavingServer() as server:
        payload = server.script("/a.jpg", Answer(200, b"\xff\xd8" + bytes(1000), stall_after=500))
        entry = {"id": "a", "source": "s", "attributes": {}, "tags": [], "image_direct_url": payload}
        server.route("/api/images/", lambda _: json_answer({"results": [entry], "next": None}))
        source = {"api_url": f"{server.url}/api/", "api_key": KEY, "check_count": False}
        yield LoaderConfig.load({"source_type": "db", "source_config": source})


def endless(root: Path) -> LoaderConfig:
    return file_config(root, epochs=None, samples_buffer_size=4)


def nothing(_: Loader) -> None:
    """Close it as it was made."""


def take_one(loader: Loader) -> None:
    next(loader)


def take_all(loader: Loader) -> None:
    assert sum(map(len, loader)) == 48


def stop_feeder(loader: Loader) -> None:
    os.kill(loader.feeder_pid, signal.SIGSTOP)


def take_one_and_stop_feeder(loader: Loader) -> None:
    next(loader)
    stop_feeder(loader)


def kill_feeder(loader: Loader) -> None:
    next(loader)
    os.kill(loader.feeder_pid, signal.SIGKILL)


def kill_two_feeders(loader: Loader) -> None:
    first = loader.feeder_pid
    os.kill(first, signal.SIGKILL)
    while loader.feeder_pid == first:
        next(loader)
    os.kill(loader.feeder_pid, signal.SIGKILL)
    with pytest.raises(FeederError):
        list(loader)


def leave_it_full(loader: Loader) -> None:
    """Until the feeder does nothing any more, since nobody takes what is ready."""
    next(loader)
    rest(loader.feeder_pid)


STATES: dict[str, tuple[Callable[[Path], LoaderConfig], Callable[[Loader], None]]] = {
    "just made": (endless, nothing),
    "in the middle": (endless, take_one),
    "at the end": (file_config, take_all),
    "its feeder stopped at once": (endless, stop_feeder),
    "its feeder stopped": (endless, take_one_and_stop_feeder),
    "its feeder killed": (endless, kill_feeder),
    "two feeders killed": (endless, kill_two_feeders),
    "all buffers full": (endless, leave_it_full),
}


@pytest.mark.parametrize("state", STATES)
def test_close_takes_less_than_a_second(root: Path, state: str) -> None:
    make, bring = STATES[state]

    def seconds() -> float:
        loader = Loader(make(root), device="cpu")
        bring(loader)
        return seconds_to_close(loader)[1]

    assert quickest(seconds, CLOSE_S) < CLOSE_S


@pytest.mark.parametrize("server", ["silent", "stalling"])
def test_close_does_not_wait_for_a_server(server: str, request: pytest.FixtureRequest) -> None:
    """While another thread waits in `next`, which ends as well."""
    loader = Loader(request.getfixturevalue(server), device="cpu")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(list, loader)
        assert not waiting.done()
        assert seconds_to_close(loader)[1] < WAIT_S
        assert waiting.result(WAIT_S) == []


@pytest.mark.parametrize("processes", [0, 1])
def test_close_does_not_wait_for_images_that_are_being_decoded(tmp_path: Path, processes: int) -> None:
    """Each takes a fifth of a second and more, and those that are left take longer than `close` may.

    The one that is under way may keep its thread a little longer.
    """
    Image.new("RGB", (7000, 7000)).save(tmp_path / "0.jpg")
    for number in range(1, 16):
        os.link(tmp_path / "0.jpg", tmp_path / f"{number}.jpg")
    config = file_config(tmp_path, decode_config={"threads": 1, "processes": processes, "draft": False})

    def seconds() -> float:
        loader = Loader(config, device="cpu")
        while processes and not loader.decode_pids:
            time.sleep(0.02)
        decoding = psutil.Process(*loader.decode_pids)
        began = sum(decoding.cpu_times()[:2])
        while sum(decoding.cpu_times()[:2]) < began + 0.5:  # this process does nothing else
            time.sleep(0.02)
        return seconds_to_close(loader)[0]

    assert quickest(seconds, CLOSE_S) < CLOSE_S


def seconds_to_close(loader: Loader) -> tuple[float, float]:
    """How long `close` takes, and how long until no thread of the loader is left. Further iteration ends at once."""
    feeder = loader.feeder_pid
    clock = time.perf_counter()
    loader.close()
    close = time.perf_counter() - clock
    assert not psutil.pid_exists(feeder)
    assert next(loader, None) is None
    for thread in threading.enumerate():
        if thread.name.startswith("datago"):
            thread.join(WAIT_S)
    assert not loader.is_closing
    return close, time.perf_counter() - clock


@pytest.mark.parametrize("allowed", [None, 0.1, 5])
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_after_close_nothing_comes_and_no_error_however_many_samples_were_bad(
    tmp_path: Path, allowed: float | None, batches: int
) -> None:
    for name in add_pictures(tmp_path, [(40, 40)] * 12)[8:]:
        (tmp_path / name).write_bytes(b"no image")
    loader = Loader(file_config(tmp_path, max_failures=allowed, epochs=3), device="cpu")
    for _ in range(batches):
        next(loader)
    loader.close()
    assert list(loader) == []
    assert list(loader.samples()) == []


def delivered(config: LoaderConfig) -> list[list[str]]:
    with Loader(config, device="cpu") as loader:
        return [batch.ids for batch in loader]


def test_a_feeder_that_is_stopped_for_a_while_loses_nothing(root: Path) -> None:
    config = file_config(root, epochs=2, samples_buffer_size=1, prefetch_buffer_size=8)
    got = []
    with Loader(config, device="cpu") as loader:
        got.append(next(loader).ids)
        os.kill(loader.feeder_pid, signal.SIGSTOP)
        stopped_at = time.perf_counter()
        wake = threading.Timer(STOPPED_S, os.kill, (loader.feeder_pid, signal.SIGCONT))
        wake.start()
        got += [batch.ids for batch in loader]
        wake.join()
        assert time.perf_counter() - stopped_at >= STOPPED_S
    assert got == delivered(config)


def test_requests_that_time_out_while_a_feeder_is_stopped_are_made_again(root: Path) -> None:
    """All of their limits have passed at once when it goes on."""
    names = sorted(path.name for path in root.iterdir())
    with MisbehavingServer() as server:
        entries = []
        for name in names:
            url = server.script(f"/{name}", Answer(200, (root / name).read_bytes(), delay_s=0.02))
            entries.append({"id": name, "source": "", "attributes": {}, "tags": [], "image_direct_url": url})
        server.route("/api/images/", lambda _: json_answer({"results": entries, "next": None}))
        source = {"api_url": f"{server.url}/api/", "api_key": KEY, "check_count": False}
        limits = {"connect_timeout_s": 0.3, "stall_timeout_s": 0.3, "total_timeout_s": 0.5, "max_backoff_s": 0.1}
        limits["max_tries"] = 20  # where the machine is busy, more than one try may take too long
        like = file_config(root, http={**limits, "concurrent_downloads": 2})
        config: dict[str, Any] = {"source_type": "db", "source_config": source, "batch_size": 4, "arena_mb": 2}
        config |= {"image_config": like.image_config, "http_config": like.http_config, "prefetch_buffer_size": 4}
        with Loader(config, device="cpu") as loader:
            got = list(next(loader).ids)
            os.kill(loader.feeder_pid, signal.SIGSTOP)
            wake = threading.Timer(STOPPED_S, os.kill, (loader.feeder_pid, signal.SIGCONT))
            wake.start()
            got += [name for batch in loader for name in batch.ids]
            wake.join()
            assert loader.stats().skipped == {}
    assert sorted(got) == names


def test_loaders_side_by_side_do_not_disturb_each_other(root: Path) -> None:
    configs = [file_config(root, source={"random_sampling": True}, seed=seed, epochs=2) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(delivered, configs)) == [delivered(config) for config in configs]
