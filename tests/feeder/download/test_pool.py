"""Processes that download for the feeder: the stream is the same, whatever becomes of them, and none stays behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from datago_gpu import ConfigError, FeederError, Loader, LoaderConfig
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_picture, add_pictures
from tests.support.listing import KEY, Listing, names
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer

pytestmark = pytest.mark.usefixtures("nothing_left")

WAIT_S = 20
COUNT = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    bad = add_pictures(root, [SHAPES[number * number % 3] for number in range(COUNT)])[9::10]
    for name in bad:
        whole = add_picture(root / "whole.png").read_bytes()
        data = whole.index(b"IDAT") + 4
        (root / name).write_bytes(whole[:data] + bytes(8) + whole[data + 8 :])
    (root / "whole.png").unlink()
    return root


@pytest.fixture
def server(root: Path) -> Iterator[DataroomServer]:
    """One for each test: its connections are descriptors of this process, and gone when they are counted."""
    with DataroomServer(root, payload_port=0) as server:
        yield server


def config(url: str, key: str, processes: int, **more: Any) -> LoaderConfig:
    """Little is under way at once, so that most is still to come whenever something happens."""
    return LoaderConfig.load(
        {
            "source_config": {"api_url": url, "api_key": key, "page_size": 7},
            "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
            "http_config": {
                "concurrent_downloads": 8,
                "download_processes": processes,
                "max_payload_mb": 1,
                "max_backoff_s": 0.02,
                **more.pop("http", {}),
            },
            "batch_size": 4,
            "arena_mb": 4,
            "samples_buffer_size": 1,
            "prefetch_buffer_size": 16,
            **more,
        }
    )


def connected(pid: int) -> set[int]:
    """The ports that a process has connections to."""
    return {each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr}


def run(settings: LoaderConfig, kill_after: tuple[int, ...] = ()) -> tuple[list[Any], dict[str, int]]:
    """What is delivered and skipped; a process that downloads is killed after so many batches."""
    delivered = []
    with Loader(settings, device="cpu", backend="pillow") as loader:
        for batch in loader:
            delivered.append((batch.epoch, batch.bucket, batch.ids, int(batch.image.sum())))
            if len(delivered) in kill_after:
                os.kill(loader.download_pids[-1], signal.SIGKILL)
        return delivered, loader.stats().skipped


@pytest.mark.parametrize("processes", [1, 3])
def test_the_stream_is_the_same(server: DataroomServer, processes: int) -> None:
    more: dict[str, Any] = {"epochs": 2, "limit": 100}
    delivered, skipped = run(config(server.url, server.key, processes, **more))
    assert (delivered, skipped) == run(config(server.url, server.key, 0, **more))
    assert sum(len(ids) for *_, ids, _ in delivered) == 100
    assert set(skipped) == {"undecodable"}


def test_each_process_downloads_a_share(server: DataroomServer) -> None:
    with Loader(config(server.url, server.key, 2, epochs=None), device="cpu", backend="pillow") as loader:
        next(iter(loader))
        ports = [connected(pid) for pid in loader.download_pids]
        assert ports == 2 * [{urlsplit(server.payload_url).port}]
        assert not connected(loader.feeder_pid) & ports[0]


def test_payloads_wait_for_room_where_they_fill_the_memory() -> None:
    """Each takes nine tenths of it."""
    with MisbehavingServer() as server:
        api = Listing(server, names(20))
        picture = b"P6 500 600 255\n" + bytes(500 * 600 * 3)
        for name, entry in api.entries.items():
            body = picture[:-1] + name[-2:].encode()[1:]
            entry["image_direct_url"] = server.script(f"/{name}.ppm", Answer(200, body))
        delivered, skipped = run(config(api.api_url, KEY, 1))
    assert skipped == {}
    assert [name for *_, ids, _ in delivered for name in ids] == names(20)


def test_an_address_that_has_expired_is_renewed() -> None:
    with MisbehavingServer() as server:
        api = Listing(server, names(12))
        picture = b"P6 50 60 255\n" + bytes(50 * 60 * 3)

        def payload(request: Request) -> Answer:
            return Answer(200, picture) if request.query == "new" else Answer(403)

        for name, entry in api.entries.items():
            url = server.route(f"/{name}.ppm", payload)
            entry["image_direct_url"] = f"{url}?old"
            fresh = json_answer(entry | {"image_direct_url": f"{url}?new"})
            server.script(f"/api/images/{name}/", fresh)
        delivered, skipped = run(config(api.api_url, KEY, 2))
    assert skipped == {}
    assert [name for *_, ids, _ in delivered for name in ids] == names(12)


@pytest.mark.parametrize("kill_after", [1, 6])
def test_what_is_delivered_does_not_depend_on_one_that_is_killed(
    server: DataroomServer, kill_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(server.url, server.key, 2, epochs=2)
    assert run(settings, (kill_after,)) == run(settings)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
                  and "a new one continues" in record.getMessage()]  # fmt: skip
    assert warning == (
        "the feeder process ended with status 1, because a download process ended by signal 9 (SIGKILL); "
        "its last output: a download process has ended; a new one continues from there"
    )


def test_a_second_death_ends_the_run(server: DataroomServer) -> None:
    with pytest.raises(FeederError, match=r"(?s)signal 9.*already restarted once in this run, after: .*signal 9"):
        run(config(server.url, server.key, 2, epochs=None), (1, 9))


def test_one_that_cannot_begin_is_told_with_its_traceback(
    server: DataroomServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'datago_gpu.feeder.download' in sys.orig_argv: sys.modules['aiohttp'] = None"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(FeederError, match=r"(?s)a download process ended with status 1; .*import of aiohttp"):
        run(config(server.url, server.key, 1))


TRAINER = """
import signal, sys
from datago_gpu import Loader
from tests.feeder.download.test_pool import config
with Loader(config(*sys.argv[1:], 2, epochs=None), device="cpu", backend="pillow") as loader:
    next(iter(loader))
    print(loader.feeder_pid, *loader.download_pids, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_none_outlives_a_trainer_that_ends(server: DataroomServer, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, server.url, server.key],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in trainer.stdout.readline().split()]
        assert len(processes) == 3
        os.kill(trainer.pid, how)
    _, alive = psutil.wait_procs(processes, WAIT_S)
    assert not alive


@pytest.mark.parametrize("source", ["file", "webdataset"])
def test_other_sources_refuse_them(source: str) -> None:
    with pytest.raises(ConfigError, match=r"^http_config.download_processes works only for a Dataroom"):
        LoaderConfig.load(
            {
                "source_type": source,
                "source_config": {"root_path": "/images"} if source == "file" else {"url": "/shards/{0..3}.tar"},
                "http_config": {"download_processes": 1},
            }
        )
