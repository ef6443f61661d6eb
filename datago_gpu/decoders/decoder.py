"""The interface of decoders: encoded bytes in, pixels out. A decoder knows images and regions, but not samples."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from datago_gpu.imaging.geometry import Region, Size

__all__ = ["DecodedImages", "Decoder", "EncodedImage", "EncodedImages", "Payloads"]


@dataclass(slots=True)
class EncodedImage:
    """One encoded image. See `EncodedImages`."""

    payload: NDArray[np.uint8]
    size: Size
    region: Region
    orientation: int
    target: Size | None
    flipped: bool = False


class Payloads(Sequence[NDArray[np.uint8]]):
    """Payloads that lie in shared memory. Makes a view when one is asked for: decode processes need none.

    offsets, lengths: where each payload begins, and its bytes.
    """

    def __init__(self, memory: mmap.mmap, offsets: list[int], lengths: list[int]) -> None:
        self._memory, self.offsets, self.lengths = memory, offsets, lengths

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        if isinstance(index, slice):
            return list(self)[index]
        return np.frombuffer(self._memory, np.uint8, self.lengths[index], self.offsets[index])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        whole = np.frombuffer(self._memory, np.uint8)
        return (whole[at : at + length] for at, length in zip(self.offsets, self.lengths, strict=True))

    def __len__(self) -> int:
        return len(self.lengths)

    def buffers(self) -> list[memoryview]:
        """Returns the payloads as plain memory, which takes less time than an array for each."""
        whole = memoryview(self._memory)
        return [whole[at : at + length] for at, length in zip(self.offsets, self.lengths, strict=True)]


@dataclass(slots=True)
class EncodedImages:
    """The encoded images of one batch. All arrays have N rows, in the order of the batch."""

    payloads: Sequence[NDArray[np.uint8]]
    """N one-dimensional views of the encoded bytes: JPEG, PNG, WebP, or PPM for images that the feeder decoded."""
    sizes: NDArray[np.int32]
    """(N, 2): height and width in pixels, as displayed (after `orientations`)."""
    regions: NDArray[np.float32]
    """(N, 4): top, left, height, width of the region to show, in pixels as displayed; never outside the image."""
    orientations: NDArray[np.uint8]
    """(N,): EXIF orientation, 1 to 8; 1 is upright."""
    target: tuple[int, int] | None
    """Height and width that every region is scaled to. If this and `targets` are None, images keep their own sizes."""
    targets: NDArray[np.int32] | None = None
    """(N, 2): height and width that each region is scaled to, if they differ; `target` is None then."""
    rois: NDArray[np.float32] | None = None
    """(N, 6): regions and targets as `rois_of` returns them, if the feeder has computed them."""
    flipped: NDArray[np.bool_] | None = None
    """(N,): which images are mirrored left to right, once their regions are cut; None if none is."""
    largest: int = 0
    """Number of pixels of the largest image, or more; 0 if it is not known."""
    further: list[EncodedImages] = field(default_factory=list)
    """The views after the first: the same payloads, with other regions and targets. Each image is decoded once."""
    checked: bool = False
    """True if the feeder has checked the payloads: the headers are readable and agree with `sizes`, and no image is too
    large. Decoders then skip these checks."""

    def target_of(self, index: int) -> tuple[int, int] | None:
        """Returns the height and width that the region of one image is scaled to, or None."""
        if self.targets is None:
            return self.target
        return int(self.targets[index, 0]), int(self.targets[index, 1])

    def one(self, index: int) -> EncodedImage:
        """Returns one of the images."""
        (height, width), region = self.sizes[index].tolist(), tuple(self.regions[index].tolist())
        orientation, flipped = int(self.orientations[index]), self.flipped is not None and bool(self.flipped[index])
        return EncodedImage(self.payloads[index], (height, width), region, orientation, self.target_of(index), flipped)

    @property
    def views(self) -> list[EncodedImages]:
        """Returns the images as each view shows them."""
        return [self, *self.further]

    def buffers(self, rows: list[int]) -> Sequence[memoryview | NDArray[np.uint8]]:
        """Returns some of the payloads, in the form that takes the least time to make."""
        if len(rows) < len(self):
            return [self.payloads[row] for row in rows]
        return self.payloads.buffers() if isinstance(self.payloads, Payloads) else self.payloads

    def subset(self, rows: list[int]) -> EncodedImages:
        """Returns some of the images, given their indices."""
        return EncodedImages(
            [self.payloads[row] for row in rows],
            self.sizes[rows],
            self.regions[rows],
            self.orientations[rows],
            self.target,
            None if self.targets is None else self.targets[rows],
            None if self.rois is None else self.rois[rows],
            None if self.flipped is None else self.flipped[rows],
            self.largest,
            [view.subset(rows) for view in self.further],
            self.checked,
        )

    def __len__(self) -> int:
        return len(self.payloads)


@dataclass(slots=True)
class DecodedImages:
    """The pixels of one batch, less the images that could not be decoded."""

    image: Any
    """With a target: one array of K images, (K, H, W, 3) or (K, 3, H, W), depending on the layout; else a list of K
    arrays, or of K bytes if they are encoded again. K = N - len(failures). Complete: readable on any stream at once.
    None if K is 0."""
    failures: dict[int, str] = field(default_factory=dict)
    """Index in the batch -> the decoder's error, for each missing image."""
    rescued: dict[int, str] = field(default_factory=dict)
    """Index in the batch -> the decoder's error, for each image that the decoder refused and Pillow decoded."""
    further: list[Any] = field(default_factory=list)
    """The views after the first, each as `image`. Empty if `image` is None."""


class Decoder(Protocol):
    """Decodes up to `depth` batches at a time, first in, first out. For one thread."""

    depth: int

    def submit(self, images: EncodedImages) -> None:
        """Starts to decode a batch. The payloads' memory must not change until `collect` has returned the batch.

        Raises RuntimeError when `depth` batches are under way.
        """
        ...

    def collect(self) -> DecodedImages:
        """Waits for the oldest batch under way and returns its pixels."""
        ...

    def close(self) -> None:
        """Drops all batches under way and frees threads and memory. Images already returned stay valid."""
        ...
