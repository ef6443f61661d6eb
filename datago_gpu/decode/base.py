"""The seam between encoded bytes and pixels. A decoder knows images and regions, not samples or networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecodedImages", "Decoder", "EncodedImages"]


@dataclass(slots=True)
class EncodedImages:
    """The images of one batch as they came. All arrays have N rows, in the order of the batch."""

    payloads: list[NDArray[np.uint8]]
    """N one-dimensional views of the encoded bytes: JPEG, PNG, WebP, or PPM for what the feeder decoded itself."""
    sizes: NDArray[np.int32]
    """(N, 2): height and width in pixels, as displayed (after `orientations`)."""
    regions: NDArray[np.float32]
    """(N, 4): top, left, height, width of what is to be seen, in pixels as displayed; never outside the image."""
    orientations: NDArray[np.uint8]
    """(N,): EXIF orientation, 1 to 8; 1 is upright."""
    target: tuple[int, int] | None
    """Height and width that every region is scaled to; None leaves the whole images at their own sizes, unless
    `targets` says otherwise."""
    targets: NDArray[np.int32] | None = None
    """(N, 2): height and width that each region is scaled to, where `target` is None because they differ."""
    checked: bool = False
    """Whether the feeder has looked at the payloads: their headers can be read and say what `sizes` says, and no image
    is too large. Then a decoder does not look again."""

    def target_of(self, index: int) -> tuple[int, int] | None:
        """What the region of one image is scaled to."""
        if self.targets is None:
            return self.target
        return int(self.targets[index, 0]), int(self.targets[index, 1])

    def subset(self, rows: list[int]) -> EncodedImages:
        """Some of the images."""
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
    """With a target: one array of K images, (K, H, W, 3) or (K, 3, H, W) by the layout asked for; else a list of K
    arrays, or of K bytes where they are encoded again. K = N - len(failures). Complete: readable on any stream at once.
    None where K is 0."""
    failures: dict[int, str] = field(default_factory=dict)
    """Index in the batch -> what the decoder said, for each image that is missing."""
    rescued: dict[int, str] = field(default_factory=dict)
    """Index in the batch -> what the decoder said, for each image that it refused and Pillow decoded."""


class Decoder(Protocol):
    """Turns batches into pixels, up to `depth` of them at a time, first in, first out. Used from one thread."""

    depth: int

    def submit(self, images: EncodedImages) -> None:
        """Begin a batch. The payloads' memory must stay as it is until `collect` has returned it.

        Raises RuntimeError when `depth` batches are under way.
        """
        ...

    def collect(self) -> DecodedImages:
        """Wait for the oldest batch under way."""
        ...

    def close(self) -> None:
        """Drop everything under way and give back threads and memory. Images handed out stay valid."""
        ...
