"""Do the decoders agree: hardware, CUDA and CPU, decoded alone and after the resize, for every kind of image.

The reference is DALI on the CPU, which is held to Pillow first. Pipelines here are bare ones, and pixels are compared
on the host: nothing of ours, and not cupy, can hide a difference or make one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.gpu.context import Context
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.graph import decode_all
from benchmarks.gpu.material import KINDS
from benchmarks.gpu.pixels import Difference
from benchmarks.gpu.ram import Payload, encoded, read

Pixels = list[NDArray[np.uint8]]

BATCH = 32
DECODED = {"mean": "<= 1", "p99.9": "<= 4", "max": "<= 16"}
RESIZED = {"mean": "<= 1", "max": "<= 8"}
PLAIN_UPSAMPLING = {"mean": "<= 4"}
"""What DALI's own tests allow where chroma is repeated instead of smoothed."""
CPU = {"max": "== 0"}
"""DALI on the CPU is Pillow, bit for bit: both are libjpeg-turbo, libpng and libwebp."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to decode on the GPU."""

    name: str
    hw_decoder_load: float
    fancy: bool

    def gates(self, crop: bool) -> dict[str, str]:
        if not self.fancy:
            return PLAIN_UPSAMPLING
        return RESIZED if crop else DECODED


VARIANTS = [
    Variant("hardware", 1.0, True),
    Variant("CUDA", 0.0, True),
    Variant("hardware, plain upsampling", 1.0, False),
    Variant("CUDA, plain upsampling", 0.0, False),
]
CPU_VARIANTS = [Variant("the CPU again", 1.0, True)]
"""Without a GPU there is nothing to compare but the way through this file."""


def run(context: Context, findings: Findings) -> None:
    for kind in KINDS:
        findings.part(kind, _kind, context, findings, kind)


def _kind(context: Context, findings: Findings, kind: str) -> None:
    payloads = read(context.material / "kinds", f"{kind}-*")
    for crop in (False, True):
        target = context.target("1mp") if crop else None
        reference = _decode(payloads, target, device_id=None)
        stage = "resized" if crop else "decoded"
        if not crop:
            _held_to_pillow(findings, kind, payloads, reference)
        for variant in VARIANTS if context.on_gpu else CPU_VARIANTS:
            options = {"hw_decoder_load": variant.hw_decoder_load, "fancy": variant.fancy}
            pixels = _decode(payloads, target, device_id=context.device_id, **options)
            _report(findings, f"{kind}, {stage}, {variant.name}", pixels, reference, variant.gates(crop))


def _held_to_pillow(findings: Findings, kind: str, payloads: list[Payload], reference: Pixels) -> None:
    shown = [np.asarray(Image.open(io.BytesIO(payload.tobytes())).convert("RGB")) for payload in payloads]
    _report(findings, f"{kind}, decoded, DALI on the CPU against Pillow", reference, shown, CPU)


def _decode(payloads: list[Payload], target: tuple[int, int] | None, **options: object) -> Pixels:
    batches = [encoded(payloads[at : at + BATCH], target) for at in range(0, len(payloads), BATCH)]
    return decode_all(batches, crop=target is not None, threads=2, **options)


def _report(findings: Findings, name: str, ours: Pixels, theirs: Pixels, gates: dict[str, str]) -> None:
    difference = Difference()
    for one, other in zip(ours, theirs, strict=True):
        difference.add(one, other)
    figures = {"mean": difference.mean, "p99.9": float(difference.quantile(0.999)), "max": float(difference.max)}
    for figure, value in figures.items():
        findings.add(f"{name}: {figure}", round(value, 4), gate=gates.get(figure, ""))
