"""Checks the parts of an image: masks and further images, which are cut from the same region, and latents."""

from __future__ import annotations

from array import array
from typing import Literal

from msgspec import Struct

from datago_gpu.config import LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import Rejected
from datago_gpu.feeder.wire import ArrayForm
from datago_gpu.imaging.allowance import Allowance
from datago_gpu.imaging.geometry import Cut, Region, Size, full_region
from datago_gpu.imaging.header import read_header
from datago_gpu.sources.reference import Part

__all__ = ["AdmittedPart", "Frame", "PartAdmission"]

_NPY = b"\x93NUMPY"
_PALETTE = b"\x03"
"""Colour type of a PNG, at byte 25: PNG specification, section 11.2.1."""


class AdmittedPart(Struct):
    """Holds a payload that can be decoded, or used as it is."""

    name: str
    kind: Literal["mask", "image", "latent"]
    payload: bytes
    size: tuple[int, int] = (0, 0)
    """(height, width) of the picture, upright."""
    orientation: int = 1
    region: Region = (0.0, 0.0, 0.0, 0.0)
    """The visible region, in pixels of the picture, upright."""
    array: ArrayForm | None = None
    """Set for a latent that is a npy file."""
    offset: int = 0
    """Number of bytes before the array's first byte."""


class Frame(Struct, frozen=True):
    """Says which region of a sample's image is visible. The sample's parts are cut from the same region."""

    size: tuple[int, int]
    """(height, width) of the whole image, upright."""
    crop: Region
    bucket: Size | None
    """None if pictures are not cut."""

    def views(self, height: int, width: int) -> list[Cut]:
        """Returns the visible region of a picture of another size, and the size that it is scaled to, for `to_ppm`."""
        return [(self.of(height, width), self.bucket)]

    def of(self, height: int, width: int) -> Region:
        """Returns the region of a picture of another size that shows the same content: its relative coordinates are the
        same.

        The region is rounded to float32, as it will be on its way to a decoder: with "nearest", a tiny difference
        decides.
        """
        if self.bucket is None:
            return full_region(height, width)
        down, across = height / self.size[0], width / self.size[1]
        top, left = self.crop[0] * down, self.crop[1] * across
        seen = top, left, min(self.crop[2] * down, height - top), min(self.crop[3] * across, width - left)
        top, left, high, wide = array("f", seen)
        return top, left, high, wide


class PartAdmission:
    """Decides whether the parts of an image can be used. Many threads may call it at once.

    `quick` and `thorough` raise Rejected. memory: limits the memory that decoding may take; None: no limit.
    """

    def __init__(self, config: LoaderConfig, memory: Allowance | None = None) -> None:
        self._memory = memory
        self._max_pixels = config.decode_config.max_pixels
        self._max_bytes = Limits.of(config).picture
        self._mask = config.image_config.mask_interpolation
        self._deep = self._mask == "nearest" and config.image_config.mask_dtype != "uint8"
        self._own = not config.image_config.image_to_rgb8

    def quick(self, part: Part, payload: bytes, frame: Frame) -> AdmittedPart | None:
        """Decides by the header. Returns None where `thorough` must decide."""
        if not payload:
            raise Rejected("empty")
        if part.kind == "latent":
            return _latent(part.name, payload)
        header = read_header(payload)
        if header.width * header.height > self._max_pixels:
            raise Rejected(
                "too-many-pixels", f"{header.height} x {header.width}, at most {self._max_pixels} pixels are allowed"
            )
        labels = part.kind == "mask" and payload.startswith(b"\x89PNG") and payload[25:26] == _PALETTE
        if not header.plain or labels:
            return None
        size = header.upright_size
        return AdmittedPart(part.name, part.kind, header.tidy(payload), size, header.orientation, frame.of(*size))

    def pixel_bytes(self, payload: bytes, frame: Frame) -> int:
        """Returns the bytes of pixels that `thorough` would return, where they may be large: a picture that keeps
        its own size. Reads the header."""
        if frame.bucket:
            return 0
        from datago_gpu.imaging.pixels import ppm_bytes

        return ppm_bytes(payload, self._max_pixels)

    def thorough(self, part: Part, payload: bytes, frame: Frame) -> AdmittedPart:
        """Decodes the picture with Pillow, already cut to the bucket. Takes as long as decoding does."""
        from datago_gpu.imaging.pixels import to_ppm  # most streams never need it

        if self._keeps(part) and (header := self._header_of_own(payload)):
            size, orientation = header
            return AdmittedPart(part.name, part.kind, payload, size, orientation, frame.of(*size))
        mask = self._mask if part.kind == "mask" and not self._keeps(part) else ""
        deep = bool(mask) and self._deep
        converted = to_ppm(payload, frame.views, self._max_pixels, mask=mask, deep=deep, memory=self._memory)
        if len(converted.payload) > self._max_bytes:
            raise Rejected("too-large", f"{len(converted.payload)} bytes of pixels do not fit into half of arena_mb")
        return AdmittedPart(part.name, part.kind, converted.payload, converted.size, 1, full_region(*converted.size))

    def _keeps(self, part: Part) -> bool:
        """Returns whether a picture keeps its own channels and depth."""
        return self._own and (part.kind == "image" or self._mask == "lanczos")

    def _header_of_own(self, payload: bytes) -> tuple[tuple[int, int], int] | None:
        from datago_gpu.imaging.own_channels import own_header

        return own_header(payload, self._max_pixels, self._memory)


def _latent(name: str, payload: bytes) -> AdmittedPart:
    """Checks a latent: an array as `numpy.save` writes it, or plain bytes."""
    if not payload.startswith(_NPY):
        return AdmittedPart(name, "latent", payload)
    from datago_gpu.feeder.npy import BadArray, read_form  # which imports numpy; most streams never need it here

    try:
        form, offset = read_form(payload)
    except BadArray as problem:
        raise Rejected("undecodable", f"not a npy file: {problem}") from None
    return AdmittedPart(name, "latent", payload, array=form, offset=offset)
