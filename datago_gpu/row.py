"""`Row`: one sample of a source of the user's own, for `Loader(config, source=rows)`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from msgspec import Struct

__all__ = ["Payload", "Row"]

Payload: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str]"
"""Encoded bytes, or where they lie: a path, or an address (http, https, s3, gs, az, hf)."""


class Row(Struct):
    """Describes one sample: an image, and what belongs to it.

    id: the sample's name, as in `Batch.ids`.
    image: the encoded image (JPEG, PNG, ...) as bytes; or where it lies: the path of a file, or an address (http,
        https, s3, gs, az, hf). A relative path begins at `base_folder`, by default the working folder when the Loader
        is made.
    width, height: of the image in pixels, upright; 0 if unknown. Only lockstep needs them.
    attributes: any values that JSON has, as in `Batch.attributes`.
    masks, latents, additional_images: name -> bytes, path or address, as for `image`. A batch has the names that one of
        its rows has; `Batch.present` tells which rows.
    label: the number of the image's class, as in `Batch.labels`. It also becomes the attribute "label".

    The fields are checked when the loader takes the row: wrong values end the run with a SourceError that names the row
    and the field.

    >>> from datago_gpu import Loader
    >>> rows = [Row(name, f"photos/{name}.jpg", label=at) for at, name in enumerate(["astronaut", "blossom"])]
    >>> with Loader({"batch_size": 2}, device="cpu", source=rows) as loader:
    ...     batch = next(loader)
    >>> batch.ids, batch.labels, batch.attributes[1]
    (['astronaut', 'blossom'], array([0, 1]), {'label': 1})
    """

    id: str
    image: Payload
    width: int = 0
    height: int = 0
    attributes: Mapping[str, Any] = {}
    masks: Mapping[str, Payload] = {}
    latents: Mapping[str, Payload] = {}
    label: int | None = None
    additional_images: Mapping[str, Payload] = {}
