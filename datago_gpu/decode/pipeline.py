"""One pipeline of DALI's: encoded images in, pixels out, first in, first out. The only file that imports DALI.

The same graph serves GPU and CPU. On a GPU nvJPEG decodes whole images there (a decoder fused with a crop crashes on
Hopper in nvImageCodec 0.9), then each image's region is resized. DALI turns the pixels upright. The feeder sees to it
that DALI reads the orientation by which sizes and regions, which are in displayed coordinates, were made. Turning them
in this graph instead would cost every image a pass over its pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, tensors, types
from nvidia.dali.pipeline import Pipeline

from datago_gpu.config import ImageConfig
from datago_gpu.decode.base import EncodedImages
from datago_gpu.decode.faults import Setup, fault
from datago_gpu.decode.parking import require_cupy

__all__ = ["DaliPipeline", "define"]

_FILTERS = {"lanczos": types.INTERP_LANCZOS3, "nearest": types.INTERP_NN}
_DTYPES = {"uint8": types.UINT8, "float16": types.FLOAT16, "float32": types.FLOAT}

_STREAMS: dict[int, Any] = {}
"""GPU -> the stream on which outputs are waited for. Never destroyed: DALI gives their memory back on it."""


class DaliPipeline:
    """For one thread. After an error of DALI's, or `close`, it is of no more use: RuntimeError.

    Raises DatagoError where DALI cannot be set up.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._pipeline: Pipeline | None = None
        try:
            self._pipeline = define(setup)
            self._pipeline.build()
            return
        except Exception as error:  # of any kind; it is about the installation or the device
            problem = self._failed(error, "be set up")
        raise problem

    def start(self, images: EncodedImages, rows: list[int]) -> None:
        """Begins with some images of a batch. Their memory must stay as it is until `outputs` has returned them.

        Raises DatagoError.
        """
        self._valid()
        try:
            payloads = images.payloads if len(rows) == len(images) else [images.payloads[row] for row in rows]
            # What DALI would make of the arrays one by one, it gets ready-made: that takes half the time.
            single = list(map(tensors.TensorCPU, payloads))
            listed = tensors.TensorListCPU(single, "", False)
            self._valid().feed_input("payloads", listed)
            if self._setup.image.crop_and_resize:
                self._valid().feed_input("views", tensors.TensorListCPU(_views(images, rows)))
            self._valid().schedule_run()
            return
        except Exception as error:  # of whatever kind DALI chose: a batch cannot be fed in part
            problem = self._failed(error, f"take a batch of {len(rows)} images")
        raise problem

    def outputs(self) -> Any:
        """Waits for the images that were started first: a TensorList, complete.

        Raises Refused where DALI says that an image cannot be decoded, else DatagoError.
        """
        self._valid()
        try:
            if self._setup.device_id is None:
                (output,) = self._valid().outputs()
            else:
                stream = _stream(self._setup.device_id)
                (output,) = self._valid().outputs(cuda_stream=stream.ptr)
                _wait(stream)
            return output
        except Exception as error:
            problem = self._failed(error, f"decode a batch of up to {self._setup.batch_size} images")
        raise problem

    def close(self) -> None:
        """Waits for what is under way, since DALI cannot be interrupted, and gives threads and memory back."""
        self._pipeline = None

    def _valid(self) -> Pipeline:
        """Returns the pipeline, which is not to be kept in a variable: the traceback of an error would keep it, too."""
        if self._pipeline is None:
            raise RuntimeError("the decoder is closed, or has failed")
        return self._pipeline

    def _failed(self, error: Exception, doing: str) -> Exception:
        """Lets go of a pipeline that has failed: it is no longer valid, says DALI. Returns what to raise.

        That is to be raised when DALI's own error, whose traceback would keep the pipeline and its threads, is gone.
        """
        self._pipeline = None
        return fault(error, doing, self._setup)


def define(setup: Setup) -> Pipeline:
    """Defines the pipeline, without building it: that is where a GPU is first wanted."""
    # With depth 1 each feed starts with its schedule_run, no priming, and as many may be under way as are fed: the
    # executor bounds neither. One decode and one resize run at a time, so that batches overlap between the two.
    pipeline = Pipeline(
        batch_size=setup.batch_size,
        num_threads=setup.threads,
        device_id=setup.device_id,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    with pipeline:
        pipeline.set_outputs(_graph(setup))
    return pipeline


def _views(images: EncodedImages, rows: list[int]) -> NDArray[np.float32]:
    """(N, 6): top, left, bottom, right of what is to be seen of each image, and the height and width it is scaled to.

    One array in place of three: each feed takes longer than the few numbers in it.
    """
    regions, sizes, target = images.regions, images.sizes, images.target if images.targets is None else images.targets
    if len(rows) < len(images):
        regions, sizes = regions[rows], sizes[rows]
        target = target if images.targets is None else images.targets[rows]
    views = np.empty((len(rows), 6), np.float32)
    views[:, :2] = regions[:, :2]
    # Rounding may have put the far edges a hair outside.
    np.minimum(regions[:, :2] + regions[:, 2:], sizes, out=views[:, 2:4], casting="unsafe")
    views[:, 4:] = target
    return views


def _graph(setup: Setup) -> Any:
    payloads = fn.external_source(name="payloads", dtype=types.UINT8, ndim=1, no_copy=True)
    options: dict[str, Any] = {"device": "cpu"}
    if setup.device_id is not None:
        options = {"device": "mixed", "affine": False, "jpeg_fancy_upsampling": setup.decode.fancy_upsampling}
        if setup.decode.hw_decoder_load is not None:
            options["hw_decoder_load"] = setup.decode.hw_decoder_load
    pixels = fn.decoders.image(payloads, output_type=types.GRAY if setup.mask else types.RGB, **options)
    if setup.image.crop_and_resize:
        pixels = _resized(pixels, _FILTERS[setup.mask or "lanczos"])
    return _formed(pixels, setup.image, is_mask=bool(setup.mask))


def _resized(pixels: Any, interpolation: Any) -> Any:
    """Each image's region scaled to the batch's size: LANCZOS3 with antialiasing is as Pillow's LANCZOS."""
    views = fn.external_source(name="views", dtype=types.FLOAT, ndim=1, no_copy=True)
    return fn.resize(
        pixels,
        size=views[4:6],
        roi_start=views[0:2],
        roi_end=views[2:4],
        roi_relative=False,
        interp_type=interpolation,
        antialias=True,
    )


def _formed(pixels: Any, image: ImageConfig, *, is_mask: bool) -> Any:
    if is_mask and image.mask_dtype == "int32":
        if image.layout == "CHW":
            pixels = fn.transpose(pixels, perm=[2, 0, 1], output_layout="CHW")
        return fn.cast(pixels, dtype=types.INT32)
    if (image.layout, image.dtype) == ("HWC", "uint8"):
        return pixels
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


def _stream(device_id: int) -> Any:
    if device_id not in _STREAMS:
        _STREAMS[device_id] = require_cupy().cuda.Stream(non_blocking=True)
    return _STREAMS[device_id]


def _wait(stream: Any) -> None:
    """Waits for all work on a stream, asleep. `outputs()` without a stream would keep a core busy meanwhile."""
    cuda = require_cupy().cuda
    event = cuda.Event(block=True, disable_timing=True)
    cuda.runtime.eventRecord(event.ptr, stream.ptr)
    event.synchronize()
