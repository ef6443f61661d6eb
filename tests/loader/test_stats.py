"""Counts as text."""

from __future__ import annotations

from datago_gpu.loader.stats import Stage, Stats

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
