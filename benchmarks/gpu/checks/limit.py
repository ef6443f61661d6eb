"""How near we are to the limit, in one run:

a. a bare DALI pipeline with the same graph, fed from memory (the better of two prefetch depths);
b. our decoder, fed from memory;
c. the whole loader, from local files;
d. the whole loader, from HTTP on loopback, without and with processes that download for the feeder.

The same images, batches and target for all. They take turns, so that a change of the machine's mood hits all.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.gpu.context import Context
from benchmarks.gpu.findings import Findings, NotHere
from benchmarks.gpu.graph import bare_pipeline
from benchmarks.gpu.loading import drain, over_files, over_http
from benchmarks.gpu.ram import RamBatch, batches, read, timed
from benchmarks.gpu.rates import Meter, Rate
from datago_gpu import Loader

ROUNDS = 2
WARM_UP = {"500px": 16, "1mp": 16, "2.5mp": 10, "8mp": 6}
"""Batches that a loader has ready, or begun, when it is first asked: they must not count."""
DECODER, LOADER = ">= 0.95", ">= 0.85"
GATED = {"1mp", "2.5mp", "8mp"}
"""The whole loader is held to its share of the limit from 1 megapixel on."""


def run(context: Context, findings: Findings) -> None:
    for size in context.amount(["1mp", "500px", "2.5mp", "8mp"], ["500px"]):
        findings.part(size, _size, context, findings, size, context.budget_s / len(context.sizes))


def _size(context: Context, findings: Findings, size: str, budget_s: float) -> None:
    if not context.left_s():
        raise NotHere("no time was left")
    batch_size = context.amount(64, 2)
    # Half of the time goes into starting and warming up.
    seconds = context.amount(budget_s / ROUNDS / 5 / 2, 0.2)
    todo = batches(read(context.material / size), batch_size, context.target(size), most=context.amount(8, 2))
    warm_up = context.amount(WARM_UP[size], 2)
    behind: dict[str, str] = {}

    def whole(name: str, opened: AbstractContextManager[Loader]) -> Rate:
        with opened as loader:
            rate, stats = drain(loader, seconds, warm_up), loader.stats()
            behind[name] = (
                f"; the slowest stage is {stats.slowest}, the feeder takes {stats.feeder_cores:.0%} of a core"
            )
            return rate

    def files(name: str) -> Rate:
        return whole(name, over_files(context, size, batch_size=batch_size))

    def http(name: str, processes: int) -> Rate:
        settings = {"download_processes": processes}
        return whole(name, over_http(context, size, batch_size=batch_size, http_config=settings))

    ways: dict[str, Callable[[str], Rate]] = {
        "a, bare DALI, prefetch 2": lambda _: _bare(context, todo, seconds, 2),
        "a, bare DALI, prefetch 3": lambda _: _bare(context, todo, seconds, 3),
        "b, our decoder": lambda _: _ours(context, todo, seconds),
        "c, the loader from files": files,
        "d, the loader from HTTP": partial(http, processes=0),
        "d, the loader from HTTP, 2 download processes": partial(http, processes=2),
    }
    rates: dict[str, list[Rate]] = {name: [] for name in ways}
    for _ in range(context.amount(ROUNDS, 1)):
        for name, way in ways.items():
            rates[name].append(way(name))
    for name, found in rates.items():
        spread = ", ".join(f"{rate.images_per_s:,.0f}" for rate in found)
        findings.add(f"{size}: {name}", str(_median(found)), f"({spread}){behind.get(name, '')}")
    _ratios(context, findings, size, rates)


def _ratios(context: Context, findings: Findings, size: str, rates: dict[str, list[Rate]]) -> None:
    of = {
        letter: max(_median(found).images_per_s for name, found in rates.items() if name[0] == letter)
        for letter in "abcd"
    }
    measured = not context.small  # a few small images say nothing about speed
    findings.add(f"{size}: b / a", round(of["b"] / of["a"], 3), gate=DECODER if measured else "")
    for letter in "cd":
        gate = LOADER if measured and size in GATED else ""
        findings.add(f"{size}: {letter} / a", round(of[letter] / of["a"], 3), gate=gate)


def _median(rates: list[Rate]) -> Rate:
    middle = statistics.median_high(rate.images_per_s for rate in rates)
    return next(rate for rate in rates if rate.images_per_s == middle)


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
