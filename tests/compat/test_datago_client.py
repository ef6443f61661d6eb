"""The manners of DatagoClient: passes, threads, signals, what is left behind."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from datago_gpu import DatagoError
from datago_gpu.compat import DatagoClient, DatagoIterDataset, ImagePayload, live_cleanup_threads, logs
from datago_gpu.server import DataroomServer
from tests.support.gpus import usable
from tests.support.images import add_pictures
from tests.support.patience import end_of_loaders
from tests.support.pictures import on_host
from tests.support.servers import Answer, MisbehavingServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_pictures(tmp_path, [(40, 40), (30, 60), (60, 30)] * 8)
    return tmp_path


def config(root: Path, **more: Any) -> dict[str, Any]:
    return {
        "source_type": "file",
        "source_config": {"root_path": str(root), **more.pop("source", {})},
        "limit": 100,
        "samples_buffer_size": 8,
        **more,
    }


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[DatagoClient] = []

    def make(root: Path, **more: Any) -> DatagoClient:
        made.append(DatagoClient(json.dumps(config(root, **more)), device="cpu"))
        return made[-1]

    yield make
    for client in made:
        client.stop()


def drain(client: DatagoClient) -> list[str]:
    return [sample.id for sample in iter(client.get_sample, None)]


def test_samples_come_in_order_and_each_pass_is_asked_for(folder: Path, make: Any) -> None:
    client = make(folder)
    names = drain(client)
    assert names == [json.dumps(str(path)) for path in sorted(folder.glob("*.jpg"))]
    assert client.get_sample() is client.get_sample_auto_convert() is None
    client.start()
    client.start()
    assert drain(client) == names


def test_limit_is_exact(folder: Path, make: Any) -> None:
    assert len(drain(make(folder, limit=5))) == 5


def test_after_stop_there_is_nothing_until_start(folder: Path, make: Any) -> None:
    client = make(folder)
    assert client.get_sample() is not None
    client.stop()
    client.stop()
    assert client.get_sample() is None
    client.start()
    assert len(drain(client)) == 24


def test_a_client_that_was_stopped_before_it_began_does_not_begin(folder: Path, make: Any) -> None:
    client = make(folder)
    client.stop()
    assert client.get_sample() is None


def test_a_dropped_client_gives_its_process_back(folder: Path) -> None:
    client = DatagoClient(json.dumps(config(folder)), device="cpu")
    client.start()
    before = psutil.Process().children()
    del client
    gc.collect()
    assert before
    assert psutil.wait_procs(before, timeout=10)[1] == []


def test_threads_share_the_samples(folder: Path, make: Any) -> None:
    client = make(folder)
    found: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(drain(client))) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    together = [name for mine in found for name in mine]
    assert len(together) == len(set(together)) == 24


def test_shuffles_differ_from_pass_to_pass_as_datagos_do(folder: Path, make: Any) -> None:
    shuffled = [drain(make(folder, source={"random_sampling": True})) for _ in range(2)]
    assert sorted(shuffled[0]) == sorted(shuffled[1])
    assert shuffled[0] != shuffled[1]


def test_ranks_are_those_of_the_config_alone(folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(drain(make(folder))) == 24
    shares = [drain(make(folder, source={"rank": rank, "world_size": 2})) for rank in range(2)]
    assert [len(share) for share in shares] == [12, 12]
    assert not set(shares[0]) & set(shares[1])


@pytest.fixture
def stalled() -> Iterator[dict[str, Any]]:
    """A Dataroom that never answers."""
    with MisbehavingServer() as server:
        server.script("/api/images/", Answer(silent=True))
        server.script("/api/images/count/", Answer(silent=True))
        source = {"api_url": f"{server.url}/api/", "api_key": "a" * 40, "sources": "", "page_size": 5}
        yield {"server": server, "text": json.dumps({"source_config": source, "limit": 5, "samples_buffer_size": 5})}


def test_stop_from_another_thread_ends_a_waiting_read(stalled: dict[str, Any]) -> None:
    client = DatagoClient(stalled["text"], device="cpu")
    results: list[Any] = []
    reader = threading.Thread(target=lambda: results.append(client.get_sample()))
    reader.start()
    assert stalled["server"].asked.wait(20)
    clock = time.perf_counter()
    client.stop()
    reader.join(20)
    assert results == [None]
    assert time.perf_counter() - clock < 20  # 1 s is promised, and the server would take 30
    assert live_cleanup_threads() == 0


SIGNALLED = """
import json, os, signal, sys, threading
from datago_gpu.compat import DatagoClient

client = DatagoClient(sys.argv[1], device="cpu")
if sys.argv[2] == "handler":
    signal.signal(signal.SIGINT, lambda *_: client.stop())
client.start()
print("waiting", flush=True)
try:
    print(client.get_sample(), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(("how", "word"), [("default", "interrupted"), ("handler", "None")])
def test_sigint_ends_a_waiting_read(stalled: dict[str, Any], how: str, word: str) -> None:
    command = [sys.executable, "-c", SIGNALLED, stalled["text"], how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "waiting\n"
            assert stalled["server"].asked.wait(20)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == f"{word}\n"
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_failing_source_is_logged_and_ends_the_stream(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert make(Path("/no/such/folder")).get_sample() is None
    assert "/no/such/folder" in caplog.text


def test_many_clients_leave_nothing_behind(folder: Path) -> None:
    this = psutil.Process()

    def use() -> None:
        client = DatagoClient(json.dumps(config(folder, limit=1)), device="cpu")
        assert client.get_sample() is not None
        client.stop()

    def counted() -> tuple[int, int]:
        """Descriptors and threads, once those of loaders that were stopped, also by other tests, have ended."""
        end_of_loaders()
        return this.num_fds(), threading.active_count()

    use()
    before = counted()
    for _ in range(5):
        use()
    assert counted() == before
    assert this.children() == []


def test_a_client_that_is_never_read_costs_no_process(folder: Path) -> None:
    clients = [DatagoClient(json.dumps(config(folder)), device="cpu") for _ in range(200)]
    assert psutil.Process().children() == []
    del clients


def test_the_environment_sets_threads_and_tries(folder: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAGO_MAX_TASKS", "0")
    monkeypatch.setenv("DATAGO_MAX_RETRIES", "7")
    settings = make(folder)._config
    assert settings is not None
    assert (settings.decode_config.threads, settings.http_config.max_tries) == (1, 8)


def test_an_image_acts_as_its_picture(folder: Path, make: Any) -> None:
    sample = make(folder).get_sample()
    image = sample.image
    assert isinstance(image, ImagePayload)
    assert (image.mode, image.size, image.width) == ("RGB", (40, 40), 40)
    assert isinstance(image(), Image.Image)
    assert image.resize((8, 8)).size == (8, 8)
    with pytest.raises(AttributeError, match="nope"):
        _ = image.nope
    with pytest.raises(DatagoError, match="on the CPU"):
        image.cuda()
    assert "40 x 40" in repr(sample)


@pytest.mark.cuda
def test_on_a_gpu_pixels_stay_there_until_they_are_asked_for(folder: Path) -> None:
    client = DatagoClient(json.dumps(config(folder, limit=3)), device=usable("cuda"))
    for sample in iter(client.get_sample, None):
        image = sample.image
        pixels = image.cuda()
        assert (pixels.shape, pixels.dtype) == ((*image.size[::-1], 3), "u1")
        assert on_host(pixels).tobytes() == image.get_payload().data
    client.stop()


def test_shards_are_read_as_well(tmp_path: Path, make: Any) -> None:
    add_pictures(tmp_path / "pictures", [(40, 40)] * 3)
    shard = tmp_path / "train-000.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted((tmp_path / "pictures").iterdir()):
            tar.add(path, path.name)
    source = {"url": str(tmp_path / "train-{000..000}.tar"), "reference_image_type": "jpg", "concurrent_downloads": 2}
    text = {"source_type": "webdataset", "source_config": source, "limit": 9, "samples_buffer_size": 4}
    client = DatagoClient(json.dumps(text), device="cpu")
    assert drain(client) == ["0000", "0001", "0002"]
    client.stop()


def test_a_dataset_ends_with_its_pass(folder: Path) -> None:
    dataset = DatagoIterDataset(config(folder, limit=5))
    assert len(dataset) == 5
    samples = list(dataset)
    assert len(samples) == 5
    assert all(isinstance(sample["image"], Image.Image) for sample in samples)
    raw = list(DatagoIterDataset(config(folder, limit=3), return_python_types=False))
    assert [sample.source for sample in raw] == ["filesystem"] * 3


def test_random_draws_of_a_dataroom(server: DataroomServer) -> None:
    source = {"api_url": server.url, "api_key": server.key, "sources": "", "page_size": 4, "random_sampling": True}
    client = DatagoClient(json.dumps({"source_config": source, "limit": 6, "samples_buffer_size": 4}), device="cpu")
    assert len(set(drain(client))) == 6


@pytest.mark.parametrize(
    ("text", "level"),
    [("info", "INFO"), ("off", "Level 51"), ("datago=debug,hyper=off", "DEBUG"), ("hyper=debug,error", "ERROR"),
     ("datago::client=warn", "WARNING"), ("nonsense", "ERROR")],
)  # fmt: skip
def test_rust_log_is_understood(text: str, level: str) -> None:
    assert logging.getLevelName(logs._level(text)) == level


def test_logging_is_initialised_once() -> None:
    script = """
import logging
from datago_gpu.compat import initialize_logging

print(initialize_logging("info"), initialize_logging("debug"), logging.getLogger("datago_gpu").level)
"""
    environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    for more, level in (({}, 20), ({"RUST_LOG": "error"}, 40)):
        done = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **more}, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"True False {level}\n"
