"""The DALI back end: one graph for GPU and CPU. The only file that imports DALI.

On a GPU nvJPEG decodes whole images there (a decoder fused with a crop crashes on Hopper in nvImageCodec 0.9), then
each image's region is resized. DALI turns the pixels upright, and the feeder sees to it that DALI reads the orientation
by which sizes and regions, which are in displayed coordinates, were made. Turning them in this graph instead would cost
every image a pass over its pixels. Giving GPU memory to the trainer is device.py's part.
"""

from __future__ import annotations

import ctypes
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decode.base import DecodedImages, EncodedImages
from datago_gpu.decode.device import lend, lend_list
from datago_gpu.decode.form import unnormalised
from datago_gpu.decode.nvcheck import header_problem, undecodable
from datago_gpu.decode.parking import Parking
from datago_gpu.decode.pillow import decoding_threads
from datago_gpu.decode.second import with_pixels
from datago_gpu.errors import DatagoError

__all__ = ["DaliDecoder"]

_FILTERS = {"lanczos": types.INTERP_LANCZOS3, "nearest": types.INTERP_NN}
_DTYPES = {"uint8": types.UINT8, "float16": types.FLOAT16, "float32": types.FLOAT}


class DaliDecoder:
    """Decodes on a GPU, or with the same graph on the CPU. See `Decoder` for the contract.

    image, decode: the settings. batch_size: the most images that a batch may hold.
    device_id: which GPU; None is the CPU.
    mask: "nearest" or "lanczos" for masks, which have one channel; "" for images.
    Raises DatagoError where DALI cannot be set up. Make it on the thread that uses it.
    """

    def __init__(
        self, image: ImageConfig, decode: DecodeConfig, *, batch_size: int, device_id: int | None = None, mask: str = ""
    ) -> None:
        self.depth, self._mask = decode.prefetch, mask
        image = unnormalised(image) if mask else image
        self._image, self._decode, self._batch_size, self._device_id = image, decode, batch_size, device_id
        self._parking = None if device_id is None else Parking(device_id)
        self._under_way: deque[_Job] = deque()
        self._pipeline: Pipeline | None = self._new_pipeline()

    def submit(self, images: EncodedImages) -> None:
        if self._pipeline is None:
            raise RuntimeError("the decoder is closed")
        if len(self._under_way) >= self.depth:
            raise RuntimeError(f"{self.depth} batches are under way: collect one first")
        if len(images) > self._batch_size:
            raise ValueError(f"{len(images)} images in a batch, made for at most {self._batch_size}")
        if (images.target_of(0) is not None) != self._image.crop_and_resize:
            raise ValueError(
                f"target {images.target_of(0)} does not go with crop_and_resize={self._image.crop_and_resize}"
            )
        self._sweep()
        job = self._job(images)
        self._start(job.images, job.kept)
        self._under_way.append(job)

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        self._sweep()
        job = self._under_way.popleft()
        output = None
        if job.kept:
            try:
                output = self._outputs()
            except _Refused as refusal:
                output = self._rescue(job, str(refusal))
        failures = dict(sorted(job.failures.items()))
        return DecodedImages(None if output is None else self._handed_over(output), failures)

    def close(self) -> None:
        self._under_way.clear()
        self._pipeline = None  # waits for the iterations under way; DALI cannot be interrupted
        if self._parking:
            self._parking.close()

    def _job(self, images: EncodedImages) -> _Job:
        job, most, refused = _Job(images, []), self._decode.max_pixels, {}
        for index, (height, width) in enumerate(images.sizes.tolist()):
            if height * width > most:
                job.failures[index] = f"too-many-pixels: {height} x {width}, allowed are {most} in all"
                continue
            job.kept.append(index)
            if problem := header_problem(images.payloads[index], height, width):
                refused[index] = problem
        self._second_chance(job, refused)
        return job

    def _second_chance(self, job: _Job, refused: dict[int, str]) -> None:
        job.images, failures = with_pixels(job.images, refused, self._decode.max_pixels, mask=self._mask)
        job.failures |= failures
        job.kept = [index for index in job.kept if index not in failures]

    def _start(self, images: EncodedImages, kept: list[int]) -> None:
        """Give some images of a batch to the pipeline, as its next iteration."""
        if not kept:
            return
        assert self._pipeline is not None
        try:
            self._pipeline.feed_input("payloads", [images.payloads[index] for index in kept])
            if self._image.crop_and_resize:
                starts = np.ascontiguousarray(images.regions[kept, :2])
                # Rounding may have put the far edges a hair outside.
                ends = np.minimum(starts + images.regions[kept, 2:], images.sizes[kept], dtype=np.float32)
                self._pipeline.feed_input("starts", starts)
                self._pipeline.feed_input("ends", ends)
                self._pipeline.feed_input("target", np.array([images.target_of(at) for at in kept], np.float32))
            self._pipeline.schedule_run()
        except Exception as error:  # whatever kind DALI chose: a batch cannot be fed in part
            raise DatagoError(f"DALI does not accept a batch of {len(kept)} images: {_message(error)}") from error

    def _outputs(self) -> Any:
        """The oldest iteration's images, a TensorList. Complete: without a stream, DALI waits on the host for them.

        Raises _Refused: then the pipeline is no longer valid, says DALI, and is let go.
        """
        assert self._pipeline is not None
        try:
            (output,) = self._pipeline.outputs()
            return output
        except Exception as error:  # DALI maps its own to RuntimeError, ValueError, ...; all mean the same here
            message = _message(error)
        # Out here, so that DALI's exception, whose traceback would keep the pipeline and its threads, is gone.
        self._pipeline = None
        raise _Refused(message)

    def _rescue(self, job: _Job, message: str) -> Any:
        """Decode a batch again, its bad images by Pillow or not at all, and what was behind it again too.

        Should nvImageCodec find none of them bad that DALI does not take, all go to Pillow.
        """
        _give_memory_back()
        threads = decoding_threads(self._decode)
        bad = undecodable([job.images.payloads[index] for index in job.kept], self._device_id, threads)
        for suspects in ([job.kept[at] for at in bad], job.kept):
            self._second_chance(job, dict.fromkeys(suspects, message))
            self._pipeline = self._new_pipeline()
            for waiting in (job, *self._under_way):
                self._start(waiting.images, waiting.kept)
            if not job.kept:
                return None
            try:
                return self._outputs()
            except _Refused as again:
                message = str(again)
        raise DatagoError(f"DALI refuses {len(job.kept)} images that Pillow has decoded: {message}")

    def _handed_over(self, output: Any) -> Any:
        dense = self._image.crop_and_resize and not self._image.mixed_buckets
        if self._parking:
            return lend(self._parking, output.as_tensor()) if dense else lend_list(self._parking, output)
        return np.asarray(output.as_tensor()) if dense else [np.asarray(tensor) for tensor in output]

    def _sweep(self) -> None:
        if self._parking:
            self._parking.sweep()

    def _new_pipeline(self) -> Pipeline:
        # With depth 1 each feed starts with its schedule_run, no priming, and as many may be under way as are fed: the
        # executor bounds neither. One decode and one resize run at a time, so that batches overlap between the two.
        self._pipeline = None  # the old one's memory goes back first
        try:
            pipeline = Pipeline(
                batch_size=self._batch_size,
                num_threads=decoding_threads(self._decode),
                device_id=self._device_id,
                prefetch_queue_depth=1,
                exec_dynamic=True,
            )
            with pipeline:
                pipeline.set_outputs(self._graph())
            pipeline.build()
        except Exception as error:  # of any kind; it is about the installation or the device
            raise DatagoError(f"cannot set up DALI: {_message(error)}") from error
        return pipeline

    def _graph(self) -> Any:
        on_gpu = self._device_id is not None
        payloads = fn.external_source(name="payloads", dtype=types.UINT8, ndim=1, no_copy=True)
        options: dict[str, Any] = {}
        if on_gpu:
            options = {"affine": False, "jpeg_fancy_upsampling": self._decode.fancy_upsampling}
            if self._decode.hw_decoder_load is not None:
                options["hw_decoder_load"] = self._decode.hw_decoder_load
        kind = types.GRAY if self._mask else types.RGB
        pixels = fn.decoders.image(payloads, device="mixed" if on_gpu else "cpu", output_type=kind, **options)
        if self._image.crop_and_resize:
            pixels = _resized(pixels, _FILTERS[self._mask or "lanczos"])
        return self._formed(pixels)

    def _formed(self, pixels: Any) -> Any:
        image = self._image
        if self._mask and image.mask_dtype == "int32":
            if image.layout == "CHW":
                pixels = fn.transpose(pixels, perm=[2, 0, 1], output_layout="CHW")
            return fn.cast(pixels, dtype=types.INT32)
        if (image.layout, image.dtype) == ("HWC", "uint8"):
            return pixels
        # uint8 keeps its range; floating values are (x / 255 - mean) / std = (x - 255 mean) / (255 std).
        unit = 1.0 if image.dtype == "uint8" else 255.0
        channels = 1 if self._mask else 3
        return fn.crop_mirror_normalize(
            pixels,
            dtype=_DTYPES[image.dtype],
            output_layout=image.layout,
            mean=[255.0 * value for value in image.mean or channels * (0.0,)],
            std=[unit * value for value in image.std or channels * (1.0,)],
        )


def _resized(pixels: Any, interpolation: Any) -> Any:
    """Each image's region scaled to the batch's size: LANCZOS3 with antialiasing is as Pillow's LANCZOS."""
    starts, ends, target = (
        fn.external_source(name=name, dtype=types.FLOAT, ndim=1, no_copy=True) for name in ("starts", "ends", "target")
    )
    return fn.resize(
        pixels,
        size=target,
        roi_start=starts,
        roi_end=ends,
        roi_relative=False,
        interp_type=interpolation,
        antialias=True,
    )


@dataclass(slots=True)
class _Job:
    """A batch under way."""

    images: EncodedImages
    kept: list[int]
    """Indices of the images that were given to DALI, in order. None were if it is empty."""
    failures: dict[int, str] = field(default_factory=dict)


class _Refused(Exception):
    """An iteration failed."""


def _give_memory_back() -> None:
    """What the threads of a pipeline that is gone had freed: glibc keeps it, in heaps of theirs, where it piles up.

    Takes 2 ms. Other C libraries know no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _message(error: Exception) -> str:
    """What DALI said, without the trace through the graph around it, and the number of a sample tried alone."""
    text = re.sub(r"\s*Current pipeline object is no longer valid\.\s*| sample #\d+ :", "", str(error))
    return " ".join(text.rpartition("encountered:")[2].split()) or type(error).__name__
