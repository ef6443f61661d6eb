"""`Batch`, which a Loader returns. `Sample`, one sample of it, is in batch_sample.py."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from datago_gpu.arrays import Array
from datago_gpu.batch_sample import Sample, describe, four, generator_of
from datago_gpu.points import Cuts
from datago_gpu.views import FurtherView, sizes_of, with_rows

# Fields are `Array | Any`, a convention of typeshed: the settings decide whether a field is an array, a list, bytes or
# None. Editors complete for the usual case (Array), and type checkers do not require checks for the others.
__all__ = ["COLUMNS", "ON_DEVICE", "Batch", "Sample"]

COLUMNS = {
    "id": "ids",
    "source": "sources",
    "attributes": "attributes",
    "tags": "tags",
    "embedding": "embeddings",
    "duplicate_state": "duplicate_states",
    "mix": "mix",
    "pass_number": "pass_numbers",
    "label": "labels",
}
"""Each field of a sample's record, which a `Sample` has too -> the field of a Batch that holds the N values."""

ON_DEVICE = frozenset(("embeddings", "labels"))
"""The fields among these that are arrays on the loader's device."""


@dataclass(slots=True, eq=False)
class Batch:
    """Samples that share a bucket. All lists and arrays have N = len(batch) entries, in the same order.

    Memory: `image` belongs to the batch. The pixels are complete when the loader returns the batch, and can be read on
    any stream at once. They stay valid while the array, an array made from it by DLPack, or a sample is referenced.
    A loader's batch decodes its lists, such as `attributes`, when they are read for the first time.

    >>> from datago_gpu import Loader
    >>> images = {"crop_and_resize": True, "default_image_size": 256}
    >>> config = {"source_type": "file", "source_config": {"root_path": "photos"}, "image_config": images}
    >>> with Loader(config | {"batch_size": 2}, device="cpu") as loader:
    ...     batch = next(loader)
    >>> batch.ids, batch.bucket
    (['astronaut.jpg', 'blossom.jpg'], (256, 256))
    >>> np.from_dlpack(batch.image).shape
    (2, 256, 256, 3)
    >>> batch[0].original_size
    (512, 512)
    """

    ids: list[str]
    """Names of the samples; the id of a file is its path below the root."""
    sources: list[str]
    """Where each sample comes from: what a Dataroom stores, or "filesystem" for local files; empty if not known."""
    image: Array | Any
    """With crop_and_resize one array: (N, H, W, 3), or (N, 3, H, W) with layout "CHW", of the dtype set (by default
    uint8 in [0, 255]), on the loader's device: numpy on the CPU; on a GPU an object with DLPack and
    `__cuda_array_interface__`. Without crop_and_resize, and with mixed_buckets, a list of N such arrays, each (H, W, 3)
    of its own size; with image_to_rgb8 false a list of arrays (H, W, C), uint8 or uint16; with pre_encode_images a list
    of N bytes, each a PNG or JPEG. None if `require_images` is false."""
    original_sizes: NDArray[np.int32]
    """(N, 2): height and width of the original images in pixels, upright."""
    crops: NDArray[np.float32]
    """(N, 4): top, left, height, width of the region that `image` shows, in pixels of the original (not mirrored)."""
    bucket: tuple[int, int] | None
    """Height and width of all images of the batch. None without crop_and_resize, or if the images differ in size."""
    attributes: list[dict[str, Any]] = field(default_factory=list)
    """For each sample what its source stores about it, such as captions: values of JSON under their names."""
    tags: list[list[str]] = field(default_factory=list)
    """For each sample the tags that a Dataroom stores."""
    embeddings: Array | Any = None
    """float32 (N, D), on the loader's device, if `require_embeddings` is true."""
    labels: Array | Any = None
    """int64 (N,), on the loader's device: the numbers of the samples' classes, which `loader.classes` names. -1 for a
    sample without a class, or of an unknown one, which `stats().flawed` counts. None if the settings ask for no labels
    and no sample of the batch has one."""
    duplicate_states: list[int | None] = field(default_factory=list)
    """For each sample the duplicate state that a Dataroom stores, or None."""
    epoch: int = 0
    """Number of the pass, counted from 0."""
    masks: dict[str, Array | Any] = field(default_factory=dict)
    """Name -> (N, H, W, 1), or (N, 1, H, W) with layout "CHW", cut from the same region as `image`: uint8, or uint16 or
    int32 as `mask_dtype` says. A list if `image` is a list; with pre_encode_images, a list of PNGs. A sample without
    the mask has zeros, or None in a list. The value is None if no sample of the batch has the mask."""
    additional_images: dict[str, Array | Any] = field(default_factory=dict)
    """Name -> like `image`, cut from the same region; missing ones as in `masks`."""
    latents: dict[str, Array | Any] = field(default_factory=dict)
    """Name -> one array (N, ...) on the loader's device, if all samples have the latent and dtypes and shapes agree;
    else a list of N: an array, bytes for a payload that is not an npy file, or None for a sample without the latent."""
    present: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Name of a mask, additional image or latent -> (N,): which samples have it."""
    real: NDArray[np.bool_] | Any = None
    """(N,): with `lockstep`, false for a sample that only fills a place and should not count: a repeat that completes
    the last batch of a bucket, or a repeat in the place of a bad sample, or gray if all samples of the batch were bad.
    All true without `lockstep`."""
    mix: list[str] | Any = None
    """(N,): the name of each sample's source, if `source_type` is "mix"; else empty texts."""
    pass_numbers: list[int | None] | Any = None
    """(N,): the number of the pass through each sample's source, if `source_type` is "mix"; else None. In a mix, a pass
    is to its source what an epoch is to a source that is loaded alone: the number decides the order and all draws. The
    first pass of epoch e has the number e, and each further pass within the epoch has a number 2**32 higher."""
    sample_epochs: NDArray[np.int64] | Any = None
    """(N,): the pass that each sample belongs to. Below `epoch` for a sample of an earlier pass that waited until its
    batch was full."""
    seed: int = 0
    """The setting `seed`, with which `rng` begins."""
    flipped: NDArray[np.bool_] | Any = None
    """(N,): which samples are shown mirrored left to right, with their masks and additional images."""
    image_sizes: NDArray[np.int32] | Any = None
    """(N, 2): height and width of the images; 0 for a sample without an image. Useful where they differ."""
    further_views: list[FurtherView] = field(default_factory=list)
    """The views after the first: see `views`."""
    lockstep: bool = False
    """Whether the Loader has `lockstep`, so that at this step each rank has a batch of this shape."""

    def __post_init__(self) -> None:
        if self.real is None:
            self.real = np.ones(len(self.ids), np.bool_)
        self.mix = [""] * len(self.ids) if self.mix is None else self.mix
        self.pass_numbers = [None] * len(self.ids) if self.pass_numbers is None else self.pass_numbers
        if self.sample_epochs is None:
            self.sample_epochs = np.full(len(self.ids), self.epoch)
        if self.flipped is None:
            self.flipped = np.zeros(len(self.ids), np.bool_)
        if self.image_sizes is None:
            self.image_sizes = self.original_sizes if self.bucket is None else sizes_of(self.bucket, len(self.ids))

    @property
    def views(self) -> list[Array | Any]:
        """The views of the samples, as `image_config.views` lists them: for each view an array (N, H, W, 3), or
        (N, 3, H, W) with layout "CHW". The first is `image`, and the only one without `image_config.views`."""
        return [self.image, *(view.image for view in self.further_views)]

    @property
    def view_crops(self) -> list[NDArray[np.float32]]:
        """For each view, (N, 4): as `crops`, which belongs to the first view."""
        return [self.crops, *(view.crops for view in self.further_views)]

    @property
    def view_flipped(self) -> list[NDArray[np.bool_]]:
        """For each view, (N,): as `flipped`, which belongs to the first view."""
        return [self.flipped, *(view.flipped for view in self.further_views)]

    def rng(self, index: int, view: int = 0) -> np.random.Generator:
        """Returns a generator of random numbers that belongs to one sample, for augmentation of your own.

        The numbers depend on the seed, the sample's epoch (in a mix, the pass through its source), its id and `view`
        alone: they are the same on every back end, machine and number of ranks, in every batch that the sample may be
        in, and after every resume. Each call returns a new generator, which begins with the first number.

        index: the position of the sample in this batch. view: any number, for several independent generators.
        """
        return generator_of(self.seed, self.sample_epochs[index], self.pass_numbers[index], self.ids[index], view)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Batch: ...

    def __getitem__(self, index: int | slice) -> Sample | Batch:
        """Returns one sample for an int, or a batch of some samples for a slice. Both are views of this batch's memory.

        Raises TypeError for any other index, such as a list of indices.
        """
        if isinstance(index, slice):
            return self._cut(index)
        try:
            return self._sample(operator.index(index))
        except TypeError:
            raise TypeError(
                f"the index of a Batch must be a whole number or a slice, got {type(index).__name__}: "
                "for a list of indices, use [batch[i] for i in indices]"
            ) from None

    def _sample(self, index: int) -> Sample:
        return Sample(
            image=_at(self.image, index),
            original_size=(int(self.original_sizes[index, 0]), int(self.original_sizes[index, 1])),
            crop=four(self.crops[index]),
            masks=self._of_sample(self.masks, index),
            additional_images=self._of_sample(self.additional_images, index),
            latents=self._of_sample(self.latents, index),
            real=bool(self.real[index]),
            epoch=int(self.sample_epochs[index]),
            seed=self.seed,
            flipped=bool(self.flipped[index]),
            image_size=(int(self.image_sizes[index, 0]), int(self.image_sizes[index, 1])),
            further_views=with_rows(self.further_views, index),
            **{name: _at(getattr(self, column), index) for name, column in COLUMNS.items() if name != "label"},
            label=None if self.labels is None else int(self.labels[index]),
        )

    def _of_sample(self, named: dict[str, Any], index: int) -> dict[str, Any]:
        return {name: values[index] if self.present[name][index] else None for name, values in named.items()}

    def _cut(self, rows: slice) -> Batch:
        present = {name: there[rows] for name, there in self.present.items()}

        def cut_named(named: dict[str, Any]) -> dict[str, Any]:
            return {name: values[rows] if present[name].any() else None for name, values in named.items()}

        return replace(
            self,
            image=_at(self.image, rows),
            original_sizes=self.original_sizes[rows],
            crops=self.crops[rows],
            masks=cut_named(self.masks),
            additional_images=cut_named(self.additional_images),
            latents=cut_named(self.latents),
            present=present,
            real=self.real[rows],
            sample_epochs=self.sample_epochs[rows],
            flipped=self.flipped[rows],
            image_sizes=self.image_sizes[rows],
            further_views=with_rows(self.further_views, rows),
            **{column: _at(getattr(self, column), rows) for column in COLUMNS.values()},
        )

    def to_image(self, points: Any, view: int = 0) -> Any:
        """Maps key points or boxes of the originals to pixels of the images. `from_image` is the inverse.

        points: an array (N, K, 2) of (x, y), or (N, K, 4) of boxes (x1, y1, x2, y2); K may be left out, or be several
            axes. Or a list of N such arrays, each with a K of its own. In pixels, from the left and from the top: the
            first pixel reaches from 0 to 1.
        view: the number of the view, if there are several.

        Returns numpy arrays of the same shape, or a list of them: float32 for float32, else float64. Points that the
        images do not show come to lie outside of them. In a mirrored image, x1 of a box is again the left edge. The
        words left and right that belong to a key point (such as an eye) are the caller's to swap: see `flipped`.

        >>> batch = Batch(["a"], [""], None, np.array([[300, 400]]), np.array([[0, 50, 300, 300]]), (224, 224))
        >>> batch.to_image([[[200.0, 150.0]]])
        [array([[112., 112.]])]
        """
        if isinstance(points, list | tuple):
            return [sample.to_image(each, view) for sample, each in self._each(points)]
        return self._cuts(view).to_pictures(points)

    def from_image(self, points: Any, view: int = 0) -> Any:
        """Maps key points or boxes of the images, in the forms of `to_image`, to pixels of the originals."""
        if isinstance(points, list | tuple):
            return [sample.from_image(each, view) for sample, each in self._each(points)]
        return self._cuts(view).to_originals(points)

    def _cuts(self, view: int) -> Cuts:
        sizes = [self.image_sizes, *(each.image_sizes for each in self.further_views)]
        return Cuts(self.view_crops[view], sizes[view], self.view_flipped[view])

    def _each(self, points: list[Any] | tuple[Any, ...]) -> Iterator[tuple[Sample, Any]]:
        if len(points) != len(self):
            raise ValueError(f"points must have an entry for each of the {len(self)} samples, got {len(points)}")
        return zip(self, points, strict=True)

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Batch({len(self)} samples, image={describe(self.image)}, bucket={self.bucket}, epoch={self.epoch})"


def _at(values: Any, rows: int | slice) -> Any:
    return None if values is None else values[rows]
