"""The DALI back end, on a GPU or on the CPU: manages the batches under way. A bad image does not affect its batch.

The graph is in dali_pipeline.py. device.py and parking.py hand GPU memory to the trainer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datago_gpu.config import DecodeConfig, ImageConfig
from datago_gpu.decoders.dali_pipeline import DaliPipeline
from datago_gpu.decoders.decoder import DecodedImages, EncodedImages
from datago_gpu.decoders.device import lend, lend_list
from datago_gpu.decoders.fallback import replace_refused
from datago_gpu.decoders.faults import Refused, Setup
from datago_gpu.decoders.nvcheck import find_undecodable, header_problem
from datago_gpu.decoders.output_format import without_normalisation
from datago_gpu.decoders.parking import Parking
from datago_gpu.decoders.threads import decoding_threads, gpu_threads
from datago_gpu.errors import DatagoError
from datago_gpu.heap import give_memory_back

__all__ = ["DaliDecoder"]


class DaliDecoder:
    """Decodes on a GPU, or with the same graph on the CPU. See `Decoder` for the contract.

    image, decode: the settings. batch_size: the maximum number of images in a batch.
    device_id: index of the GPU; None is the CPU.
    mask: "nearest" or "lanczos" for masks, which have one channel; "" for images.
    Raises DatagoError if DALI cannot be set up. Create the decoder on the thread that uses it: the constructor sets the
    current GPU of that thread.
    """

    def __init__(
        self, image: ImageConfig, decode: DecodeConfig, *, batch_size: int, device_id: int | None = None, mask: str = ""
    ) -> None:
        self.depth = decode.prefetch
        threads = decoding_threads(decode) if device_id is None else gpu_threads(decode, mask=bool(mask))
        self._setup = Setup(
            without_normalisation(image) if mask else image, decode, batch_size, device_id, mask, threads
        )
        self._parking = None if device_id is None else Parking(device_id)
        self._under_way: deque[_Job] = deque()
        self._pipeline = DaliPipeline(self._setup)

    def submit(self, images: EncodedImages) -> None:
        if len(self._under_way) >= self.depth:
            raise RuntimeError(f"{self.depth} batches are under way: collect one first")
        self._check(images)
        self._sweep()
        job = self._start_job(images)
        if job.kept:
            self._pipeline.start(job.images, job.kept)
        self._under_way.append(job)

    def collect(self) -> DecodedImages:
        if not self._under_way:
            raise RuntimeError("no batch is under way: submit one first")
        self._sweep()
        job = self._under_way.popleft()
        outputs = self._outputs(job) if job.kept else ()
        image, *further = map(self._hand_over, outputs) if outputs else [None]
        if not (job.failures or job.refused):
            return DecodedImages(image, further=further)
        rescued = {index: problem for index, problem in job.refused.items() if index not in job.failures}
        return DecodedImages(image, dict(sorted(job.failures.items())), rescued, further)

    def close(self) -> None:
        self._under_way.clear()
        self._pipeline.close()
        if self._parking is not None:
            self._parking.close()

    def _check(self, images: EncodedImages) -> None:
        """Raises ValueError if the batch does not go with the settings for which the decoder was made."""
        if len(images) > self._setup.batch_size:
            raise ValueError(f"{len(images)} images in a batch, made for at most {self._setup.batch_size}")
        if (images.target_of(0) is not None) != self._setup.image.crop_and_resize:
            raise ValueError(
                f"target {images.target_of(0)} does not go with crop_and_resize={self._setup.image.crop_and_resize}"
            )
        if len(images.views) != self._setup.image.view_count:
            raise ValueError(f"{len(images.views)} views do not go with {self._setup.image.view_count} in the settings")
        for number, view in enumerate(images.views):
            if view.flipped is not None and not self._setup.image.of_view(number).flip:
                raise ValueError("there are images to mirror, but the decoder was made for a flip of 0")

    def _start_job(self, images: EncodedImages) -> _Job:
        if images.checked:
            return _Job(images, list(range(len(images))))
        job, most, refused = _Job(images, []), self._setup.decode.max_pixels, {}
        for index, (height, width) in enumerate(images.sizes.tolist()):
            if height * width > most:
                job.failures[index] = f"too-many-pixels: {height} x {width}, at most {most} pixels are allowed"
                continue
            job.kept.append(index)
            if problem := header_problem(images.payloads[index], height, width):
                refused[index] = problem
        self._decode_with_pillow(job, refused)
        return job

    def _decode_with_pillow(self, job: _Job, refused: dict[int, str]) -> None:
        """Decodes the images that DALI refuses with Pillow."""
        job.images, failures = replace_refused(
            job.images, refused, self._setup.decode.max_pixels, mask=self._setup.mask
        )
        job.refused |= refused
        job.failures |= failures
        job.kept = [index for index in job.kept if index not in failures]

    def _outputs(self, job: _Job) -> Sequence[Any]:
        """Returns the views of the oldest iteration, each a TensorList. None at all if no image could be decoded."""
        try:
            return self._pipeline.outputs()
        except Refused as refusal:
            message, suspect = str(refusal), refusal.suspect
        return self._rescue(job, message, suspect)

    def _rescue(self, job: _Job, message: str, suspect: int | None) -> Sequence[Any]:
        """Decodes a batch again, its bad images with Pillow if possible. The batches behind it are restarted as well.

        suspect: index of the image that DALI named, among those given to DALI. DALI names the first bad image only. If
        DALI refuses the batch again, Pillow decodes all of its images.
        """
        give_memory_back()  # return memory freed by the old pipeline's threads; it would pile up in their arenas
        bad = set() if suspect is None else {suspect}
        bad.update(find_undecodable([job.images.payloads[index] for index in job.kept], self._setup.threads))
        for suspects in ([job.kept[at] for at in sorted(bad)] or job.kept, job.kept):
            self._decode_with_pillow(job, dict.fromkeys(suspects, message))
            self._start_again(job)
            if not job.kept:
                return ()
            try:
                return self._pipeline.outputs()
            except Refused as again:
                message = str(again)
        raise DatagoError(f"DALI refuses {len(job.kept)} images that Pillow has decoded: {message}")

    def _start_again(self, job: _Job) -> None:
        self._pipeline.close()  # first free the memory of the old pipeline
        self._pipeline = DaliPipeline(self._setup)
        for waiting in (job, *self._under_way):
            if waiting.kept:
                self._pipeline.start(waiting.images, waiting.kept)

    def _hand_over(self, output: Any) -> Any:
        image = self._setup.image
        own = not (self._setup.mask or image.image_to_rgb8)  # other images of the batch may have other channels
        dense = image.crop_and_resize and not (own or image.mixed_buckets)
        if self._parking is not None:
            return lend(self._parking, output.as_tensor()) if dense else lend_list(self._parking, output)
        return np.asarray(output.as_tensor()) if dense else [np.asarray(tensor) for tensor in output]

    def _sweep(self) -> None:
        if self._parking is not None:
            self._parking.sweep()


@dataclass(slots=True)
class _Job:
    """A batch under way."""

    images: EncodedImages
    kept: list[int]
    """Indices of the images that were given to DALI, in order. If empty, DALI got nothing of this batch."""
    failures: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    """Index -> DALI's error, for each image that went to Pillow instead."""
