"""Does the GPU path work at all? Ends at the first thing that is wrong: nothing else would mean anything then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Self

import numpy as np

from benchmarks.common import NotHere
from datago_gpu.decoders.decoder import EncodedImages
from tools.gpu_report.arrays import Arrays
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.loading import over_files
from tools.gpu_report.pixels import Difference
from tools.gpu_report.ram import decoded, encoded, read
from tools.gpu_report.turned import turned

LOADS = {"hardware": 1.0, "CUDA": 0.0, "both": None}
MEAN = "<= 2"
TURNED_MEAN = 6.0
"""Of a picture that is turned otherwise than it should be, the mean is above 40."""


def run(context: Context, findings: Findings) -> None:
    payloads = read(context.material / "500px")[: context.amount(64, 4)]
    images = encoded(payloads, context.target("500px"))
    parts: dict[str, Callable[[], None]] = {"imports": partial(_imports, context, findings)}
    for name, load in LOADS.items() if context.on_gpu else [("the CPU", None)]:
        parts[f"pixels, {name}"] = partial(_pixels, context, findings, images, name, load)
        parts[f"orientations, {name}"] = partial(_orientations, context, findings, name, load)
    parts["torch"] = partial(_torch, context, findings, images)
    parts["the loader"] = partial(_loader, context, findings)
    for name, do in parts.items():
        findings.part(name, do)
        if findings.bad:
            return


def _imports(context: Context, findings: Findings) -> None:
    import nvidia.dali

    Arrays(context.device_id).synchronize()
    findings.add("backend", f"{context.backend}, DALI {nvidia.dali.__version__}")


def _pixels(context: Context, findings: Findings, images: EncodedImages, name: str, load: float | None) -> None:
    """The same pixels as on the CPU. Also: what making and closing a pipeline takes, and of other threads."""
    arrays = Arrays(context.device_id)
    reference = context.decoder(len(images), reference=True)
    expected = np.asarray(decoded(reference, images).image)
    reference.close()
    with _Standstill() as standstill:
        clock = time.perf_counter()
        decoder = context.decoder(len(images), hw_decoder_load=load)
        made = time.perf_counter() - clock
    findings.add(f"{name}: a decoder is made in", round(made * 1e3), "ms")
    findings.add(f"{name}: for which Python stands still for", round(standstill.longest_s * 1e3), "ms")
    clock = time.perf_counter()
    image = decoded(decoder, images).image
    findings.add(f"{name}: the first batch takes", round((time.perf_counter() - clock) * 1e3), "ms")
    difference = Difference()
    difference.add(arrays.host(arrays.view(image)), expected)
    del image
    clock = time.perf_counter()
    decoder.close()
    findings.add(f"{name}: the decoder is closed in", round((time.perf_counter() - clock) * 1e3), "ms")
    findings.add(f"{name}: from the CPU's pixels", round(difference.mean, 3), f"({difference})", MEAN)


class _Standstill:
    """Watches, from another thread, for how long Python stands still. A context manager."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.perf_counter()
        while not self._over.is_set():
            time.sleep(0)
            now = time.perf_counter()
            self.longest_s, last = max(self.longest_s, now - last), now


def _orientations(context: Context, findings: Findings, name: str, load: float | None) -> None:
    arrays, pictures = Arrays(context.device_id), turned()
    decoder = context.decoder(8, crop=False, hw_decoder_load=load)
    shown = [arrays.host(arrays.view(image)) for image in decoded(decoder, encoded(pictures.payloads, None)).image]
    decoder.close()
    wrong = [number for number, image in enumerate(shown, 1) if not _alike(image, pictures.shown)]
    findings.add(f"{name}: EXIF orientations that come out wrong", len(wrong), f"of 8 {wrong or ''}".strip(), "== 0")


def _alike(image: np.ndarray, expected: np.ndarray) -> bool:
    if image.shape != expected.shape:
        return False
    return float(np.abs(image.astype(np.int16) - expected).mean()) <= TURNED_MEAN


def _torch(context: Context, findings: Findings, images: EncodedImages) -> None:
    try:
        import torch
    except ImportError as error:
        raise NotHere(f"torch cannot be imported: {error}") from error
    if context.on_gpu and not torch.cuda.is_available():
        raise NotHere("this torch was built without CUDA, or sees no GPU")
    arrays = Arrays(context.device_id)
    decoder = context.decoder(len(images))
    image = decoded(decoder, images).image
    tensor = torch.from_dlpack(image)
    same = np.array_equal(tensor.cpu().numpy(), arrays.host(arrays.view(image)))
    findings.add("torch.from_dlpack: on the device, the same pixels", int(same and tensor.is_cuda == context.on_gpu),
                 f"({tuple(tensor.shape)} {tensor.dtype} {tensor.device})", "== 1")  # fmt: skip
    del image, tensor
    decoder.close()


def _loader(context: Context, findings: Findings) -> None:
    """Feeder, shared memory and decoder together."""
    size = context.amount(32, 4)
    with over_files(context, "500px", batch_size=size) as loader:
        batches = [next(loader) for _ in range(3)]
        findings.add("the loader: images in three batches", sum(map(len, batches)), gate=f"== {3 * size}")
        findings.add("the loader: backend", str(loader.backend))
