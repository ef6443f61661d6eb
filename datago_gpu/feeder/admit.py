"""Looks at each payload before a decoder sees it: by its header, and with Pillow where that does not settle it."""

from __future__ import annotations

from datago_gpu.config import LoaderConfig, MiB
from datago_gpu.feeder.bucket import Admitted
from datago_gpu.feeder.header import read_header
from datago_gpu.geometry import cover_region
from datago_gpu.sources.base import SampleRef, Skipped

__all__ = ["Admission"]


class Admission:
    """Decides what becomes of payloads, by the settings of a loader. Used from many threads at once."""

    def __init__(self, config: LoaderConfig) -> None:
        self._max_pixels = config.decode_config.max_pixels
        self._max_bytes = config.arena_mb * MiB // 2
        self._buckets = config.image_config.buckets() if config.image_config.crop_and_resize else None

    def quick(self, ref: SampleRef, payload: bytes) -> Admitted | Skipped | None:
        """Decide by the header, in microseconds. None: `thorough` has to."""
        if not payload:
            return Skipped(ref.index, ref.id, ref.where, "empty")
        header = read_header(payload)
        if header.width * header.height > self._max_pixels:
            return self._too_many_pixels(ref, header.height, header.width)
        if not header.plain:
            return None
        size = header.upright_size
        bucket = self._bucket(*size)
        region = cover_region(*size, bucket) if bucket else (0.0, 0.0, float(size[0]), float(size[1]))
        return Admitted(ref, payload, size, header.orientation, region, size, region, bucket)

    def thorough(self, ref: SampleRef, payload: bytes) -> Admitted | Skipped:
        """Decode with Pillow and hand on the pixels, already cut to the bucket. Takes as long as decoding does."""
        from datago_gpu.decode.pixels import Undecodable, to_ppm  # most streams never need it

        try:
            converted = to_ppm(payload, self._bucket, self._max_pixels)
        except Undecodable as problem:
            return Skipped(ref.index, ref.id, ref.where, problem.reason, problem.detail)
        if len(converted.ppm) > self._max_bytes:
            detail = f"{len(converted.ppm)} bytes of pixels do not fit into half of arena_mb"
            return Skipped(ref.index, ref.id, ref.where, "too-large", detail)
        size = converted.size
        region = (0.0, 0.0, float(size[0]), float(size[1]))
        bucket = self._bucket(*converted.original_size)
        return Admitted(ref, converted.ppm, size, 1, region, converted.original_size, converted.crop, bucket)

    def _bucket(self, height: int, width: int) -> tuple[int, int] | None:
        return self._buckets.nearest(height, width) if self._buckets else None

    def _too_many_pixels(self, ref: SampleRef, height: int, width: int) -> Skipped:
        detail = f"{height} x {width}, above decode_config.max_pixels ({self._max_pixels})"
        return Skipped(ref.index, ref.id, ref.where, "too-many-pixels", detail)
