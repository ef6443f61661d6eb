"""A trace of a real run: each stage has its events, on tracks of its process, and afterwards nothing is left behind."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader, Row
from datago_gpu.loader.assembly import Assembly
from datago_gpu.loader.run_stats import RunStats
from datago_gpu.metrics import trace
from datago_gpu.tracing import Event, Recorder
from datago_gpu.wait import Wait
from tests.support.images import SHAPES, add_pictures, file_config, small_jpeg

STEP_S = 0.05
STALL_S = 0.2


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """So little is ahead that all stages work while the trace is recorded."""
    add_pictures(tmp_path / "pictures", [SHAPES[0]] * 64)
    ahead = {"samples_buffer_size": 2, "prefetch_buffer_size": 4, "batch_size": 2}
    return file_config(tmp_path / "pictures", decode_config={"processes": 0, "prefetch": 1}, **ahead)


def methods() -> list[Callable[..., Any]]:
    return [Wait.end, Assembly.submit, Assembly.collect, RunStats.ask]


def test_a_trace_has_every_stage_on_the_tracks_of_its_process(config: Any, tmp_path: Path) -> None:
    before, path = methods(), tmp_path / "trace.json"
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(loader)
        with trace(loader, path):
            assert methods() != before
            for _ in range(20):
                next(loader)
            time.sleep(STEP_S)
            next(loader)
        assert methods() == before
        feeder = loader.feeder_pid
        rest = sum(len(batch) for batch in loader)
    assert rest == 64 - 22 * 2
    rows = json.loads(path.read_text())["traceEvents"]
    events = [row for row in rows if row["ph"] == "X"]
    stages = {pid: {row["name"] for row in events if row["pid"] == pid} for pid in (os.getpid(), feeder)}
    assert stages[feeder] >= {"fetch", "admit", "pack"}
    assert stages[os.getpid()] >= {"decode", "step"}
    assert {row["pid"] for row in events} == {os.getpid(), feeder}
    assert max(row["dur"] for row in events if row["name"] == "step") >= STEP_S * 1e6
    assert sum(row["args"]["samples"] for row in events if row["name"] == "decode") >= 20
    named = {(row["pid"], row["tid"]) for row in rows if row["name"] == "thread_name"}
    assert {(row["pid"], row["tid"]) for row in events} == named
    assert [row["args"]["name"] for row in rows if row["name"] == "process_name"] == [
        "trainer, rank 0", "feeder, rank 0"
    ]  # fmt: skip
    check_tracks(events)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pictures", "trace.json"]


def test_a_stall_of_the_source_is_in_the_listing_and_in_the_data_wait(tmp_path: Path) -> None:
    is_recorded = threading.Event()

    def rows(_epoch: int) -> Iterator[Row]:
        for number in range(24):
            if number == 20:
                is_recorded.wait(30)
                time.sleep(STALL_S)
            yield Row(str(number), small_jpeg(number))

    settings = {"image_config": {"crop_and_resize": True, "default_image_size": 64}, "decode_config": {"processes": 0}}
    settings |= {"batch_size": 1, "samples_buffer_size": 1, "prefetch_buffer_size": 2}
    with Loader(settings, device="cpu", backend="pillow", source=rows) as loader:
        next(loader)
        with trace(loader, tmp_path / "trace.json"):
            for _ in range(10):
                next(loader)
            is_recorded.set()
            assert sum(len(batch) for batch in loader) == 13
    longest: dict[str, float] = defaultdict(float)
    for row in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]:
        if row["ph"] == "X":
            longest[row["name"]] = max(longest[row["name"]], row["dur"] / 1e6)
    assert min(longest["list"], longest["data wait"]) > 0.7 * STALL_S


def check_tracks(events: list[dict[str, Any]]) -> None:
    """On a track, an event begins behind the one before it, or ends within it."""
    tracks = defaultdict(list)
    for row in events:
        tracks[row["pid"], row["tid"]].append((row["ts"], row["ts"] + row["dur"]))
    for spans in tracks.values():
        for (_, ended), (begins, ends) in pairwise(sorted(spans, key=lambda span: (span[0], -span[1]))):
            assert begins >= ended - 1 or ends <= ended + 1


def test_a_trace_that_cannot_be_is_refused(config: Any, tmp_path: Path) -> None:
    with Loader(config, device="cpu", backend="pillow") as loader:
        with pytest.raises(ConfigError, match="cannot be written: No such file"), trace(loader, tmp_path / "no" / "x"):
            pass
        with (
            trace(loader, tmp_path / "one.json"),
            pytest.raises(ConfigError, match="another trace is under way"),
            trace(loader, tmp_path / "two.json"),
        ):
            pass
    with trace(loader, tmp_path / "closed.json"):  # the feeder has ended: it has no events
        pass
    assert len(json.loads((tmp_path / "closed.json").read_text())["traceEvents"]) == 2
    with pytest.raises(ConfigError, match="got a dict"), trace({}, tmp_path / "x"):  # type: ignore[arg-type]
        pass


def test_a_recorder_keeps_a_bounded_number_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datago_gpu.tracing.MOST_EVENTS", 2)
    recorder = Recorder()
    for number in range(4):
        recorder.add(Event("list", "list", float(number), number + 1.0))
    assert [event.began for event in recorder.events] == [0.0, 1.0]


def test_a_full_disk_at_the_end_is_a_warning(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Loader(config, device="cpu", backend="pillow") as loader:
        with pytest.raises(KeyError, match="the program's"), trace(loader, "/dev/full"):
            raise KeyError("the program's")
        assert "the trace /dev/full cannot be written: No space left on device" in caplog.text
