"""The interface of decoders: encoded bytes in, pixels out. A decoder knows images and regions, but not samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecodedImages", "Decoder", "EncodedImages"]


@dataclass(slots=True)
class EncodedImages:
    """The encoded images of one batch. All arrays have N rows, in the order of the batch."""

    payloads: list[NDArray[np.uint8]]
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
    checked: bool = False
    """True if the feeder has checked the payloads: the headers are readable and agree with `sizes`, and no image is too
    large. Decoders then skip these checks."""

    def target_of(self, index: int) -> tuple[int, int] | None:
        """Returns the height and width that the region of one image is scaled to, or None."""
        if self.targets is None:
            return self.target
        return int(self.targets[index, 0]), int(self.targets[index, 1])

    def subset(self, rows: list[int]) -> EncodedImages:
        """Returns some of the images, given their indices."""
        return EncodedImages(
            [self.payloads[row] for row in rows],
            self.sizes[rows],
            self.regions[rows],
            self.orientations[rows],
            self.target,
            None if self.targets is None else self.targets[rows],
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
