"""Counts as text, of an interval, of several passes, and as plain numbers."""

from __future__ import annotations

import dataclasses
import json

import pytest

from datago_gpu.loader.durations import BOUNDS_S, Durations
from datago_gpu.loader.flat import FLAT_NAMES, UNITS
from datago_gpu.loader.stats import MixCount, Queue, Stage, Stats
from datago_gpu.loader.stats_sums import total
from datago_gpu.loader.stats_text import duration_text

STAGES = (
    Stage("fetch", 2307, 2218.27, 0.124, 0.8),
    Stage("pack", 2307, 2218.27, 0.1, 0.75),
    Stage("decode", 2300, 2211.54, 0.02, 0.0),
    Stage("trainer", 2300, 2211.54, 0.95, 0.0),
)


def test_printed_stats_are_a_table() -> None:
    stats = Stats(2300, {"undecodable": 6, "empty": 1}, 98_123_456, 1.04, STAGES, 0.446)
    assert str(stats).splitlines() == [
        "2,300 samples in 1.04 s (2,212 a second), 98.1 MB encoded, skipped: 6 undecodable, 1 empty",
        "stage    samples  samples/s  waited for input  waited for output",
        "fetch      2,307      2,218               12%                80%",
        "pack       2,307      2,218               10%                75%",
        "decode     2,300      2,212                2%                 0%",
        "trainer    2,300      2,212               95%                 0%",
        "slowest: decode; the feeder used 45% of a core",
    ]
    assert "Stats(delivered=2300" in repr(stats)


def test_a_run_without_a_sample_can_be_printed() -> None:
    stats = Stats(0, {}, 0, 1e-9, tuple(Stage(stage.name, 0, 0.0, 0.0, 0.0) for stage in STAGES), 0.0)
    assert str(stats).startswith("0 samples in 0.00 s (0 a second), 0.0 MB encoded, skipped: none\n")
    assert stats.slowest == "trainer", "if no stage waited, the last one: the trainer takes no batch"


BEFORE = Stats(
    100,
    {"empty": 1},
    1000,
    10.0,
    (Stage("fetch", 120, 12.0, 0.5, 0.0), Stage("trainer", 100, 10.0, 0.2, 0.0)),
    0.5,
    mix={"cats": MixCount(60, {"empty": 1}, 0, 5)},
    filtered_by_epoch={0: 5},
    filtered=5,
    data_wait=Durations((3, *(0,) * len(BOUNDS_S)), 0.1),
)
AFTER = Stats(
    300,
    {"empty": 1, "missing": 2},
    3000,
    15.0,
    (Stage("fetch", 330, 22.0, 0.4, 0.2), Stage("trainer", 300, 20.0, 0.3, 0.0)),
    0.6,
    mix={"cats": MixCount(160, {"empty": 1}, 2, 8), "dogs": MixCount(40, {}, 0, 0)},
    filtered_by_epoch={0: 5, 1: 3},
    filtered=8,
    data_wait=Durations((3, 4, *(0,) * (len(BOUNDS_S) - 1)), 0.3),
    queues=(Queue("ready", 2, 4),),
    epoch=1,
    epoch_done=50,
    epoch_total=251,
)


def test_an_interval_has_the_rates_and_shares_of_its_own_time() -> None:
    late = AFTER.since(BEFORE)
    assert (late.delivered, late.bytes, late.seconds, late.filtered) == (200, 2000, 5.0, 3)
    assert (late.skipped, late.filtered_by_epoch) == ({"missing": 2}, {1: 3})
    fetch, trainer = late.stages
    assert (fetch.items, fetch.per_s) == (210, 42.0)
    assert (fetch.waited_input, fetch.waited_output) == (pytest.approx(0.2), pytest.approx(0.6))
    assert trainer.waited_input == pytest.approx(0.5)
    assert late.feeder_cores == pytest.approx(0.8)
    assert late.mix == {"cats": MixCount(100, {}, 2, 3), "dogs": MixCount(40, {}, 0, 0)}
    assert late.data_wait.count == 4
    assert (late.queues, late.epoch) == (AFTER.queues, 1)
    assert late.progress == pytest.approx(50 / 251)
    assert late.eta_s == pytest.approx(201 / (205 / 5))


def test_passes_together_have_the_counts_of_both_and_what_is_now_of_the_later_one() -> None:
    both = total(BEFORE, AFTER)
    assert (both.delivered, both.seconds, both.skipped) == (400, 25.0, {"empty": 2, "missing": 2})
    assert both.mix["cats"] == MixCount(220, {"empty": 2}, 2, 13)
    assert both.stages[0].waited_input == pytest.approx((5.0 + 6.0) / 25.0)
    assert (both.epoch, both.queues) == (1, AFTER.queues)
    assert both.since(BEFORE).skipped == AFTER.skipped


def test_an_interval_begins_where_the_loader_has_begun_anew() -> None:
    assert BEFORE.since(AFTER) == BEFORE


def test_flat_names_are_the_ones_that_are_documented() -> None:
    stats = dataclasses.replace(AFTER, stages=STAGES, queues=tuple(Queue(name, 1, 2) for name in UNITS))
    found = stats.flat("data/")
    assert all(type(value) is float for value in found.values())
    stages = [stage.name for stage in STAGES]
    named = {
        name.replace("STAGE", stage).replace("REASON", reason)
        for name in FLAT_NAMES
        for stage in stages
        for reason in ("empty", "missing")
    }
    assert {name.removeprefix("data/") for name in found} == named
    unknown = dataclasses.replace(stats, epoch_total=None).flat()
    assert named - unknown.keys() == {"epoch_progress_ratio", "epoch_eta_seconds"}


def test_printed_stats_say_how_long_the_trainer_waited_and_how_far_the_epoch_is() -> None:
    *_, waited, epoch, _ = str(AFTER).splitlines()
    assert waited == "the trainer waited for a batch: p50 0.0102 ms, p95 0.0111 ms, p99 0.0112 ms"
    assert epoch == "epoch 1: 50 of 251 samples, 9.69 s left at this rate"
    assert [duration_text(seconds) for seconds in (0.2, 61, 100, 3725)] == ["200 ms", "61 s", "1:40 min", "1:02:05"]
    plain = json.loads(json.dumps(AFTER.as_dict()))
    assert (plain["data_wait"]["count"], plain["queues"]) == (7, [{"name": "ready", "depth": 2, "size": 4}])
