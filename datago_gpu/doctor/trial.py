"""Decodes one image and prints the result: `python -m datago_gpu.doctor.trial DEVICE BACKEND`."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
from PIL import Image

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.decoders.device import on_host
from datago_gpu.decoders.make import make_decoder
from datago_gpu.decoders.select import Backend, choose
from datago_gpu.errors import DatagoError

_SIDE = 64


def _decode(backend: Backend) -> str:
    """Decodes a JPEG of known colour and returns a report. Raises DatagoError."""
    file = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (200, 100, 50)).save(file, "JPEG", quality=95)
    size = np.array([[_SIDE, _SIDE]], np.int32)
    images = EncodedImages(
        payloads=[np.frombuffer(file.getvalue(), np.uint8)],
        sizes=size,
        regions=np.array([[0, 0, _SIDE, _SIDE]], np.float32),
        orientations=np.ones(1, np.uint8),
        target=(_SIDE // 2, _SIDE // 2),
    )
    image = ImageConfig(crop_and_resize=True, default_image_size=_SIDE // 2, downsampling_ratio=8)
    decoder = make_decoder(backend, image, DecodeConfig(threads=1), 1)
    began = time.perf_counter()
    try:
        decoder.submit(images)
        decoded = decoder.collect()
        if decoded.image is None:
            raise DatagoError(f"a good JPEG was refused: {decoded.failures[0]}")
        seconds, colour = time.perf_counter() - began, on_host(decoded.image).mean(axis=(0, 1, 2))
    finally:
        decoder.close()
    if np.abs(colour - (200, 100, 50)).max() > 6:
        raise DatagoError(f"a JPEG of colour (200, 100, 50) was decoded as {colour.round().tolist()}")
    return f"a JPEG was decoded correctly in {seconds * 1000:.0f} ms"


if __name__ == "__main__":
    try:
        print(_decode(choose(sys.argv[1], sys.argv[2])))
    except DatagoError as problem:
        sys.exit(str(problem))
