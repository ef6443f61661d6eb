"""What Prometheus reads, by prometheus_client's own parser, and how loaders come and go there."""

from __future__ import annotations

import gc
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datago_gpu import ConfigError, Loader
from datago_gpu.metrics import prometheus
from datago_gpu.metrics.catalog import METRICS
from datago_gpu.metrics.prometheus_server import _servers
from tests.metrics.fakes import FULL, MIXED, Fake, durations
from tests.support.images import SHAPES, add_pictures, file_config
from tests.support.needs import needs

client = needs("prometheus_client")
parser = needs("prometheus_client.parser")

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]

END_S = 20


def scrape(port: int | None) -> Found:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**more: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"name": "train", "rank": "3", **more}.items()))


def eventually(done: Callable[[], bool]) -> None:
    end = time.monotonic() + END_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_closed(port: int | None) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).close()
    except (urllib.error.URLError, ConnectionError):  # a connection that waits to be accepted is reset at the end
        return True
    return False


def test_prometheus_reads_every_metric() -> None:
    with prometheus(loader := Fake(), 0, name="train", address="127.0.0.1") as registered:
        found = scrape(registered.port)
        loader.now = MIXED
        mixed = scrape(registered.port)
    names = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name, _ in found}
    assert names == {metric.prometheus_name for metric in METRICS}
    assert found["datago_gpu_samples_total", labels(source="file")] == 300
    assert found["datago_gpu_samples_skipped_total", labels(source="file", reason='od"d\\')] == 1
    assert found["datago_gpu_stage_wait_seconds_total", labels(stage="pack", side="input")] == pytest.approx(5.0)
    assert found["datago_gpu_data_wait_seconds_bucket", labels(le="0.1")] == 2
    assert found["datago_gpu_data_wait_seconds_bucket", labels(le="+Inf")] == 3
    assert found["datago_gpu_data_wait_seconds_sum", labels()] == pytest.approx(0.204)
    assert found["datago_gpu_queue_fill_ratio", labels(queue="ready")] == 0.25
    assert found["datago_gpu_epoch_progress_ratio", labels()] == 0.25
    assert mixed["datago_gpu_samples_total", labels(source="dogs")] == 100
    assert ("datago_gpu_samples_total", labels(source="mix")) not in mixed


def test_two_loaders_share_a_port_which_closes_with_the_last() -> None:
    first, second = Fake(), Fake(replace(FULL, delivered=7))
    train = prometheus(first, 0, name="train", address="127.0.0.1")
    val = prometheus(second, train.port, name="val", address="127.0.0.1")
    assert val.port == train.port
    with pytest.raises(ConfigError, match="already registered here with the name 'val'"):
        prometheus(Fake(), train.port, name="val", address="127.0.0.1")
    train.close()
    assert {dict(found)["name"] for _, found in scrape(val.port)} == {"val"}
    del second
    gc.collect()
    eventually(lambda: is_closed(val.port))
    assert not _servers


def test_a_counter_never_decreases_unless_the_loader_begins_anew() -> None:
    loader = Fake()
    with prometheus(loader, 0, name="train", address="127.0.0.1") as registered:
        key = "datago_gpu_process_cpu_seconds_total", labels(process="feeder")
        first = scrape(registered.port)[key]
        loader.now = replace(FULL, feeder_cores=0.39)
        assert scrape(registered.port)[key] == first
        loader.now = replace(FULL, seconds=1.0)
        assert scrape(registered.port)[key] == pytest.approx(0.4)


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be served for Prometheus"):
            prometheus(Fake(), port, address="127.0.0.1")
    for wrong in (-1, 65536, "9400", True, 9400.0):
        with pytest.raises(ConfigError, match=f"port must be a whole number from 0 to 65535, got {wrong!r}"):
            prometheus(Fake(), wrong)  # type: ignore[arg-type]


def test_a_loader_that_cannot_be_read_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Fake(), Fake()
    with prometheus(broken, 0, name="val") as registered, prometheus(sound, registered.port, name="train"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, "stats", lambda: 1 / 0)
            for _ in range(2):
                assert {dict(found)["name"] for _, found in scrape(registered.port)} == {"train"}
            with pytest.raises(ConfigError, match="already registered here with the name 'val'"):
                prometheus(Fake(), registered.port, name="val")
        assert {dict(found)["name"] for _, found in scrape(registered.port)} == {"train", "val"}
    (told,) = [record for record in caplog.records if "the metrics of the loader 'val'" in record.getMessage()]
    assert told.exc_info


def test_each_rank_of_a_machine_has_its_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Fake()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1] - 2
    monkeypatch.setenv("LOCAL_RANK", "2")
    with prometheus(loader, free, address="127.0.0.1") as registered:
        assert registered.port == free + 2
    with pytest.raises(ConfigError, match="port 65534 plus the local rank is 65536"):
        prometheus(Fake(), 65534)


def test_a_registry_of_the_program_s_own() -> None:
    registry = client.CollectorRegistry()
    loader = Fake()
    with prometheus(loader, registry=registry, name="train"):
        assert b'samples_total{name="train",rank="3",source="file"} 300.0' in client.generate_latest(registry)
    assert client.generate_latest(registry) == b""
    with prometheus(loader):  # the default registry
        assert b"datago_gpu_samples_total" in client.generate_latest()
    with pytest.raises(ConfigError, match="give either a port"):
        prometheus(Fake(), 0, registry=registry)


def test_what_has_no_metrics_and_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="only a Loader or a LoaderDataset has metrics, got dict"):
        prometheus({}, 0)  # type: ignore[arg-type]
    assert not _servers
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'datago_gpu\[metrics\]'"):
        prometheus(Fake(), 0)


def test_a_loader_is_registered_until_it_is_closed(tmp_path: Path) -> None:
    add_pictures(tmp_path, [SHAPES[0]] * 8)
    with Loader(file_config(tmp_path, decode_config={"processes": 0}), device="cpu", backend="pillow") as loader:
        registered = prometheus(loader, 0, name="train", address="127.0.0.1")
        state = loader.state_dict()
        next(loader)
        loader.load_state_dict(state)  # starts anew, and stays registered
        delivered = sum(len(batch) for batch in loader)
        found = scrape(registered.port)
    own = tuple(sorted({"name": "train", "rank": "0", "source": "file"}.items()))
    assert found["datago_gpu_samples_total", own] == delivered == 8
    eventually(lambda: is_closed(registered.port))
    closed: list[str] = []
    loader.call_at_close(lambda: closed.append("at once"))
    assert closed == ["at once"]


def test_the_longest_durations_are_counted_without_a_bound() -> None:
    loader = Fake(replace(FULL, step=durations(1000.0)))
    with prometheus(loader, 0, name="train", address="127.0.0.1") as registered:
        found = scrape(registered.port)
    assert found["datago_gpu_step_seconds_bucket", labels(le="50.0")] == 0
    assert found["datago_gpu_step_seconds_bucket", labels(le="+Inf")] == 1
