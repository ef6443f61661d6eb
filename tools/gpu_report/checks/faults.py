"""What a bad image costs: its neighbours nothing, itself a count, the run some milliseconds. And what becomes of it."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import NotHere
from datago_gpu import Loader
from datago_gpu.decoders.decoder import Decoder, EncodedImages
from datago_gpu.errors import Rejected
from datago_gpu.imaging.pixels import render
from tools.gpu_report.arrays import Arrays
from tools.gpu_report.bad import Bad, bad_images
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.pixels import Difference
from tools.gpu_report.ram import Payload, decoded, encoded, read

GOOD = 8
AT = 4
"""Where in a batch of GOOD + 1 the bad one stands."""
INTACT = 16
"""A good image may go to another decoder when its batch is decoded again: so far may the two be apart."""
RIGHT_MEAN = 6.0
"""On average, of a picture that came out against Pillow's: CMYK is converted in more than one way."""
LOADS = {"hardware": 1.0, "DALI's default": None, "CUDA": 0.0}


def run(context: Context, findings: Findings) -> None:
    bad, good = _images(context)
    findings.part("what it costs", _cost, context, findings, bad, good)
    findings.part("through the loader", _through_the_loader, context, findings, bad, good)


def by_kind(context: Context, findings: Findings) -> None:
    """Each kind of bad image in a batch of good ones, for each decoder; then in large batches."""
    bad, good = _images(context)
    for name, load in LOADS.items() if context.on_gpu else [("the CPU", None)]:
        for each in bad:
            findings.part(f"{each.name}, {name}", _in_a_batch, context, findings, each, good, name, load)
    for each in bad:
        findings.part(f"{each.name}, in large batches", _in_large_batches, context, findings, each, good)


def _images(context: Context) -> tuple[list[Bad], list[Payload]]:
    files = read(context.material / "500px")
    return bad_images(files[0].tobytes()), files[1:GOOD] + files[:1]


def _in_time(context: Context) -> None:
    if not context.left_s():
        raise NotHere("no time was left")


def _with(bad: Bad, good: list[Payload], target: tuple[int, int]) -> EncodedImages:
    """A batch with the bad image in it, as if the feeder had let it pass."""
    images = encoded([*good[:AT], good[0], *good[AT:]], target)
    payloads: Any = images.payloads
    payloads[AT] = np.frombuffer(bad.payload, np.uint8)
    images.sizes[AT] = bad.size
    images.regions[AT] = (0.0, 0.0, *bad.size)
    images.orientations[AT] = 1
    return images


def _in_a_batch(
    context: Context, findings: Findings, bad: Bad, good: list[Payload], name: str, load: float | None
) -> None:
    _in_time(context)
    arrays, target = Arrays(context.device_id), context.target("500px")
    decoder = context.decoder(GOOD + 1, hw_decoder_load=load)
    reference = arrays.host(arrays.view(decoded(decoder, encoded(good, target)).image))
    result = decoded(decoder, _with(bad, good, target))
    pixels = arrays.host(arrays.view(result.image))
    decoder.close()
    where = f"{bad.name}, {name}"
    missing = [index for index in result.failures if index != AT]
    findings.add(f"{where}: good images lost", len(missing), gate="== 0")
    kept = [index for index in range(GOOD + 1) if index not in result.failures]
    difference, own = Difference(), None
    for row, index in enumerate(kept):
        if index == AT:
            own = pixels[row]
        else:
            difference.add(pixels[row], reference[index - (index > AT)])
    findings.add(f"{where}: good images, largest difference", difference.max, gate=f"<= {INTACT}")
    findings.add(f"{where}: the bad one", _outcome(bad, own, target, result.failures.get(AT, "")))


def _outcome(bad: Bad, pixels: np.ndarray | None, target: tuple[int, int], said: str) -> str:
    """In words: refused, or how far from the picture."""
    if pixels is None:
        return f"refused ({said[:100]})"
    if bad.shown is None:
        return f"came out, mean {pixels.mean():.0f}, of a picture that is not known"
    difference = Difference()
    region = (0.0, 0.0, float(bad.size[0]), float(bad.size[1]))
    shown = bad.shown.convert("RGB").resize((target[1], target[0]), box=(0, 0, region[3], region[2]))
    difference.add(pixels, np.asarray(shown))
    return f"came out {'right' if difference.mean <= RIGHT_MEAN else 'WRONG'} (from Pillow's: {difference})"


def _cost(context: Context, findings: Findings, bad: list[Bad], good: list[Payload]) -> None:
    target = context.target("500px")
    truncated = next(each for each in bad if each.name == "truncated")
    size = context.amount(64, GOOD + 1)
    many = [good[index % len(good)] for index in range(size - 1)]
    times: dict[str, list[float]] = {"good": [], "bad": [], "new": []}
    for _ in range(context.amount(7, 2)):
        if times["bad"] and context.left_s() < context.budget_s * 0.6:
            break
        began = time.perf_counter()
        decoder = context.decoder(size)
        _timed(decoder, encoded([*many, good[0]], target), times["new"], began)
        _timed(decoder, encoded([*many, good[0]], target), times["good"])
        _timed(decoder, _with(truncated, many, target), times["bad"])
        decoder.close()
    ms = {name: statistics.median(each) * 1e3 for name, each in times.items()}
    findings.add(f"a good batch of {size}", round(ms["good"], 2), "ms")
    findings.add("the same with one bad image, found and left out", round(ms["bad"], 2), "ms")
    findings.add("a new pipeline and its first batch", round(ms["new"], 2), "ms")


def _in_large_batches(context: Context, findings: Findings, bad: Bad, good: list[Payload]) -> None:
    """Again and again among many: DALI 2.4.0 may crash where it stops at one image while others are being decoded."""
    _in_time(context)
    target, size, rounds = context.target("500px"), context.amount(64, GOOD + 1), context.amount(8, 1)
    decoder = context.decoder(size)
    many = [good[index % len(good)] for index in range(size - 1)]
    lost = 0
    for _ in range(rounds):
        lost += len(decoded(decoder, _with(bad, many, target)).failures.keys() - {AT})
    decoder.close()
    findings.add(f"{bad.name}, {rounds} batches of {size}: good images lost", lost, gate="== 0")


def _timed(decoder: Decoder, images: EncodedImages, into: list[float], began: float | None = None) -> None:
    began = time.perf_counter() if began is None else began
    decoded(decoder, images)
    into.append(time.perf_counter() - began)


def _through_the_loader(context: Context, findings: Findings, bad: list[Bad], good: list[Payload]) -> None:
    """All of them in a folder: what the feeder's look at the payloads and the decoder make of them together."""
    arrays, (side, _) = Arrays(context.device_id), context.target("500px")
    folder = Path(tempfile.mkdtemp(prefix="datago_gpu-faults-"))
    try:
        for number, payload in enumerate(good):
            (folder / f"{number:02d}-good.jpg").write_bytes(payload.tobytes())
        for number, each in enumerate(bad):
            (folder / f"{number % GOOD:02d}-{each.name}.jpg").write_bytes(each.payload)
        config = {
            "source_type": "file",
            "source_config": {"root_path": str(folder), "rank": 0, "world_size": 1},
            "image_config": {"crop_and_resize": True, "default_image_size": side, "min_aspect_ratio": 1.0,
                             "max_aspect_ratio": 1.0},
            "batch_size": 8,
        }  # fmt: skip
        rubbish, delivered, by_name = [], 0, {f"{each.name}.jpg": each for each in bad}
        with Loader(config, context.device, "dali") as loader:
            for batch in loader:
                pixels = arrays.host(arrays.view(batch.image))
                delivered += sum(sample.endswith("-good.jpg") for sample in batch.ids)
                for sample, own in zip(batch.ids, pixels, strict=True):
                    known = by_name.get(sample.partition("-")[2])
                    if known and not _as_pillow(known, own):
                        rubbish.append(known.name)
            stats = loader.stats()
    finally:
        shutil.rmtree(folder)
    findings.add("through the loader: good images delivered", delivered, gate=f"== {len(good)}")
    accounted = stats.delivered + sum(stats.skipped.values())
    findings.add("through the loader: delivered or counted", accounted, gate=f"== {len(good) + len(bad)}")
    findings.add("through the loader: skipped", ", ".join(f"{n} {reason}" for reason, n in stats.skipped.items()))
    whole = [name for name in rubbish if not by_name[f"{name}.jpg"].torn]
    findings.add("through the loader: delivered as something else than Pillow shows", len(whole), gate="== 0")
    findings.add("through the loader: which, torn ones too", ", ".join(rubbish) or "none")


def _as_pillow(bad: Bad, pixels: np.ndarray) -> bool:
    """Whether a bad image that was delivered is what Pillow would have delivered."""
    high, wide = bad.size
    side = min(high, wide)
    region = ((high - side) / 2, (wide - side) / 2, float(side), float(side))
    target = (pixels.shape[0], pixels.shape[1])
    try:
        shown = render(memoryview(bad.payload), region, 1, target, draft=False, max_pixels=10**8)
    except Rejected:
        return False
    difference = Difference()
    difference.add(pixels, np.asarray(shown))
    return difference.mean <= RIGHT_MEAN
