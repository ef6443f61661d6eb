"""`Admitted`, the record of a sample between fetching and packing."""

from __future__ import annotations

from msgspec import Struct

from datago_gpu.feeder.admit_parts import AdmittedPart
from datago_gpu.imaging.geometry import Region
from datago_gpu.sources.reference import SampleRef
from datago_gpu.units import aligned

__all__ = ["Admitted", "Shown"]


class Shown(Struct, frozen=True):
    """What one view shows of an image."""

    region: Region
    """In pixels of the image, upright."""
    bucket: tuple[int, int] | None
    """(height, width) that the region is scaled to; None where images keep their sizes."""
    flipped: bool


class Admitted(Struct):
    """Holds a sample whose payloads have been fetched and whose headers say that they can be decoded."""

    ref: SampleRef
    payload: bytes
    """Empty for a sample without an image."""
    size: tuple[int, int]
    """(height, width) of the picture in `payload`, upright."""
    orientation: int
    """EXIF orientation of the picture in `payload`."""
    region: Region
    """The visible region, in pixels of the picture in `payload`, upright."""
    original_size: tuple[int, int]
    """(height, width) of the sample's own picture, upright."""
    crop: Region
    """The visible region, in pixels of the sample's own picture, upright."""
    bucket: tuple[int, int] | None
    """(height, width); None where images keep their sizes."""
    parts: list[AdmittedPart] = []
    flipped: bool = False
    """Whether the decoder mirrors the region, and those of the parts, left to right."""
    further: list[Shown] = []
    """The views after the first, in pixels of the sample's own picture."""
    further_regions: list[Region] = []
    """For each of these views, its region in pixels of the picture in `payload`."""

    @property
    def arena_bytes(self) -> int:
        """Returns the bytes that its payloads take in the arena, where each begins at a multiple of ALIGNMENT."""
        size = aligned(len(self.payload))
        for part in self.parts:
            size += aligned(len(part.payload))
        return size

    @property
    def bytes(self) -> int:
        """Returns the bytes of memory that the sample takes: its payloads and its attributes, which may be as large."""
        return self.arena_bytes + len(self.ref.info.attributes)

    @property
    def pixels(self) -> int:
        """Returns the number of pixels of its pictures, at their own sizes."""
        return self.size[0] * self.size[1] + sum(part.size[0] * part.size[1] for part in self.parts)
