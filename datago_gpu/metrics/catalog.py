"""Lists every metric: its name, unit and meaning, and how its values are read from the statistics of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from datago_gpu.loader.durations import Durations
from datago_gpu.loader.flat import UNITS
from datago_gpu.loader.stats import MixCount, Stats

__all__ = ["BUCKETS_S", "METRICS", "PREFIX", "Metric"]

PREFIX = "datago_gpu_"

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0)
"""Upper bounds of the buckets of histograms, in seconds."""

Values = Iterator[tuple[tuple[str, ...], float]]
"""Values of a metric, each with the values of its labels."""

_SUFFIXES = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}


@dataclass(frozen=True)
class Metric:
    """One metric. All of them also have the labels `name` (given when the loader is registered) and `rank`."""

    stem: str
    """The name without prefix, unit and "_total"."""
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """As OpenTelemetry writes units: "s", "By", "1" for a share, "{sample}", or "" for none."""
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Stats], Values] = lambda _: iter(())
    """Returns the values of a counter or gauge."""
    durations: Callable[[Stats], Durations] = lambda _: Durations()
    """Returns what a histogram is of."""

    @property
    def prometheus_name(self) -> str:
        """Returns the name by Prometheus' conventions."""
        total = "_total" if self.kind == "counter" else ""
        return f"{PREFIX}{self.stem}{_SUFFIXES.get(self.unit, '')}{total}"

    @property
    def otel_name(self) -> str:
        """Returns the name by OpenTelemetry's conventions: without unit, since instruments have a unit of their own."""
        return f"datago_gpu.{self.stem}" + ("_ratio" if self.unit == "1" else "")


def _of_sources(stats: Stats) -> Iterator[tuple[str, MixCount]]:
    """Yields each source of a mix with its counts. Without a mix, yields the only source, named by its type."""
    yield from stats.mix.items()
    if not stats.mix:
        yield stats.source, MixCount(stats.delivered, stats.skipped, 0, stats.filtered)


def _one(value: Callable[[Stats], float | None]) -> Callable[[Stats], Values]:
    """Returns what reads a metric of one value, which may be unknown."""

    def read(stats: Stats) -> Values:
        found = value(stats)
        if found is not None:
            yield (), found

    return read


def _delivered(stats: Stats) -> Values:
    yield from (((source,), count.delivered) for source, count in _of_sources(stats))


def _filtered(stats: Stats) -> Values:
    yield from (((source,), count.filtered) for source, count in _of_sources(stats))


def _skipped(stats: Stats) -> Values:
    for source, count in _of_sources(stats):
        yield from (((source, reason), number) for reason, number in count.skipped.items())


def _flawed(stats: Stats) -> Values:
    yield from (((reason,), number) for reason, number in stats.flawed.items())


def _stage_samples(stats: Stats) -> Values:
    yield from (((stage.name,), stage.items) for stage in stats.stages)


def _stage_waits(stats: Stats) -> Values:
    for stage in stats.stages:
        yield (stage.name, "input"), stage.waited_input * stats.seconds
        yield (stage.name, "output"), stage.waited_output * stats.seconds


def _cpu(stats: Stats) -> Values:
    yield ("feeder",), stats.feeder_cores * stats.seconds
    yield ("decode",), stats.decode_cores * stats.seconds


def _queues_of(unit: str) -> Callable[[Stats], Values]:
    def read(stats: Stats) -> Values:
        yield from (((queue.name,), queue.depth) for queue in stats.queues if UNITS[queue.name] == unit)

    return read


def _queue_fill(stats: Stats) -> Values:
    yield from (((queue.name,), queue.depth / queue.size) for queue in stats.queues if queue.size)


METRICS = (
    Metric("samples", "counter", "{sample}", ("source",), "Samples delivered to the trainer.", _delivered),
    Metric("samples_skipped", "counter", "{sample}", ("source", "reason"), "Bad samples, by reason.", _skipped),
    Metric("samples_filtered", "counter", "{sample}", ("source",), "Samples that `where` left out.", _filtered),
    Metric("samples_flawed", "counter", "{sample}", ("reason",), "Samples delivered incomplete, by reason.", _flawed),
    Metric("samples_rescued", "counter", "{sample}", (), "Samples with an image that DALI refused and Pillow decoded.",
           _one(lambda stats: stats.rescued)),
    Metric("samples_dropped", "counter", "{sample}", (), "Samples that `drop_last` left out at the end.",
           _one(lambda stats: stats.dropped)),
    Metric("encoded", "counter", "By", (), "Encoded bytes of the samples that reached the decoder.",
           _one(lambda stats: stats.bytes)),
    Metric("cache_hits", "counter", "{item}", (), "Payloads and shards read from the folder of `cache_config`.",
           _one(lambda stats: stats.cache_hits)),
    Metric("cache_misses", "counter", "{item}", (), "Payloads and shards downloaded that this folder did not have.",
           _one(lambda stats: stats.cache_misses)),
    Metric("cache_read", "counter", "By", (), "Bytes read from that folder.", _one(lambda stats: stats.cache_bytes)),
    Metric("loading", "counter", "s", (), "Time in which the loader was open and not at its end. Divide waits by it.",
           _one(lambda stats: stats.seconds)),
    Metric("stage_samples", "counter", "{sample}", ("stage",),
           "Samples that left a stage: fetch, pack, decode, trainer.", _stage_samples),
    Metric("stage_wait", "counter", "s", ("stage", "side"),
           "Time that a stage waited: side `input` for the stage before it, `output` for the stage after it.",
           _stage_waits),
    Metric("process_cpu", "counter", "s", ("process",),
           "CPU time of the `feeder` process, and of the `decode` processes together.", _cpu),
    Metric("data_wait", "histogram", "s", (), "How long the trainer waited for each batch.",
           durations=lambda stats: stats.data_wait),
    Metric("step", "histogram", "s", (), "How long the trainer took between two batches, without the wait.",
           durations=lambda stats: stats.step),
    Metric("queue_samples", "gauge", "{sample}", ("queue",),
           "Samples in a queue: `fetch` (being loaded, or waiting for their turn), `bucket` (in batches not full).",
           _queues_of("samples")),
    Metric("queue_batches", "gauge", "{batch}", ("queue",),
           "Batches in a queue: `decode` (being decoded, or waiting for it), `ready` (waiting for the trainer).",
           _queues_of("batches")),
    Metric("queue_fill", "gauge", "1", ("queue",), "How full a queue is, from 0 to 1.", _queue_fill),
    Metric("epoch", "gauge", "", (), "The current epoch, counted from 0.", _one(lambda stats: stats.epoch)),
    Metric("epoch_progress", "gauge", "1", (),
           "Share of the epoch that is done, from 0 to 1. Absent if the number of samples is not known.",
           _one(lambda stats: stats.progress)),
    Metric("epoch_eta", "gauge", "s", (),
           "Time to the end of the epoch at the rate since the start. Absent if it cannot be told.",
           _one(lambda stats: stats.eta_s)),
)  # fmt: skip
"""Every metric, in the order in which docs/metrics.md lists them."""
