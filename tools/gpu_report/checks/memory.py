"""Where memory levels off: device and host, over many batches of mixed sizes; and how to get it back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from tools.gpu_report.arrays import Arrays, host_mib, resident_mib
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.ram import Payload, RamBatch, batches, pump, read

SHARES = {"500px": 0.6, "1mp": 0.28, "2.5mp": 0.1, "8mp": 0.02}
TARGETS = ((512, 512), (448, 576), (576, 448), (384, 672))
GROWTH_MIB = 256
"""From the middle to the end of the run. The largest batch may come late; a leak of a batch a time comes to GiBs."""


def run(context: Context, findings: Findings) -> None:
    findings.part("mixed sizes", _mixed, context, findings)
    findings.part("giving back", _giving_back, context, findings)


def _mixed(context: Context, findings: Findings) -> None:
    arrays, wanted = Arrays(context.device_id), context.amount(600, 40)
    device, resident, host = arrays.used_mib(), resident_mib(), host_mib()
    findings.add("before: device", round(device), "MiB in use")
    decoder = context.decoder(context.amount(32, 4), prefetch=3)
    marks = sorted({max(1, wanted * percent // 100) for percent in (1, 5, 10, 25, 50, 75, 100)})
    levels: dict[int, tuple[float, float, float]] = {}
    state = {"batches": 0}

    def each(_batch: RamBatch, _result: object) -> None:
        state["batches"] += 1
        if state["batches"] in marks:
            levels[state["batches"]] = (arrays.used_mib() - device, resident_mib() - resident, host_mib() - host)

    ends = time.monotonic() + context.left_s() * 0.9
    pump(decoder, _stream(context, wanted, ends), each)
    levels.setdefault(state["batches"], (arrays.used_mib() - device, resident_mib() - resident, host_mib() - host))
    decoder.close()
    findings.add("batches", state["batches"], f"of {wanted}")
    where = "device" if arrays.on_gpu else "this process (there is no device)"
    for count, (of_device, of_process, of_host) in levels.items():
        text = f"{where} {of_device:+,.0f}, this process {of_process:+,.0f}, this machine's host {of_host:+,.0f}"
        findings.add(f"after {count} batches", text, "MiB")
    half = min(levels, key=lambda count: abs(count - state["batches"] / 2))
    growth = levels[state["batches"]][0] - levels[half][0]
    findings.add(f"growth from batch {half} to the end: device", round(growth, 1), "MiB", f"<= {GROWTH_MIB}")
    growth = levels[state["batches"]][1] - levels[half][1]
    findings.add(f"growth from batch {half} to the end: this process", round(growth, 1), "MiB", f"<= {GROWTH_MIB}")


def _stream(context: Context, count: int, ends: float) -> Iterator[RamBatch]:
    """Batches of random images, in random numbers and for random targets; the same ones each run."""
    rng = random.Random(0)
    payloads: dict[str, list[Payload]] = {size: read(context.material / size) for size in context.sizes}
    weights = [SHARES[size] for size in payloads]
    most = context.amount(32, 4)
    for number in range(count):
        if time.monotonic() > ends:
            return
        # The first batch is full: it fixes the hardware decoder's share.
        size = most if number == 0 or rng.random() < 0.7 else rng.randint(1, most)
        picked = [rng.choice(payloads[name]) for name in rng.choices(list(payloads), weights, k=size)]
        yield batches(picked, size, rng.choice(TARGETS), most=1)[0]


def _giving_back(context: Context, findings: Findings) -> None:
    """With no pipeline left: what the pools keep, what ReleaseUnusedMemory gives back, and what a fresh start costs."""
    from nvidia.dali import backend

    arrays = Arrays(context.device_id)
    before, resident = arrays.used_mib(), resident_mib()
    backend.ReleaseUnusedMemory()  # type: ignore[attr-defined,unused-ignore]  # its stub lacks it
    where = "device" if arrays.on_gpu else "this process"
    findings.add(f"kept by the pools with no pipeline left: {where}", round(before), "MiB in use")
    findings.add(f"given back by ReleaseUnusedMemory: {where}", round(before - arrays.used_mib(), 1), "MiB")
    findings.add("given back by ReleaseUnusedMemory: this process", round(resident - resident_mib(), 1), "MiB")
