"""Pictures with known pixels, and batches of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datago_gpu.decoders.decoder import DecodedImages, Decoder, EncodedImages
from datago_gpu.imaging.geometry import Cut, cover_region, full_region
from tools.gpu_report.turned import STORED

Pixels = NDArray[np.uint8]


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth waves in every channel, each seed its own, between 40 and 215.

    Away from 0 and 255, since resizers clip between their two passes or after them.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    channels = []
    for _ in range(3):
        rise, run, start = rng.uniform(0.02, 0.15), rng.uniform(0.02, 0.15), rng.uniform(0, 6)
        channels.append(127.5 + 87 * np.sin(rise * y + run * x + start))
    return np.stack(channels, axis=-1).astype(np.uint8)


def encode(image: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def oriented_jpeg(shown: Pixels, orientation: int) -> bytes:
    """A JPEG that is to be displayed as `shown`, stored as a camera held that way stores it."""
    image = Image.fromarray(shown)
    if orientation in STORED:
        image = image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", quality=95, subsampling=0, exif=exif)


def batch(
    payloads: list[bytes],
    sizes: list[tuple[int, int]],
    target: tuple[int, int] | None,
    *,
    regions: list[tuple[float, float, float, float]] | None = None,
    orientations: list[int] | None = None,
) -> EncodedImages:
    """A batch as the feeder sends it; without `regions`, the ones that cover the target."""
    if regions is None:
        regions = [cover_region(*size, target) if target else (0.0, 0.0, *size) for size in sizes]
    return EncodedImages(
        payloads=[np.frombuffer(payload, np.uint8) for payload in payloads],
        sizes=np.array(sizes, np.int32),
        regions=np.array(regions, np.float32),
        orientations=np.array(orientations or [1] * len(sizes), np.uint8),
        target=target,
    )


def pictures(count: int, target: tuple[int, int] | None, seed: int = 0, side: int = 48) -> EncodedImages:
    """A batch of `count` different PNG pictures."""
    shapes = [(side + index % 3, side + 7 - index % 5) for index in range(count)]
    payloads = [encode(picture(*shape, seed=seed + index)) for index, shape in enumerate(shapes)]
    return batch(payloads, shapes, target)


def decode(decoder: Decoder, images: EncodedImages) -> DecodedImages:
    decoder.submit(images)
    return decoder.collect()


def on_host(image: Any) -> NDArray[Any]:
    """What a decoder handed out, as a numpy array."""
    if isinstance(image, np.ndarray):
        return image
    import cupy

    return cupy.asnumpy(cupy.from_dlpack(image))


def difference(a: Any, b: Any) -> NDArray[np.float64]:
    return np.abs(on_host(a).astype(np.float64) - on_host(b).astype(np.float64))


def uncut(height: int, width: int) -> list[Cut]:
    """What to show, for `to_ppm`: all of the image, at its own size."""
    return [(full_region(height, width), None)]
