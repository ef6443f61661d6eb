"""Which settings can be used in lockstep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datago_gpu.config.loader_config import LoaderConfig

__all__ = ["JUDGED_FROM", "lockstep_problem"]

JUDGED_FROM = 100
"""In lockstep, a rank judges only by so many samples of its own that the data is bad as a whole: of a small validation
set it may have a single one. So it does, with several ranks, for samples that `where` leaves out."""

_MOST_BUCKETS = 2**15 - 1
"""A plan numbers buckets in 16 bits."""


def lockstep_problem(config: LoaderConfig) -> str | None:
    """Returns why these settings cannot be used with `lockstep` true, or None."""
    image = config.image_config
    if config.source_type in ("file", "webdataset"):
        return (
            f"lockstep plans by the sizes of the pictures, and source_type {config.source_type!r} does not list them. "
            "Make an index once: datago-gpu index CONFIG --out index.arrow. Then set source_type to 'table' and "
            "source_config.path to index.arrow"
        )
    if config.source_type == "mix" and (name := _walked_source(config)):
        return (
            f"source {name!r} of the mix: in lockstep, the rows of all sources of a mix must be known before the "
            "start, and source_type 'db' is walked through. Make an index once: datago-gpu index CONFIG --out "
            "index.arrow. Then set the source_type of this source to 'table' and its source_config.path to index.arrow"
        )
    if not image.crop_and_resize or image.mixed_buckets:
        given = "mixed_buckets true" if image.crop_and_resize else "crop_and_resize false"
        return (
            f"lockstep delivers batches of one bucket, and image_config.{given} does not: set crop_and_resize to true "
            "and mixed_buckets to false"
        )
    if not getattr(config.source_config, "require_images", True):
        return "lockstep plans by the buckets of the images: set source_config.require_images to true"
    if config.draws_from_server:
        return (
            "source_config.random_method 'server' draws other samples on each rank, and lockstep needs one order for "
            "all: set random_method to 'shuffle'"
        )
    name = "batch_pixels" if config.batch_pixels else "batch_size"
    if config.limit is not None and config.limit < config.most_samples:
        most = f"batch_size ({config.batch_size})"
        if config.batch_pixels:
            most = f"the {config.most_samples} samples of the largest batch"
        return (
            f"limit ({config.limit}) is below {most}, and lockstep delivers whole batches: raise limit or lower {name}"
        )
    if len(config.bucket_choice().sizes) > _MOST_BUCKETS:
        return (
            f"lockstep plans at most {_MOST_BUCKETS:,} buckets, and there are {len(config.bucket_choice().sizes):,}: "
            "raise image_config.downsampling_ratio"
        )
    return None


def _walked_source(config: LoaderConfig) -> str:
    """Returns the name of a source of the mix that is a Dataroom; "" if there is none."""
    return next((name for name, each in config.source_types if each == "db"), "")
