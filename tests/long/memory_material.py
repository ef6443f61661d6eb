"""Inputs that want much memory for few bytes, or just what the limits let pass: made once, in a folder that is kept."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zstandard
from PIL import Image

__all__ = ["large_jpeg", "pictures", "shards", "small_jpeg", "squeezed_shards"]

MiB = 1024 * 1024
COMMENT = b"\xff\xfe\xff\xff" + bytes(65533)
"""A segment of a JPEG that says nothing, of 64 KiB."""


def encoded(mode: str, side: int, form: str, **options: object) -> bytes:
    """A picture of one colour, which takes few bytes."""
    file = io.BytesIO()
    Image.new(mode, (side, side), 99).save(file, form, **options)
    return file.getvalue()


def small_jpeg() -> bytes:
    """A picture of 64 x 64."""
    return encoded("RGB", 64, "JPEG")


def large_jpeg(size: int) -> bytes:
    """A small picture that is large by its comments: decoders pass over them, so the feeder hands all of it on."""
    small = small_jpeg()
    return small[:2] + COMMENT * (size // len(COMMENT)) + small[2:]


def pictures(folder: Path, count: int, suffix: str, make: Callable[[], bytes]) -> Path:
    """A folder with one picture under so many names."""
    if not folder.exists():
        whole = folder.with_suffix(".part")
        whole.mkdir(parents=True)
        (whole / f"00.{suffix}").write_bytes(make())
        for number in range(1, count):
            (whole / f"{number:02}.{suffix}").hardlink_to(whole / f"00.{suffix}")
        whole.rename(folder)
    return folder


def shards(folder: Path, count: int, samples: int, make: Callable[[], dict[str, bytes]]) -> Path:
    """Shards of so many samples each, all with the same files: part -> content."""
    if not folder.exists():
        whole, files = folder.with_suffix(".part"), make()
        whole.mkdir(parents=True)
        for number in range(count):
            with tarfile.open(whole / f"{number:02}.tar", "w") as tar:
                for sample in range(samples):
                    for part, content in files.items():
                        info = tarfile.TarInfo(f"{number:02}{sample:03}.{part}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
        whole.rename(folder)
    return folder


def squeezed_shards(folder: Path, count: int, form: str) -> Path:
    """Shards of a few KB that ask for windows of 128 MiB, and use them. form: "zst" or "xz"."""
    if not folder.exists():
        whole = folder.with_suffix(".part")
        whole.mkdir(parents=True)
        for number in range(count):
            squeeze = _zstd if form == "zst" else _xz
            (whole / f"{number:02}.tar.{form}").write_bytes(squeeze(_padded(f"{number:02}")))
        whole.rename(folder)
    return folder


def _padded(key: str) -> Iterator[bytes]:
    """A tar, piece by piece: a picture behind 130 MiB that nobody wants."""
    padding, picture = tarfile.TarInfo(f"{key}.bin"), tarfile.TarInfo(f"{key}.jpg")
    padding.size, picture.size = 130 * MiB, len(small_jpeg())
    yield padding.tobuf()
    for _ in range(130):
        yield bytes(MiB)
    yield picture.tobuf()
    yield small_jpeg() + bytes(-picture.size % tarfile.BLOCKSIZE) + bytes(2 * tarfile.BLOCKSIZE)


def _zstd(pieces: Iterable[bytes]) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def _xz(pieces: Iterable[bytes]) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 128 * MiB}]
    compressor = lzma.LZMACompressor(filters=filters)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])
