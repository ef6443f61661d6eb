"""Is memory left alone while it is in use: the hazard of Hopper's JPEG engines, and ours of giving memory back.

Batches come out of the decoder, are read late (behind a delay, on other streams), held, overwritten and dropped, while
the next ones are decoded. Every image is compared, on the device, with what the same decoder made of it in peace.

An engine that writes before earlier work on its stream is done, or memory that is given back too early, shows as images
that are far from their reference: overwritten with PATTERN or with another picture.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common import NotHere
from datago_gpu.decoders.decoder import DecodedImages, Decoder
from tools.gpu_report.arrays import Arrays
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.graph import bare_pipeline, on_host
from tools.gpu_report.ram import RamBatch, batches, decoded, pump, read

PATTERN = 0xA5
CORRUPT = 32
"""A difference no decoder makes (the gate of parity is 8), and any overwriting does."""
LOADS = {"DALI's default": None, "all hardware": 1.0, "no hardware": 0.0}


@dataclass(slots=True)
class Stress:
    """Reads late, holds, overwrites and drops what a decoder hands out, and keeps score.

    references: (batch's id) -> its images as they should be.
    """

    arrays: Arrays
    references: dict[int, list[Any]]
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    worst: list[Any] = field(default_factory=list)
    """The largest difference of each image, still on the device."""
    held: deque[tuple[int, list[Any], bool, Any]] = field(default_factory=deque)
    streams: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.streams = self.arrays.streams(2)

    def take(self, batch: RamBatch, result: DecodedImages) -> None:
        """One batch, of which the caller keeps nothing."""
        whole = isinstance(result.image, list)
        stream = self.rng.choice(self.streams)
        with self.arrays.on(stream):
            views = [self.arrays.view(image) for image in (result.image if whole else [result.image])]
            treatment = self.rng.choice(("drop", "hold", "overwrite and hold"))
            # So that the work below is still queued when the batch is dropped; everywhere: DALI's own is late, too.
            self.arrays.delay(self.rng.uniform(0.2, 2.0), everywhere=self.rng.random() < 0.5)
            if treatment == "hold":
                self.held.append((id(batch), views, False, stream))
            else:
                self._compare(id(batch), views)
                for view in views:
                    view.fill(PATTERN)
                if treatment == "overwrite and hold":
                    self.held.append((id(batch), views, True, stream))
            del views
        while len(self.held) > self.rng.randint(2, 8):
            self.release()

    def release(self) -> None:
        """Compare what was held longest, on the stream that it was handed to, and drop it."""
        key, views, overwritten, stream = self.held.popleft()
        with self.arrays.on(stream):
            if overwritten:
                self.worst += [self._apart(view, self.arrays.xp.uint8(PATTERN)).reshape(1) for view in views]
            else:
                self._compare(key, views)

    def finish(self) -> np.ndarray[Any, Any]:
        """The largest difference of each image (and of each overwritten batch, from the pattern)."""
        while self.held:
            self.release()
        self.arrays.synchronize()
        return np.concatenate([self.arrays.host(each) for each in self.worst])

    def _compare(self, key: int, views: list[Any]) -> None:
        for view, reference in zip(views, self.references[key], strict=True):
            axes = (1, 2, 3) if view.ndim == 4 else None
            self.worst.append(self._apart(view, reference, axes).reshape(-1))

    def _apart(self, one: Any, other: Any, axes: Any = None) -> Any:
        xp = self.arrays.xp
        return (xp.maximum(one, other) - xp.minimum(one, other)).max(axis=axes)


def run(context: Context, findings: Findings) -> None:
    for name, load in LOADS.items() if context.on_gpu else [("the CPU", None)]:
        findings.part(f"resized, {name}", _stress, context, findings, name, load, True)
    name = "all hardware" if context.on_gpu else "the CPU"
    findings.part(f"whole images, {name}", _stress, context, findings, name, 1.0, False)
    findings.part("cost of a synchronisation", _cost, context, findings)


def unguarded(context: Context, findings: Findings) -> None:
    """Writes into memory that has gone back to DALI, which may be a decoder's own: nothing should run after it."""
    findings.part("the hazard without our guard", _unguarded, context, findings)


def _todo(context: Context, *, crop: bool) -> list[RamBatch]:
    size = context.amount("1mp", "500px")
    target = context.target("500px") if crop else None
    return batches(read(context.material / size), context.amount(16 if crop else 8, 4), target, most=8)


def _stress(context: Context, findings: Findings, name: str, load: float | None, crop: bool) -> None:
    arrays, todo = Arrays(context.device_id), _todo(context, crop=crop)
    batch_size = len(todo[0].images)
    decoder = context.decoder(batch_size, crop=crop, prefetch=3, hw_decoder_load=load)
    stress = Stress(arrays, _references(decoder, todo, arrays))
    wanted, limit_s = context.amount(500, 12), context.budget_s / 6
    passed, began = 0, time.monotonic()

    def endless() -> Iterable[RamBatch]:
        nonlocal passed
        while passed < wanted and (time.monotonic() - began < limit_s or passed < 8):
            passed += 1
            yield todo[passed % len(todo)]

    pump(decoder, endless(), stress.take)
    worst = stress.finish()
    decoder.close()
    where = f"{'resized' if crop else 'whole images'}, {name}"
    findings.add(f"{where}: batches", passed, f"of {batch_size} images", f">= {min(wanted, 100)}")
    findings.add(f"{where}: corrupted", int((worst > CORRUPT).sum()), "images", "== 0")
    # With DALI's default load an image may go to another decoder than it did in peace.
    findings.add(f"{where}: not the very same pixels", int((worst > 0).sum()), "images")
    findings.add(f"{where}: largest difference", int(worst.max()), "of 255")


def _references(decoder: Decoder, todo: list[RamBatch], arrays: Arrays) -> dict[int, list[Any]]:
    """Each batch decoded alone, copied, with the device idle before and after."""
    references = {}
    for batch in todo:
        arrays.synchronize()
        image = decoded(decoder, batch.images).image
        views = [arrays.view(each) for each in (image if isinstance(image, list) else [image])]
        references[id(batch)] = [view.copy() for view in views]
        arrays.synchronize()
    return references


def _unguarded(context: Context, findings: Findings) -> None:
    """What happens when memory goes back to DALI while kernels are queued on it: whether we could see it at all."""
    if not context.on_gpu:
        raise NotHere("not on this device: the CPU has no streams")
    arrays, todo = Arrays(context.device_id), _todo(context, crop=True)
    rounds = context.amount(100, 16)
    source = [todo[number % len(todo)].images for number in range(rounds)]
    pipeline = bare_pipeline(
        source, device_id=context.device_id, batch_size=len(todo[0].images), prefetch=1, hw_decoder_load=1.0
    )
    references: dict[int, Any] = {}
    corrupted, stream = 0, arrays.streams(1)[0]
    for number in range(rounds):
        (output,) = pipeline.run()
        pixels = np.stack(on_host(output))
        reference = references.setdefault(number % len(todo), pixels)
        apart = np.maximum(pixels, reference) - np.minimum(pixels, reference)
        corrupted += int((apart.max(axis=(1, 2, 3)) > CORRUPT).sum())
        if number >= len(todo):  # by now there are references
            with arrays.on(stream):
                arrays.delay(5.0)
                arrays.xp.asarray(output.as_tensor()).fill(PATTERN)
        del output
    findings.add("without our guard: corrupted", corrupted, f"of {rounds * len(todo[0].images)} images")


def _cost(context: Context, findings: Findings) -> None:
    """The fix that torchcodec chose: wait for the device before each decode."""
    if context.left_s() < context.budget_s / 10:
        raise NotHere("no time was left")
    arrays, todo = Arrays(context.device_id), _todo(context, crop=True)
    decoder = context.decoder(len(todo[0].images), prefetch=2)
    seconds = {}
    for waits in (False, True, False, True):
        before_each = arrays.synchronize if waits else lambda: None
        began = time.perf_counter()
        rounds = (todo[number % len(todo)] for number in range(context.amount(60, 6)))
        pump(decoder, rounds, lambda *_, wait=before_each: wait())
        seconds[waits] = time.perf_counter() - began
    decoder.close()
    findings.add("speed with a synchronisation before each batch", round(seconds[False] / seconds[True], 3), "x")
