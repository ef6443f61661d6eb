"""How near we are to the limit, in one run:

a. a bare DALI pipeline with the same graph, fed from memory (the better of two prefetch depths);
b. our decoder, fed from memory;
c. the whole loader, from local files;
d. the whole loader, from HTTP on loopback, without and with processes that download for the feeder.

The same images, batches and target for all, one after the other. Each rate is written down as soon as it is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.common import NotHere
from datago_gpu import Loader
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.graph import bare_pipeline
from tools.gpu_report.loading import drain, over_files, over_http
from tools.gpu_report.ram import RamBatch, batches, read, timed
from tools.gpu_report.rates import Meter, Rate

WARM_UP = {"500px": 16, "1mp": 16, "2.5mp": 10, "8mp": 6}
"""Batches that a loader has ready, or begun, when it is first asked: they must not count."""
DECODER, LOADER = ">= 0.95", ">= 0.85"
GATED = {"1mp", "2.5mp", "8mp"}
"""The whole loader is held to its share of the limit from 1 megapixel on."""


def run(context: Context, findings: Findings) -> None:
    _sizes(context, findings, context.amount(["1mp", "500px"], ["500px"]))


def large(context: Context, findings: Findings) -> None:
    """The same for large photographs."""
    _sizes(context, findings, context.amount(["2.5mp", "8mp"], ["1mp"]))


def _sizes(context: Context, findings: Findings, sizes: list[str]) -> None:
    for number, size in enumerate(sizes):
        findings.part(size, _size, context, findings, size, context.left_s() / (len(sizes) - number))


def _size(context: Context, findings: Findings, size: str, budget_s: float) -> None:
    if budget_s < 1:
        raise NotHere("no time was left")
    batch_size = context.amount(64, 2)
    todo = batches(read(context.material / size), batch_size, context.target(size), most=context.amount(8, 2))

    def whole(opened: AbstractContextManager[Loader]) -> tuple[Rate, str]:
        with opened as loader:
            rate, stats = drain(loader, seconds, context.amount(WARM_UP[size], 2)), loader.stats()
            return rate, f"(slowest stage: {stats.slowest}; the feeder takes {stats.feeder_cores:.0%} of a core)"

    def http(processes: int) -> tuple[Rate, str]:
        settings = {"download_processes": processes}
        return whole(over_http(context, size, batch_size=batch_size, http_config=settings))

    ways: dict[str, Callable[[], tuple[Rate, str]]] = {
        "a, bare DALI, prefetch 2": lambda: (_bare(context, todo, seconds, 2), ""),
        "a, bare DALI, prefetch 3": lambda: (_bare(context, todo, seconds, 3), ""),
        "b, our decoder": lambda: (_ours(context, todo, seconds), ""),
        "c, the loader from files": lambda: whole(over_files(context, size, batch_size=batch_size)),
        "d, the loader from HTTP": partial(http, 0),
        "d, the loader from HTTP, 2 download processes": partial(http, 2),
    }
    # Half of the time goes into starting and warming up.
    seconds = context.amount(budget_s / len(ways) / 2, 0.2)
    best: dict[str, float] = {}
    for name, way in ways.items():
        if context.left_s() < seconds:
            raise NotHere(f"no time was left for {name}")
        rate, behind = way()
        findings.add(f"{size}: {name}", str(rate), behind)
        best[name[0]] = max(best.get(name[0], 0.0), rate.images_per_s)
        if name[0] != "a":
            _ratio(context, findings, size, name, rate.images_per_s / best["a"])


def _ratio(context: Context, findings: Findings, size: str, name: str, ratio: float) -> None:
    """Of two ways that begin with the same letter, the first is the one that is held to the gate."""
    gate = {"b": DECODER, "c": LOADER if size in GATED else "", "d": LOADER if size in GATED else ""}[name[0]]
    gated = not context.small and "processes" not in name  # a few small images say nothing about speed
    what = f"{size}: {name[0]} / a" + (", 2 download processes" if "processes" in name else "")
    findings.add(what, round(ratio, 3), gate=gate if gated else "")


def _bare(context: Context, todo: list[RamBatch], seconds: float, prefetch: int) -> Rate:
    pipeline = bare_pipeline(
        (batch.images for batch in itertools.cycle(todo)),
        device_id=context.device_id,
        batch_size=len(todo[0].images),
        prefetch=prefetch,
        threads=context.amount(None, 2),
    )
    meter = Meter(seconds)
    for batch in itertools.cycle(todo):
        pipeline.run()
        meter.count(len(batch.images), batch.bytes, batch.pixels)
        if meter.over:
            break
    return meter.rate()


def _ours(context: Context, todo: list[RamBatch], seconds: float) -> Rate:
    decoder = context.decoder(len(todo[0].images))
    try:
        return timed(decoder, todo, seconds)
    finally:
        decoder.close()
