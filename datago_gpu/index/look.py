"""Looks at one encoded image: its size as displayed, or why a Loader would skip it. Says which bytes it needs.

The header decides; pixels are decoded only of a local file that ends early, and of rare formats. So damage behind the
header is found only later, by a Loader.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from msgspec import structs

from datago_gpu.config import ImageConfig, LoaderConfig
from datago_gpu.config.limits import Limits
from datago_gpu.errors import Rejected
from datago_gpu.feeder.admit import Admission
from datago_gpu.imaging.header import read_header
from datago_gpu.imaging.heads import format_of, is_complete, without_pixels
from datago_gpu.sources.index_form import IndexRow
from datago_gpu.sources.reference import SampleRef, Skipped
from datago_gpu.sources.sample_info import SampleInfo

__all__ = ["Look", "Looker", "Looking", "ReadAt", "read_fully"]

_FIRST_BYTES = 16 * 1024
"""Read of each file at once: most JPEGs have their header in it, and a read of 64 KiB takes three times as long."""
_TAIL_BYTES = 12

ReadAt = Callable[[int, int], bytes]
"""Reads the bytes from one number up to another of a file. May return fewer, as on some network file systems."""


class Look(NamedTuple):
    """What was found. reason: why the image cannot be used; "" if it can."""

    height: int = 0
    width: int = 0
    format: str = ""
    reason: str = ""
    detail: str = ""

    @classmethod
    def of_row(cls, row: IndexRow) -> Look:
        """Returns what a row says about its image."""
        return cls(row.height, row.width, row.format or "", row.reason or "", row.detail or "")

    def fill(self, row: IndexRow) -> None:
        """Writes what was found into a row."""
        row.height, row.width, row.format = self.height, self.width, self.format or None
        row.reason, row.detail = self.reason or None, self.detail or None


Looking = Generator[tuple[int, int], bytes, Look]
"""Yields where the bytes begin and end that it needs next; they lie within the file. Returns the result."""


class Looker:
    """Looks at images by the settings of a loader. Any thread may use it.

    near: whether reading a few bytes more costs little, as from a local file: then the file's end is looked at, too.
    """

    def __init__(self, config: LoaderConfig, *, near: bool) -> None:
        self._admission, self._near = Admission(_whole_images(config)), near
        self._most_pixels, self._most_bytes = config.decode_config.max_pixels, Limits.of(config).payload

    def look_into(self, read: ReadAt, size: int) -> Look:
        """Looks at a file of `size` bytes that can be read at any place. Raises what `read` raises."""
        steps = self.look(read_fully(read, 0, min(size, _FIRST_BYTES)), size)
        try:
            begin, end = next(steps)
            while True:
                begin, end = steps.send(read_fully(read, begin, end))
        except StopIteration as done:
            look: Look = done.value
            return look

    def look(self, head: bytes, size: int) -> Looking:
        """Looks at a file of `size` bytes that begins with `head`."""
        if not size:
            return Look(reason="empty")
        if size > self._most_bytes:
            return Look(reason="too-large", detail=f"{size} bytes, above http_config.max_payload_mb")
        small = without_pixels(head)
        while isinstance(small, int) and len(head) < size:
            head += yield len(head), min(size, max(small, 2 * len(head)))
            small = without_pixels(head)
        if isinstance(small, bytes) and (yield from self._is_whole(head, size)):
            found = self._by_header(small)
            if found:
                return found
        if len(head) < size:
            head += yield len(head), size
        return self._by_all(head)

    def _is_whole(self, head: bytes, size: int) -> Generator[tuple[int, int], bytes, bool]:
        """Returns whether the end of the file is there, as far as that is looked at."""
        kind = format_of(head)
        if kind == "webp":
            return is_complete(head, b"", size)
        if not self._near:
            return True
        if kind == "png":  # chunks behind the pixels may turn the image
            return False
        return is_complete(head, (yield max(0, size - _TAIL_BYTES), size), size)

    def _by_header(self, small: bytes) -> Look | None:
        """Returns the result for an image without its pixels; None if only all bytes can tell."""
        header = read_header(small)
        kind = format_of(small)
        if header.plain or (kind == "webp" and header.width and header.height):
            return self._sized(*header.upright_size, kind)
        return self._by_pillow(small) if kind != "webp" else None

    def _by_all(self, payload: bytes) -> Look:
        header = read_header(payload)
        if header.plain:
            return self._sized(*header.upright_size, format_of(payload))
        found = self._by_pillow(payload) if is_complete(payload, payload, len(payload)) else None
        return found or self._by_pixels(payload)

    def _by_pillow(self, payload: bytes) -> Look | None:
        from datago_gpu.imaging.pillow_header import pillow_size  # most data sets never need Pillow here

        try:
            found = pillow_size(payload, self._most_pixels)
        except Rejected as problem:
            return Look(reason=problem.reason, detail=problem.detail)
        return found and Look(*found[0], found[1])

    def _by_pixels(self, payload: bytes) -> Look:
        """Decodes the image, as the feeder does with all that it cannot tell by a header."""
        ref = SampleRef(0, SampleInfo(""))
        outcome = self._admission.quick(ref, payload) or self._admission.thorough(ref, payload)
        if isinstance(outcome, Skipped):
            return Look(reason=outcome.reason, detail=outcome.detail)
        return Look(*outcome.original_size, format_of(payload))

    def _sized(self, height: int, width: int, kind: str) -> Look:
        if height * width > self._most_pixels:
            detail = f"{height} x {width}, above decode_config.max_pixels ({self._most_pixels})"
            return Look(reason="too-many-pixels", detail=detail)
        return Look(height, width, kind)


def _whole_images(config: LoaderConfig) -> LoaderConfig:
    """Returns settings by which no image is too small: what is too small is decided where the index is loaded."""
    image = ImageConfig(image_to_rgb8=config.image_config.image_to_rgb8)
    plain: LoaderConfig = structs.replace(config, image_config=image, batch_pixels=None, lockstep=False)
    return plain.with_source(min_short_edge=0)


def read_fully(read: ReadAt, begin: int, end: int) -> bytes:
    """Returns the bytes from `begin` up to `end`, in as many calls as needed; fewer if the file ends before."""
    content = read(begin, end)
    while len(content) < end - begin and (more := read(begin + len(content), end)):
        content += more
    return content
