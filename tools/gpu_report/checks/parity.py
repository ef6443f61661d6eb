"""Do the decoders agree: hardware, CUDA and CPU, decoded alone and after the resize, for every kind of image.

The reference is DALI on the CPU, which is held to Pillow first. Pipelines for the kinds are bare ones, and pixels are
compared on the host: nothing of ours, and not cupy, can hide a difference or make one. Our own decoder then shows that
orientations, the forms of images other than bytes in HWC, and masks are those of the CPU.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import NotHere
from datago_gpu.decoders.decoder import EncodedImages
from tools.gpu_report.arrays import Arrays
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.graph import decode_all
from tools.gpu_report.material import KINDS
from tools.gpu_report.pixels import Difference
from tools.gpu_report.ram import Payload, decoded, encoded, read
from tools.gpu_report.turned import turned

Pixels = list[NDArray[np.uint8]]

BATCH = 32
DECODED = {"mean": "<= 1", "p99.9": "<= 4", "max": "<= 16"}
RESIZED = {"mean": "<= 1", "max": "<= 8"}
PLAIN_UPSAMPLING = {"mean": "<= 4"}
"""What DALI's own tests allow where chroma is repeated instead of smoothed."""
TURNED = {"mean": "<= 4"}
"""Of pictures of hard edges, at which decoders differ. One that is turned otherwise is 40 off at the mean."""
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


VARIANTS = [Variant("hardware", 1.0, True), Variant("CUDA", 0.0, True)]
PLAIN = [Variant("hardware, plain upsampling", 1.0, False), Variant("CUDA, plain upsampling", 0.0, False)]
CPU_VARIANTS = [Variant("the CPU again", 1.0, True)]
"""Without a GPU there is nothing to compare but the way through this file."""

FORMS: dict[str, dict[str, Any]] = {
    "HWC uint8": {},
    "CHW uint8": {"layout": "CHW"},
    "CHW float16": {"layout": "CHW", "dtype": "float16", "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 0.5)},
    "HWC float32": {"dtype": "float32"},
    "CHW bfloat16": {"layout": "CHW", "dtype": "bfloat16", "mean": (0.5, 0.4, 0.3)},
}


def run(context: Context, findings: Findings) -> None:
    variants = VARIANTS if context.on_gpu else CPU_VARIANTS
    for variant in variants:
        findings.part(f"orientations, {variant.name}", _orientations, context, findings, variant)
        findings.part(f"forms, {variant.name}", _forms, context, findings, variant)
    findings.part("masks", _masks, context, findings)
    for kind in KINDS:
        findings.part(kind, _kind, context, findings, kind, variants)


def plain(context: Context, findings: Findings) -> None:
    """The same for upsampling that repeats chroma, DALI's default on a GPU."""
    if not context.on_gpu:
        raise NotHere("not on this device: the CPU has fancy upsampling only")
    for kind in KINDS:
        findings.part(kind, _kind, context, findings, kind, PLAIN)


def _orientations(context: Context, findings: Findings, variant: Variant) -> None:
    """Whole, and a region that is not in the middle, scaled: wrong turns show as another picture."""
    pictures = turned(240, 320)
    for crop in (False, True):
        images = encoded(pictures.payloads, (96, 64) if crop else None)
        if crop:
            images.regions[:] = (24, 16, 180, 120)
        ours, theirs = _both(context, images, crop=crop, hw_decoder_load=variant.hw_decoder_load)
        stage = "resized" if crop else "decoded"
        _report(findings, f"orientations, {stage}, {variant.name}", ours, theirs, TURNED)


def _forms(context: Context, findings: Findings, variant: Variant) -> None:
    payloads = read(context.material / "500px")[: context.amount(16, 2)]
    images = encoded(payloads, context.target("500px"))
    for name, form in FORMS.items():
        ours, theirs = _both(context, images, image=form, hw_decoder_load=variant.hw_decoder_load)
        # In levels, so that the gates are those of the bytes.
        scale = 255.0 * max(form.get("std", (1.0,))) if "dtype" in form else 1.0
        pairs = zip(map(_numbers, ours), map(_numbers, theirs), strict=True)
        apart = [np.abs(one - other) * scale for one, other in pairs]
        same = all(
            one.dtype == other.dtype and one.shape == other.shape for one, other in zip(ours, theirs, strict=True)
        )
        what = f"{name}, {variant.name}"
        findings.add(f"{what}: dtype and shape as on the CPU", int(same), f"{ours[0].dtype} {ours[0].shape}", "== 1")
        findings.add(f"{what}: mean", round(float(np.mean(apart)), 4), "levels", RESIZED["mean"])
        findings.add(f"{what}: max", round(float(np.max(apart)), 2), "levels", "<= 9")


def _numbers(array: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the numbers of images. Decoders hand out bfloat16 as bits, in arrays of uint16."""
    bits = array.dtype == np.uint16
    return ((array.astype(np.uint32) << 16).view(np.float32) if bits else array).astype(np.float64)


def _masks(context: Context, findings: Findings) -> None:
    """Labels, cut and scaled without blending: the very same numbers."""
    labels = (np.indices((300, 400)) // 37).sum(axis=0).astype(np.uint8) % 21
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    images = encoded([np.frombuffer(file.getvalue(), np.uint8)] * 4, context.target("500px"))
    ours, theirs = _both(context, images, mask=True)
    _report(findings, "masks", ours, theirs, {"max": "== 0"})
    findings.add("masks: the largest label", max(int(mask.max()) for mask in ours), gate=">= 10")


def _both(context: Context, images: EncodedImages, **options: Any) -> tuple[Pixels, Pixels]:
    """What our decoder makes of some images on the device, and with DALI on the CPU."""
    found = []
    for reference in (False, True):
        decoder = context.decoder(len(images), reference=reference, **options)
        arrays = Arrays(None if reference else context.device_id)
        shown = decoded(decoder, images).image
        found.append([arrays.host(arrays.view(shown[index])) for index in range(len(images))])
        del shown
        decoder.close()
    return found[0], found[1]


def _kind(context: Context, findings: Findings, kind: str, variants: list[Variant]) -> None:
    payloads = read(context.material / "kinds", f"{kind}-*")
    for crop in (False, True):
        target = context.target("1mp") if crop else None
        reference = _decode(payloads, target, device_id=None)
        stage = "resized" if crop else "decoded"
        if not crop:
            _held_to_pillow(findings, kind, payloads, reference)
        for variant in variants:
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
