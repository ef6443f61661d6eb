"""Settings: one of several views of each image."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from datago_gpu.config.settings import Count, Settings, fields_of, json_value
from datago_gpu.errors import ConfigError

__all__ = ["Aspect", "Share", "Side", "ViewConfig", "view_records"]

Aspect = Annotated[float, Meta(ge=0.001, le=1000)]
Share = Annotated[float, Meta(gt=0, le=1)]
Side = Annotated[int, Meta(ge=1, le=65_535)]

_MOST_VIEWS = 64


class ViewConfig(Settings, frozen=True, kw_only=True):
    """One view of each image. The settings have the meaning that they have in image_config; those left out are as
    there.

    Attributes:
        default_image_size: side length of the square bucket, in pixels.
        downsampling_ratio: the sides of all buckets are multiples of this number of pixels.
        min_aspect_ratio: width / height of the narrowest bucket.
        max_aspect_ratio: width / height of the widest bucket.
        crop: which region of an image is shown: "centre", "random" or "random_resized".
        crop_scale: with crop "random_resized", the least and the largest share of the image's area.
        crop_aspect: with crop "random_resized", the least and the largest aspect ratio of the region, relative to the
            bucket's.
        flip: probability with which the view is mirrored left to right.
    """

    place: ClassVar[str] = "image_config.views."
    default_image_size: Side | None = None
    downsampling_ratio: Count | None = None
    min_aspect_ratio: Aspect | None = None
    max_aspect_ratio: Aspect | None = None
    crop: Literal["centre", "random", "random_resized"] | None = None
    crop_scale: tuple[Share, Share] | None = None
    crop_aspect: tuple[Aspect, Aspect] | None = None
    flip: Annotated[float, Meta(ge=0, le=1)] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Returns the settings that are set."""
        values = {field.name: getattr(self, field.name) for field in fields_of(type(self))}
        return {name: value for name, value in values.items() if value is not None}


def view_records(given: object) -> tuple[ViewConfig, ...] | None:
    """Returns the records for the setting `views`. Raises ConfigError, which names the view."""
    listed = json_value(given)
    if listed is None:
        return None
    if not isinstance(listed, list | tuple):
        raise ConfigError(f"image_config.views must be a list of dicts or None, got {type(given).__name__}")
    if not 1 <= len(listed) <= _MOST_VIEWS:
        raise ConfigError(
            f"image_config.views must have 1 to {_MOST_VIEWS} views, got {len(listed)}: leave views out for one view "
            "of each image"
        )
    return tuple(_record(number, each) for number, each in enumerate(listed))


def _record(number: int, given: object) -> ViewConfig:
    place, known = f"image_config.views[{number}]", [field.name for field in fields_of(ViewConfig)]
    if isinstance(given, ViewConfig):
        return given
    if not isinstance(given, dict):
        raise ConfigError(f"{place} must be a dict, got {type(given).__name__}")
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key {place}.{key}; a view may have {', '.join(known)}")
    try:
        return ViewConfig(**given)
    except ConfigError as problem:
        raise ConfigError(str(problem).replace(ViewConfig.place, f"{place}.", 1)) from None
