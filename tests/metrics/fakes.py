"""A loader that only has statistics, and statistics with a value for every metric."""

from __future__ import annotations

from dataclasses import replace

from datago_gpu.loader.durations import DurationCounter, Durations
from datago_gpu.loader.stats import MixCount, Queue, Stage, Stats

QUEUES = tuple(Queue(name, depth, size) for name, depth, size in (
    ("fetch", 12, 64), ("bucket", 5, 0), ("decode", 1, 4), ("ready", 2, 8)))  # fmt: skip


def durations(*seconds: float) -> Durations:
    counter = DurationCounter()
    for each in seconds:
        counter.add(each)
    return counter.copy()


FULL = Stats(
    delivered=300,
    skipped={"empty": 3, 'od"d\\': 1},
    bytes=9000,
    seconds=10.0,
    stages=tuple(
        Stage(name, 300, 30.0, share, 0.1)
        for name, share in (("fetch", 0.1), ("pack", 0.5), ("decode", 0.6), ("trainer", 0.7))
    ),
    feeder_cores=0.4,
    flawed={"no-label": 2},
    rescued=1,
    dropped=4,
    filtered=5,
    decode_cores=1.5,
    data_wait=durations(0.002, 0.002, 0.2),
    step=durations(0.03),
    queues=QUEUES,
    epoch=1,
    epoch_done=50,
    epoch_total=200,
    rank=3,
    source="file",
)
MIXED = replace(FULL, mix={"cats": MixCount(200, {"empty": 3}, 1, 5), "dogs": MixCount(100, {}, 0, 0)}, source="mix")


class Fake:
    """Has statistics, as a LoaderDataset has."""

    def __init__(self, stats: Stats = FULL) -> None:
        self.now = stats

    def stats(self) -> Stats:
        return self.now
