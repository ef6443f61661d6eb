"""Loads the first batches and, in a second pass, small images of their originals.

A Batch does not contain the originals. The second pass uses the same settings with a batch size of one and buckets so
fine that almost nothing is cropped: small images arrive one at a time, in the order of the source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
from PIL import Image

from datago_gpu.batch import Batch, Sample
from datago_gpu.config import ConfigLike, ImageConfig, LoaderConfig, MixSource
from datago_gpu.config.mix import PlainSource
from datago_gpu.errors import ConfigError, DatagoError
from datago_gpu.imaging.geometry import Region
from datago_gpu.loader import Loader
from datago_gpu.preview.masks import MaskKind, colour_of, kind_of_mask, overlay_mask
from datago_gpu.preview.pictures import fit_area, mask_levels, outline_crops, to_picture
from datago_gpu.preview.text import caption_of, single_line

__all__ = ["Overview", "Panel", "ShownBatch", "ShownSample", "gather", "title_of"]

AREA, LONGEST = 200 * 200, 420
"""Size of an image on the sheet, in pixels."""
_FURTHER_AREA = 120 * 120
"""Size of each view after the first."""
_WHOLE = ImageConfig(
    crop_and_resize=True, default_image_size=256, downsampling_ratio=1, min_aspect_ratio=0.02, max_aspect_ratio=50
)
"""Settings for originals: each side is cropped by less than 1%, up to aspect ratios of 1:50."""
_NOT_IN_TITLE = frozenset(("api_key", "auth_token", "storage_options", "rank", "world_size"))
"""Source settings that are not shown in the title."""


@dataclass(slots=True)
class Panel:
    """One image of a sample, and its name."""

    name: str
    picture: Image.Image


@dataclass(slots=True)
class ShownSample:
    """One sample, ready for the layout. `panels`: the model's views, additional images, the original."""

    id: str
    size: tuple[int, int]
    """(height, width) of the original in pixels."""
    caption: str
    tags: list[str]
    panels: list[Panel]
    label: str = ""
    """Its class in words; "" for none."""


@dataclass(slots=True)
class ShownBatch:
    """One batch: the number of its samples, and the samples that are shown."""

    bucket: tuple[int, int] | None
    epoch: int
    count: int
    samples: list[ShownSample]
    fills: int = 0
    """How many of the samples only fill a place in lockstep. They are not shown."""


@dataclass(slots=True)
class Overview:
    """Everything that the preview shows."""

    title: str
    backend: str
    cropped: bool = True
    """Whether crop_and_resize is on."""
    batches: list[ShownBatch] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    """Names, in the order of their colours."""
    label_maps: set[str] = field(default_factory=set)
    """Those of them that hold numbers of labels."""
    skipped: dict[str, int] = field(default_factory=dict)
    filtered: int = 0
    """How many samples `where` has left out."""
    views: int = 1
    """How many views the model sees of each sample."""


Key = tuple[int, str, str, tuple[int, int]]
"""Epoch, name of the source in a mix, id, original size."""


class _Gatherer:
    def __init__(self, config: LoaderConfig, overview: Overview, most: int, classes: list[str]) -> None:
        self._config, self.overview, self._most, self._classes = config, overview, most, classes
        self._waiting: dict[Key, list[tuple[ShownSample, list[Region]]]] = defaultdict(list)

    def add(self, batch: Batch) -> None:
        """Copies what it keeps, small."""
        real = [index for index in range(len(batch)) if batch.real[index]]
        samples = [batch[index] for index in real[: self._most]]
        self.overview.masks += [name for name in batch.masks if name not in self.overview.masks]
        kinds = self._mask_kinds(samples)
        self.overview.label_maps |= {name for name, kind in kinds.items() if kind == "labels"}
        drawn = [self._draw_sample(sample, kinds) for sample in samples]
        shown = ShownBatch(batch.bucket, batch.epoch, len(batch), drawn, fills=len(batch) - len(real))
        for sample, each in zip(samples, shown.samples, strict=True):
            self._waiting[_key(sample)].append((each, sample.view_crops))
        self.overview.batches.append(shown)

    def add_original(self, batch: Batch) -> None:
        """Adds a batch of the second pass, which holds one sample."""
        sample = batch[0]
        waiting = self._waiting.get(_key(sample))
        if not waiting:
            return
        shown, crops = waiting.pop(0)
        picture = _fitted(sample.image, _WHOLE)
        shown.panels.append(Panel("original", outline_crops(picture, sample.crop, crops)))
        if not waiting:
            del self._waiting[_key(sample)]

    @property
    def is_complete(self) -> bool:
        return not self._waiting

    def _mask_kinds(self, samples: list[Sample]) -> dict[str, MaskKind]:
        image = self._config.image_config
        return {
            name: kind_of_mask(mask_levels(sample.masks[name], image) for sample in samples
                               if sample.masks.get(name) is not None)
            for name in self.overview.masks
        }  # fmt: skip

    def _draw_sample(self, sample: Sample, kinds: dict[str, MaskKind]) -> ShownSample:
        image = self._config.image_config
        view = _fitted(sample.image, image)
        for number, name in enumerate(self.overview.masks):
            if sample.masks.get(name) is not None:
                view = overlay_mask(view, mask_levels(sample.masks[name], image), kinds[name], colour_of(number))
        panels = [Panel("model, mirrored" if sample.flipped else "model", view)]
        panels += [
            Panel(f"view {number}, mirrored" if flipped else f"view {number}", _fitted(array, image, _FURTHER_AREA))
            for number, (array, flipped) in enumerate(zip(sample.views, sample.view_flipped, strict=True))
            if number > 0
        ]
        panels += [
            Panel(self._text(name), _fitted(array, image))
            for name, array in sample.additional_images.items()
            if array is not None
        ]
        tags = [self._text(tag) for tag in sample.tags]
        caption = self._text(caption_of(sample.attributes))
        label = self._label_of(sample)
        shown_id = self._text(f"{sample.mix}: {sample.id}" if sample.mix else sample.id)
        return ShownSample(shown_id, sample.original_size, caption, tags, panels, label)

    def _label_of(self, sample: Sample) -> str:
        if sample.label is None:
            return ""
        if sample.label < 0:
            return "no class"
        name = self._text(self._classes[sample.label]) if sample.label < len(self._classes) else ""
        return f"class {sample.label} {name}".rstrip()

    def _text(self, text: str) -> str:
        return self._config.redacted(single_line(text))


def _fitted(array: Any, image: ImageConfig, area: int = AREA) -> Image.Image:
    return fit_area(to_picture(array, image), area, LONGEST)


def _key(sample: Sample) -> Key:
    return sample.epoch, sample.mix, sample.id, sample.original_size


def gather(
    config: ConfigLike,
    *,
    batches: int,
    samples: int,
    device: str = "auto",
    backend: str = "auto",
    progress: Callable[[str], None] = lambda _: None,
) -> Overview:
    """Loads the first `batches`, and keeps small images of the first `samples` of each.

    progress: called with a text for each step. Raises what a Loader raises, and DatagoError if there is no batch.
    """
    config = LoaderConfig.load(config).anchor_paths()
    if not getattr(config.source_config, "require_images", True):
        raise ConfigError("source_config.require_images is false: there are no images to preview")
    with Loader(config, device=device, backend=backend) as loader:
        where = f"{loader.backend.name} on {loader.backend.device}"
        overview = Overview(title_of(config), where, config.image_config.crop_and_resize)
        overview.views = config.image_config.view_count
        gatherer = _Gatherer(config, overview, samples, _classes_of(loader))
        progress("loading the first batch")
        for number, batch in enumerate(islice(loader, batches), 1):
            gatherer.add(batch)
            progress(f"batch {number} of {batches}")
        stats = loader.stats()
    overview.skipped, overview.filtered = stats.skipped, stats.filtered
    if not overview.batches:
        skipped = ", ".join(f"{count} {reason}" for reason, count in stats.skipped.items()) or "none"
        raise DatagoError(
            f"no batch was delivered; samples skipped: {skipped}; with drop_last, only full batches are delivered"
        )
    if config.image_config.crop_and_resize:
        progress("loading the originals")
        _add_originals(config, gatherer, next(stage.items for stage in stats.stages if stage.name == "fetch"))
    return overview


def _classes_of(loader: Loader) -> list[str]:
    """Returns the names of the classes; none if the sources of a mix have different ones."""
    try:
        return loader.classes or []
    except ConfigError:
        return []


def title_of(config: LoaderConfig) -> str:
    """Returns a title: the place of the samples and the other source settings, such as "photos, shuffled"."""
    mix = config.source_config
    if isinstance(mix, MixSource):
        shares = (f"{part.name} {weight:g}" for part, weight in zip(mix.sources, mix.weights, strict=True))
        return config.redacted(single_line(f"a mix of {', '.join(shares)} ({'passes' if mix.repeats else 'weights'})"))
    given = {name: value for name, value in config.source_config.__rich_repr__() if name not in _NOT_IN_TITLE}
    places = [name for name in ("root_path", "url", "path", "api_url") if name in given]
    words = [str(given.pop(name)) for name in places] or ["a Dataroom"]
    if given.pop("random_sampling", False):
        words.append("shuffled")
    return config.redacted(single_line(", ".join([*words, *(f"{name} {value}" for name, value in given.items())])))


def _in_the_order_of_rows(config: LoaderConfig, fetched: int, batches: int) -> dict[str, Any]:
    """Returns the settings by which the rows of these batches come one after the other, as they were planned."""
    samples = config.most_samples * config.rank_and_world_size()[1]
    open_at_most = len(config.bucket_choice().sizes)  # batches that had begun when the last one was full
    return {
        "lockstep": False,
        "limit": fetched + (batches + open_at_most) * samples,
        "source_config": msgspec.structs.replace(_without_crops(config), rank=0, world_size=1),
    }


def _without_crops(config: LoaderConfig) -> PlainSource | MixSource:
    """Returns the source, of a mix without what its sources say about crops."""
    mix = config.source_config
    if not isinstance(mix, MixSource):
        return mix
    return msgspec.structs.replace(
        mix, sources=[msgspec.structs.replace(part, image_config={}) for part in mix.sources]
    )


def _add_originals(config: LoaderConfig, gatherer: _Gatherer, fetched: int) -> None:
    """Adds the originals in a second pass. fetched: number of samples that the first pass has loaded."""
    changes: dict[str, Any] = {
        "image_config": _WHOLE,
        "source_config": _without_crops(config),
        "batch_size": 1,
        "batch_pixels": None,
        "drop_last": False,
        "limit": fetched,
        "max_failures": None,
        "skipped_file": None,
    }
    if config.lockstep:
        changes |= _in_the_order_of_rows(config, fetched, len(gatherer.overview.batches))
    with Loader(msgspec.structs.replace(config, **changes), device="cpu", backend="pillow") as loader:
        for batch in loader:
            gatherer.add_original(batch)
            if gatherer.is_complete:
                return
