"""`Sample`, one sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datago_gpu.arrays import Array
from datago_gpu.draws import draw_key
from datago_gpu.points import Cuts
from datago_gpu.views import FurtherView

__all__ = ["Sample", "describe", "four", "generator_of"]


@dataclass(slots=True, eq=False)
class Sample:
    """One sample of a batch. Its arrays are views of the batch's arrays and keep the batch alive."""

    id: str
    """Its name; of a file, the path below the root."""
    source: str
    """Where it comes from: see `Batch.sources`."""
    image: Array | Any
    """(H, W, 3), or (3, H, W) with layout "CHW", on the loader's device; (H, W, C) with image_to_rgb8 false, bytes with
    pre_encode_images. None without `require_images`."""
    original_size: tuple[int, int]
    """(height, width) of the original image in pixels, upright."""
    crop: tuple[float, float, float, float]
    """(top, left, height, width) of the region that `image` shows, in pixels of the original."""
    attributes: dict[str, Any]
    """What its source stores about it, such as captions: values of JSON under their names."""
    tags: list[str]
    """The tags that a Dataroom stores."""
    embedding: Array | Any
    """(D,), on the loader's device."""
    duplicate_state: int | None
    """The duplicate state that a Dataroom stores, or None."""
    label: int | None = None
    """The number of its class: see `Batch.labels`. Reading it from a batch on a GPU waits for a copy."""
    masks: dict[str, Array | Any] = field(default_factory=dict)
    """Name -> (H, W, 1), or None if this sample has no such mask."""
    additional_images: dict[str, Array | Any] = field(default_factory=dict)
    """Name -> as `image`, or None."""
    latents: dict[str, Array | Any] = field(default_factory=dict)
    """Name -> an array, bytes, or None."""
    real: bool = True
    """False in lockstep for a sample that only fills a place of its batch: see `Batch.real`."""
    mix: str = ""
    """The name of the sample's source, if `source_type` is "mix"; else empty."""
    pass_number: int | None = None
    """See `Batch.pass_numbers`."""
    epoch: int = 0
    """The pass that the sample belongs to."""
    seed: int = 0
    """See `Batch.seed`."""
    flipped: bool = False
    """Whether `image` shows the region mirrored left to right."""
    image_size: tuple[int, int] = (0, 0)
    """(height, width) of `image`; (0, 0) without an image."""
    further_views: list[FurtherView] = field(default_factory=list)
    """The views after the first: see `views`."""

    @property
    def views(self) -> list[Array | Any]:
        """The views of the sample, as `image_config.views` lists them. The first is `image`."""
        return [self.image, *(view.image for view in self.further_views)]

    @property
    def view_crops(self) -> list[tuple[float, float, float, float]]:
        """For each view, (top, left, height, width) of the region that the view shows, in pixels of the original."""
        return [self.crop, *(four(view.crops) for view in self.further_views)]

    @property
    def view_flipped(self) -> list[bool]:
        """For each view, whether the region is mirrored left to right."""
        return [self.flipped, *(bool(view.flipped) for view in self.further_views)]

    def rng(self, view: int = 0) -> np.random.Generator:
        """Returns a generator of random numbers that belongs to this sample: see `Batch.rng`."""
        return generator_of(self.seed, self.epoch, self.pass_number, self.id, view)

    def to_image(self, points: Any, view: int = 0) -> NDArray[Any]:
        """Maps points of the original to pixels of `image`: see `Batch.to_image`. points: (..., 2) or (..., 4)."""
        shown: NDArray[Any] = self._cuts(view).to_pictures(np.asarray(points)[None])[0]
        return shown

    def from_image(self, points: Any, view: int = 0) -> NDArray[Any]:
        """Maps points of `image` to pixels of the original: see `Batch.to_image`. points: (..., 2) or (..., 4)."""
        found: NDArray[Any] = self._cuts(view).to_originals(np.asarray(points)[None])[0]
        return found

    def _cuts(self, view: int) -> Cuts:
        size = [self.image_size, *(each.image_sizes for each in self.further_views)][view]
        return Cuts(np.array([self.view_crops[view]]), np.array([size]), np.array([self.view_flipped[view]]))

    def __repr__(self) -> str:
        return f"Sample(id={self.id!r}, image={describe(self.image)}, original_size={self.original_size})"


def generator_of(seed: int, epoch: int, pass_number: int | None, sample_id: str, view: int) -> np.random.Generator:
    """Returns the generator of `Batch.rng`. pass_number: used in place of `epoch`, unless None."""
    key = draw_key(seed, int(epoch) if pass_number is None else pass_number, sample_id, view)
    return np.random.Generator(np.random.PCG64(key))


def four(numbers: NDArray[Any]) -> tuple[float, float, float, float]:
    """Returns the four numbers of a region."""
    top, left, height, width = map(float, numbers)
    return top, left, height, width


def describe(image: Any) -> str:
    """Describes an image for `repr`, without pixels: shape and dtype, number of bytes, or length of a list."""
    if image is None:
        return "none"
    if isinstance(image, list):
        return f"list of {len(image)}"
    return f"{len(image)} bytes" if isinstance(image, bytes) else f"{tuple(image.shape)} {image.dtype}"
