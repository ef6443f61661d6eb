"""Which settings are best on this device, for each size of image: one factor at a time, then the best ones together."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.common import NotHere
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.ram import Payload, batches, read, timed
from tools.gpu_report.rates import Rate

FACTORS: dict[str, tuple[Any, ...]] = {
    "hw_decoder_load": (0.0, 0.65, 1.0),
    "threads": (4, 8, 16),
    "prefetch": (2, 3),
}
ALL_FACTORS: dict[str, tuple[Any, ...]] = {
    "hw_decoder_load": (0.0, 0.65, 0.9, 1.0),
    "threads": (2, 4, 8, 16),
    "batch_size": (32, 64, 128, 256),
    "prefetch": (2, 3),
}
BASE = {"hw_decoder_load": 0.65, "threads": 8, "batch_size": 64, "prefetch": 2}
SMALL: dict[str, tuple[Any, ...]] = {
    "hw_decoder_load": (0.65,), "threads": (1, 2), "batch_size": (2, 4), "prefetch": (2, 3),
}  # fmt: skip
SMALL_BASE = {"hw_decoder_load": 0.65, "threads": 2, "batch_size": 4, "prefetch": 2}
WORTH = 1.03
"""A setting has to be so much better than the base to be chosen: less is noise."""


def run(context: Context, findings: Findings) -> None:
    _sizes(context, findings, context.amount(["1mp"], ["500px"]), FACTORS)


def every_size(context: Context, findings: Findings) -> None:
    """More values, for every size."""
    _sizes(context, findings, context.amount(["500px", "2.5mp", "8mp", "1mp"], ["500px"]), ALL_FACTORS)


def _sizes(context: Context, findings: Findings, sizes: list[str], factors: dict[str, tuple[Any, ...]]) -> None:
    for number, size in enumerate(sizes):
        budget_s = context.left_s() / (len(sizes) - number)
        findings.part(size, _size, context, findings, size, context.amount(factors, SMALL), budget_s)


def _size(
    context: Context, findings: Findings, size: str, factors: dict[str, tuple[Any, ...]], budget_s: float
) -> None:
    payloads, base = read(context.material / size), dict(context.amount(BASE, SMALL_BASE))
    runs = 2 + sum(len(values) - 1 for values in factors.values())
    ends, each_s = time.monotonic() + budget_s, context.amount(budget_s / runs * 0.6, 0.1)
    first = _rate(context, payloads, size, base, each_s)
    findings.add(f"{size}, {_text(base)}", round(first.images_per_s), "images/s (base)")
    best = dict(base)
    for name, values in factors.items():
        rates = {base[name]: first.images_per_s}
        for value in values:
            if value == base[name]:
                continue
            if time.monotonic() > ends:
                raise NotHere("no time was left for the rest of the sweep")
            rates[value] = _try(context, findings, payloads, size, base | {name: value}, each_s)
            findings.add(f"{size}, {name}={value}", round(rates[value]), "images/s")
        winner = max(rates, key=lambda value: rates[value])
        if rates[winner] >= first.images_per_s * WORTH:
            best[name] = winner
    together = first.images_per_s
    if best != base:
        together = _try(context, findings, payloads, size, best, each_s)
    if together < first.images_per_s:
        best, together = base, first.images_per_s
    findings.add(f"{size}: suggested defaults", _text(best), f"({together:,.0f} images/s)")


def _try(
    context: Context, findings: Findings, payloads: list[Payload], size: str, settings: dict[str, Any], seconds: float
) -> float:
    """Images a second; 0 where the device does not manage, as for want of memory."""
    try:
        return _rate(context, payloads, size, settings, seconds).images_per_s
    except Exception as error:  # of any kind, from DALI or below
        findings.add(f"{size}, {_text(settings)}: failed", f"{type(error).__name__}: {error}"[:200])
        return 0.0


def _rate(context: Context, payloads: list[Payload], size: str, settings: dict[str, Any], seconds: float) -> Rate:
    batch_size = settings["batch_size"]
    todo = batches(payloads, batch_size, context.target(size), most=4)
    decoder = context.decoder(**settings)
    try:
        return timed(decoder, todo, seconds, warm_up=settings["prefetch"] + 1)
    finally:
        decoder.close()


def _text(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())
