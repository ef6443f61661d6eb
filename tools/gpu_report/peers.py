"""Other loaders and decoders on the same images, where they are installed. Each one's name says what it leaves out."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tools.gpu_report.context import Context
from tools.gpu_report.findings import NotHere
from tools.gpu_report.ram import RamBatch, batches, encoded, read
from tools.gpu_report.rates import Meter, Rate

__all__ = ["PEERS", "PillowFiles", "torch_batches"]

BATCH, THREADS = 64, 4


class PillowFiles:
    """What a torch Dataset usually is: open, decode, cut and scale with Pillow. Goes round over a folder for ever."""

    def __init__(self, folder: Path, target: tuple[int, int], count: int) -> None:
        self._paths = [str(path) for path in sorted(folder.rglob("*.jpg"))]
        self._target, self._count = target, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int, int]:
        """Pixels, bytes of the file, pixels of the original."""
        payload = Path(self._paths[index % len(self._paths)]).read_bytes()
        with Image.open(io.BytesIO(payload)) as image:
            pixels = image.width * image.height
            cut = ImageOps.fit(image.convert("RGB"), self._target[::-1], Image.Resampling.LANCZOS)
        return np.array(cut), len(payload), pixels


def torch_batches(context: Context, size: str, batch_size: int) -> Iterator[tuple[Any, int, int]]:
    """Batches of a torch DataLoader on all cores, on the device: (images, bytes, pixels of the originals)."""
    import torch
    from torch.utils.data import DataLoader

    files = PillowFiles(context.material / size, context.target(size), 10_000_000)
    workers = context.amount(len(os.sched_getaffinity(0)), 1)
    # Not forked: CUDA and DALI run in this process already.
    loader = DataLoader(
        files, batch_size, num_workers=workers, multiprocessing_context="spawn", pin_memory=context.on_gpu,
        prefetch_factor=2,
    )  # type: ignore[arg-type,unused-ignore]  # fmt: skip
    device = torch.device(context.device if context.on_gpu else "cpu")
    for images, sizes, pixels in loader:
        yield images.to(device, non_blocking=True), int(sizes.sum()), int(pixels.sum())


def _torch(context: Context, size: str, seconds: float) -> Rate:
    meter = Meter(seconds, context.amount(40, 2))  # past what the workers have ready
    for images, byte_count, pixels in torch_batches(context, size, context.amount(BATCH, 4)):
        meter.count(len(images), byte_count, pixels)
        if meter.over:
            break
    return meter.rate()


def _datago(context: Context, size: str, seconds: float) -> Rate:
    from datago import DatagoClient

    side, batch = context.target(size)[0], context.amount(BATCH, 2)
    image = {"crop_and_resize": True, "default_image_size": side, "downsampling_ratio": 32, "min_aspect_ratio": 1.0,
             "max_aspect_ratio": 1.0, "image_to_rgb8": True}  # fmt: skip
    files = read(context.material / size)
    pixels = int(encoded(files, None).sizes.astype(np.int64).prod(axis=1).mean())
    byte_count = sum(file.size for file in files) // len(files)
    config = {"source_type": "file", "source_config": {"root_path": str(context.material / size)},
              "image_config": image, "limit": len(files), "prefetch_buffer_size": batch,
              "samples_buffer_size": batch}  # fmt: skip
    # It ends with the folder: start it again until there is enough. Its start counts, as it would in an epoch.
    meter = Meter(seconds, 1)
    meter.count(0)
    while not meter.over:
        client = DatagoClient(json.dumps(config))
        client.start()
        taken = 0
        while taken < len(files) and (sample := client.get_sample()) is not None:
            meter.count(int(sample.image.get_payload().to_numpy_array().ndim == 3), byte_count, pixels)
            taken += 1
        client.stop()
        if not taken:
            raise NotHere("datago gave no samples")
    return meter.rate()


def _torchvision(context: Context, size: str, seconds: float) -> Rate:
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(batch: list[Any]) -> Any:
        return decode_jpeg(batch, mode=ImageReadMode.RGB, device=_torch_device(context))

    return _decoding(context, size, seconds, decode)


def _torchcodec(context: Context, size: str, seconds: float) -> Rate:
    from torchcodec.decoders import decode_jpeg

    def decode(batch: list[Any]) -> Any:
        return [decode_jpeg(payload, device=_torch_device(context)) for payload in batch]

    return _decoding(context, size, seconds, decode)


def _spdl(context: Context, size: str, seconds: float) -> Rate:
    import spdl.io

    if context.device_id is None:
        raise NotHere("not on this device: nvJPEG only")
    config = spdl.io.cuda_config(device_index=context.device_id)
    height, width = context.target(size)

    def decode(batch: list[Any]) -> Any:
        payloads = [payload.numpy().tobytes() for payload in batch]
        return spdl.io.load_image_batch_nvjpeg(payloads, device_config=config, width=width, height=height)

    return _decoding(context, size, seconds, decode)


def _decoding(context: Context, size: str, seconds: float, decode: Callable[[list[Any]], Any]) -> Rate:
    """Batches from memory, a few at a time, each on a thread."""
    import torch

    todo = batches(read(context.material / size), context.amount(BATCH, 4), None, most=8)
    tensors = {id(batch): [torch.from_numpy(payload.copy()) for payload in batch.images.payloads] for batch in todo}
    meter = Meter(seconds)

    def one(batch: RamBatch) -> RamBatch:
        decode(tensors[id(batch)])
        if context.on_gpu:
            torch.cuda.current_stream().synchronize()
        return batch

    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(one, batch) for batch in todo[:THREADS]]
        for batch in itertools.cycle(todo):
            done = waiting.pop(0).result()
            meter.count(len(done.images), done.bytes, done.pixels)
            if meter.over:
                break
            waiting.append(pool.submit(one, batch))
    return meter.rate()


def _torch_device(context: Context) -> str:
    return context.device if context.on_gpu else "cpu"


PEERS: dict[str, Callable[[Context, str, float], Rate]] = {
    "torch DataLoader, Pillow, all cores": _torch,
    "datago, CPU": _datago,
    "torchvision, from memory, decode only": _torchvision,
    "torchcodec, from memory, decode only": _torchcodec,
    "SPDL, from memory": _spdl,
}
"""Name -> (context, size of images, seconds) -> rate."""
