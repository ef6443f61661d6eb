"""Encoding a batch as JPEG on the device, for `pre_encode_images`: is it right, how fast, and what form it takes."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from PIL import Image

from tools.gpu_report.arrays import Arrays
from tools.gpu_report.context import Context
from tools.gpu_report.findings import Findings
from tools.gpu_report.pixels import Difference
from tools.gpu_report.ram import batches, decoded, encoded, read

QUALITY = 92
MEAN = "<= 6"
"""JPEG of this quality and 4:2:0, on small pictures full of edges."""


def run(context: Context, findings: Findings) -> None:
    findings.part("nvImageCodec", _encoded, context, findings)
    findings.part("pre_encode_images", _option, context, findings)


def _encoded(context: Context, findings: Findings) -> None:
    from nvidia import nvimgcodec

    arrays = Arrays(context.device_id)
    todo = batches(read(context.material / "500px"), context.amount(64, 4), context.target("500px"), most=1)
    decoder = context.decoder(len(todo[0].images))
    batch = arrays.view(decoded(decoder, todo[0].images).image)
    device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if context.device_id is None else context.device_id
    encoder = nvimgcodec.Encoder(device_id=device, max_num_cpu_threads=1)
    params = nvimgcodec.EncodeParams(quality_type=nvimgcodec.QualityType.QUALITY, quality_value=QUALITY)

    def encode() -> list[Any]:
        images = [nvimgcodec.as_image(batch[index]) for index in range(len(batch))]
        return [
            bytes(stream) if stream is not None else b"" for stream in encoder.encode(images, "jpeg", params=params)
        ]

    payloads = encode()
    findings.add("nvImageCodec: images not encoded", payloads.count(b""), gate="== 0")
    difference, pixels = Difference(), arrays.host(batch)
    for payload, original in zip(payloads, pixels, strict=True):
        if payload:
            difference.add(np.asarray(Image.open(io.BytesIO(payload)).convert("RGB")), original)
    findings.add("nvImageCodec: decoded again with Pillow, mean difference", round(difference.mean, 3), gate=MEAN)
    first = Image.open(io.BytesIO(next(filter(None, payloads))))
    findings.add("nvImageCodec: sampling factors", str([part[1:3] for part in getattr(first, "layer", [])]))
    began, rounds = time.perf_counter(), context.amount(20, 2)
    for _ in range(rounds):
        encode()
    seconds = time.perf_counter() - began
    findings.add("nvImageCodec: speed, bytes on the host included", round(rounds * len(batch) / seconds), "images/s")
    decoder.close()


def _option(context: Context, findings: Findings) -> None:
    """The loader's own way, whose images come as bytes."""
    payloads = read(context.material / "500px")[: context.amount(32, 4)]
    images, arrays = encoded(payloads, context.target("500px")), Arrays(context.device_id)
    plain = context.decoder(len(images))
    pixels = arrays.host(arrays.view(decoded(plain, images).image))
    plain.close()
    form = {"pre_encode_images": True, "encode_format": "jpeg", "jpeg_quality": QUALITY}
    decoder = context.decoder(len(images), image=form)
    shown = decoded(decoder, images)
    decoder.close()
    findings.add("pre_encode_images: images not encoded", len(shown.failures), gate="== 0")
    difference = Difference()
    for payload, original in zip(shown.image, pixels, strict=True):
        difference.add(np.asarray(Image.open(io.BytesIO(payload)).convert("RGB")), original)
    findings.add("pre_encode_images: from the pixels, mean difference", round(difference.mean, 3), gate=MEAN)
