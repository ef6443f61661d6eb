"""One DALI pipeline: encoded images in, pixels out, first in, first out. The only file that imports DALI.

GPU and CPU use the same graph. On a GPU, nvJPEG decodes whole images (a decoder fused with a crop crashes on Hopper in
nvImageCodec 0.9), then each image's region is resized. DALI turns the pixels upright. Sizes and regions are in
displayed coordinates; the feeder ensures that DALI reads the same orientation from which they were computed. Turning
the pixels in this graph instead would cost an additional pass over every image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, tensors, types
from nvidia.dali.pipeline import Pipeline

from datago_gpu.config import ImageConfig
from datago_gpu.decoders.decoder import EncodedImages
from datago_gpu.decoders.faults import Setup, classify_error
from datago_gpu.decoders.output_format import OutputFormat
from datago_gpu.decoders.parking import require_cupy
from datago_gpu.imaging.geometry import rois_of

__all__ = ["DaliPipeline", "define"]

_FILTERS = {"lanczos": types.INTERP_LANCZOS3, "nearest": types.INTERP_NN}
_DTYPES = {"uint8": types.UINT8, "float16": types.FLOAT16, "float32": types.FLOAT}

_STREAMS: dict[int, Any] = {}
"""GPU -> the stream on which we wait for outputs. Never destroyed, because DALI frees the outputs on this stream."""


class DaliPipeline:
    """Wraps a DALI pipeline, for one thread. After a DALI error or `close`, all methods raise RuntimeError.

    Raises DatagoError if DALI cannot be set up.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._pipeline: Pipeline | None = None
        self._fed: deque[list[Any]] = deque()
        """What DALI was given, for each iteration under way. Each tensor refers to a Python object. If DALI's threads
        dropped the last reference, they would wait for the GIL at each payload."""
        try:
            self._pipeline = define(setup)
            self._pipeline.build()
            return
        except Exception as error:  # of any type; the cause is the installation or the device
            problem = self._fail(error, "be set up")
        raise problem

    def start(self, images: EncodedImages, rows: list[int]) -> None:
        """Starts to decode some images of a batch. Their memory must not change until `outputs` has returned them.

        Raises DatagoError.
        """
        self._open_pipeline()
        try:
            # DALI would convert the payloads to tensors one by one; converting them here takes half the time.
            single = list(map(tensors.TensorCPU, images.buffers(rows)))
            fed = [tensors.TensorListCPU(single, "", False)]
            self._open_pipeline().feed_input("payloads", fed[0])
            for name, numbers in self._numbers(images, rows):
                fed.append(tensors.TensorListCPU(numbers))
                self._open_pipeline().feed_input(name, fed[-1])
            self._open_pipeline().schedule_run()
            self._fed.append(fed)
            return
        except Exception as error:  # of any type: part of the batch may have been fed
            problem = self._fail(error, f"take a batch of {len(rows)} images")
        raise problem

    def _numbers(self, images: EncodedImages, rows: list[int]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yields the pipeline's inputs other than the payloads: name and numbers."""
        for number, view in enumerate(images.views):
            if self._setup.image.crop_and_resize:
                yield f"rois{number}", _rois(view, rows)
            if self._setup.image.of_view(number).flip:
                yield f"mirrors{number}", _mirrors(view, rows)

    def outputs(self) -> Sequence[Any]:
        """Waits for the oldest images under way and returns a complete TensorList for each view.

        Raises Refused if DALI reports that an image cannot be decoded; DatagoError for any other error.
        """
        self._open_pipeline()
        try:
            if self._setup.device_id is None:
                outputs = self._open_pipeline().outputs()
            else:
                stream = _stream(self._setup.device_id)
                outputs = self._open_pipeline().outputs(cuda_stream=stream.ptr)
                _wait(stream)
            self._fed.popleft()
            return tuple(outputs)
        except Exception as error:
            problem = self._fail(error, f"decode a batch of up to {self._setup.batch_size} images")
        raise problem

    def close(self) -> None:
        """Frees threads and memory. Waits for all work under way, because DALI cannot be interrupted."""
        self._pipeline = None
        self._fed.clear()

    def _open_pipeline(self) -> Pipeline:
        """Returns the pipeline. Do not keep it in a variable: the traceback of an error would keep it alive."""
        if self._pipeline is None:
            raise RuntimeError("the decoder is closed, or has failed")
        return self._pipeline

    def _fail(self, error: Exception, doing: str) -> Exception:
        """Drops the pipeline after an error (DALI calls it "no longer valid") and returns the exception to raise.

        Raise it outside of the `except` block: the traceback of DALI's error keeps the pipeline and its threads alive.
        """
        self.close()
        return classify_error(error, doing, self._setup)


def define(setup: Setup) -> Pipeline:
    """Defines the pipeline without building it. Only building needs a GPU."""
    # With depth 1 each batch starts with its schedule_run, without priming, and any number of batches may be under way:
    # the executor does not limit them. One decode and one resize run at a time, so consecutive batches overlap.
    pipeline = Pipeline(
        batch_size=setup.batch_size,
        num_threads=setup.threads,
        device_id=setup.device_id,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    with pipeline:
        pipeline.set_outputs(*_graph(setup))
    return pipeline


def _rois(images: EncodedImages, rows: list[int]) -> NDArray[np.float32]:
    """Returns the rows of `rois_of`: one array for regions and targets, because a feed costs more than its numbers."""
    if images.rois is None:
        targets = [images.target_of(row) or (0, 0) for row in range(len(images))]
        rois = rois_of(images.regions.tolist(), images.sizes.tolist(), targets)
        return np.frombuffer(rois, np.float32).reshape(-1, 6)[rows]
    return images.rois if len(rows) == len(images) else images.rois[rows]


def _mirrors(images: EncodedImages, rows: list[int]) -> NDArray[np.int32]:
    """Returns (N,): 1 for each image that is to be mirrored, else 0."""
    return np.zeros(len(rows), np.int32) if images.flipped is None else images.flipped[rows].astype(np.int32)


def _graph(setup: Setup) -> list[Any]:
    """Returns an output for each view. The payloads are decoded once."""
    payloads = fn.external_source(name="payloads", dtype=types.UINT8, ndim=1, no_copy=True)
    options: dict[str, Any] = {"device": "cpu"}
    if setup.device_id is not None:
        options = {"device": "mixed", "affine": False, "jpeg_fancy_upsampling": setup.decode.fancy_upsampling}
        if setup.decode.hw_decoder_load is not None:
            options["hw_decoder_load"] = setup.decode.hw_decoder_load
    pixels = fn.decoders.image(payloads, output_type=types.GRAY if setup.mask else types.RGB, **options)
    return [_view(pixels, setup, number) for number in range(setup.image.view_count)]


def _view(pixels: Any, setup: Setup, number: int) -> Any:
    image = setup.image.of_view(number)
    if image.crop_and_resize:
        rois = fn.external_source(name=f"rois{number}", dtype=types.FLOAT, ndim=1, no_copy=True)
        pixels = _resize(pixels, rois, _FILTERS[setup.mask or "lanczos"])
    if image.flip:  # after the resize: a mask is then exactly the mirror image of what it would be else
        mirrors = fn.external_source(name=f"mirrors{number}", dtype=types.INT32, ndim=0, no_copy=True)
        pixels = fn.flip(pixels, horizontal=mirrors)
    return _format(pixels, image, is_mask=bool(setup.mask))


def _resize(pixels: Any, rois: Any, interpolation: Any) -> Any:
    """Scales each image's region to its target. LANCZOS3 with antialiasing equals Pillow's LANCZOS."""
    return fn.resize(
        pixels,
        size=rois[4:6],
        roi_start=rois[0:2],
        roi_end=rois[2:4],
        roi_relative=False,
        interp_type=interpolation,
        antialias=True,
    )


def _format(pixels: Any, image: ImageConfig, *, is_mask: bool) -> Any:
    if is_mask and image.mask_dtype == "int32":
        if image.layout == "CHW":
            pixels = fn.transpose(pixels, perm=[2, 0, 1], output_layout="CHW")
        return fn.cast(pixels, dtype=types.INT32)
    if (image.layout, image.dtype) == ("HWC", "uint8"):
        return pixels
    if image.dtype == "bfloat16":
        return _look_up(pixels, image)
    # uint8 keeps its range; floating values are (x / 255 - mean) / std = (x - 255 mean) / (255 std).
    unit = 1.0 if image.dtype == "uint8" else 255.0
    channels = 1 if is_mask else 3
    return fn.crop_mirror_normalize(
        pixels,
        dtype=_DTYPES[image.dtype],
        output_layout=image.layout,
        mean=[255.0 * value for value in image.mean or channels * (0.0,)],
        std=[unit * value for value in image.std or channels * (1.0,)],
    )


def _look_up(pixels: Any, image: ImageConfig) -> Any:
    """Replaces each level by the bits of bfloat16, which DALI does not have, with the table of the Pillow back end."""
    table = OutputFormat(image).table
    if (table == table[0]).all():
        table = table[:1]
    else:  # a key for each level of each channel
        pixels = fn.cast(pixels, dtype=types.UINT16) + types.Constant(
            np.array([0, 256, 512], np.uint16), device=pixels.device
        )
    values = [float(bits) for bits in table.ravel().tolist()]
    bits = fn.lookup_table(pixels, keys=list(range(len(values))), values=values, dtype=types.UINT16)
    return fn.transpose(bits, perm=[2, 0, 1], output_layout="CHW") if image.layout == "CHW" else bits


def _stream(device_id: int) -> Any:
    if device_id not in _STREAMS:
        _STREAMS[device_id] = require_cupy().cuda.Stream(non_blocking=True)
    return _STREAMS[device_id]


def _wait(stream: Any) -> None:
    """Sleeps until all work on a stream is done. `outputs()` without a stream would keep a core busy."""
    cuda = require_cupy().cuda
    event = cuda.Event(block=True, disable_timing=True)
    cuda.runtime.eventRecord(event.ptr, stream.ptr)
    event.synchronize()
