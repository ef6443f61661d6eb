"""The cases of memory_bounds.py: what a hostile source sends, with which settings, and what comes on top of the sum.

The inputs want much memory for few bytes, or just what the limits let pass. They are made once, in a folder that is
kept.
"""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.servers import Answer, MisbehavingServer, Request, json_answer
from tests.support.shards import tar_bytes
from tests.support.zstd import zstd_of_window

__all__ = ["CASES", "Case"]

MiB = 1024 * 1024
COMMENT = b"\xff\xfe\xff\xff" + bytes(65533)
"""A segment of a JPEG that says nothing, of 64 KiB."""
KEY = "0123456789abcdef0123456789abcdef01234567"
Source = Callable[[Path, MisbehavingServer], dict[str, Any]]
"""Makes what is needed in a folder and on a server; returns the settings of the source."""


@dataclass
class Case:
    """settings: beside the source's. trainer_mb, feeder_mb: what comes on top of the sum, see why."""

    source: Source
    settings: dict[str, Any] = field(default_factory=dict)
    backend: str = "pillow"
    trainer_mb: int = 0
    feeder_mb: int = 0
    why: str = ""


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


def filled(folder: Path, fill: Callable[[Path], object]) -> str:
    """A folder that is filled if it is not there."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        part.rename(folder)
    return str(folder)


def folder(name: str, count: int, mode: str, side: int, form: str, **options: Any) -> Source:
    """One picture under so many names."""

    def fill(path: Path) -> None:
        names = [path / f"{number:02}.{form.lower()}" for number in range(count)]
        names[0].write_bytes(encoded(mode, side, form, **options))
        for name in names[1:]:
            name.hardlink_to(names[0])

    return lambda root, _: {"source_type": "file", "source_config": {"root_path": filled(root / name, fill)}}


def _shards(name: str, fill: Callable[[Path], object], **source: Any) -> Source:
    def made(root: Path, _: MisbehavingServer) -> dict[str, Any]:
        url = filled(root / name, fill)
        return {"source_type": "webdataset", "source_config": {"url": url, "buffer_mb": 64, **source}}

    return made


def shard_folder(name: str, count: int, samples: int, make: Callable[[], dict[str, bytes]], **source: Any) -> Source:
    """Shards of so many samples each, all with the same files: part -> content."""

    def fill(path: Path) -> None:
        files = make().items()
        for number in range(count):
            keys = (f"{number:02}{sample:03}" for sample in range(samples))
            members = ((f"{key}.{part}", content) for key in keys for part, content in files)
            (path / f"{number:02}.tar").write_bytes(tar_bytes(members))

    return _shards(name, fill, **source)


def squeezed(form: str, **source: Any) -> Source:
    """Shards of a few KB that ask for windows of 128 MiB, and use them. form: "zst" or "xz"."""
    squeeze = {"zst": _zstd, "xz": _xz}[form]

    def fill(path: Path) -> None:
        for number in range(8):
            (path / f"{number:02}.tar.{form}").write_bytes(squeeze(_padded(f"{number:02}")))

    return _shards(form, fill, **source)


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
    return zstd_of_window(pieces, 27)


def _xz(pieces: Iterable[bytes]) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 128 * MiB}]
    compressor = lzma.LZMACompressor(filters=filters)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def dataroom(server: MisbehavingServer, entries: list[dict[str, Any]], page_size: int, **more: Any) -> dict[str, Any]:
    def page(request: Request) -> Answer:
        begin = int(request.parameters.get("cursor", 0))
        end = begin + page_size
        following = f"{server.url}/api/images/?cursor={end}" if end < len(entries) else None
        return json_answer({"next": following, "results": entries[begin:end]})

    server.route("/api/images/", page)
    address = {"api_url": server.url + "/api/", "api_key": KEY, "check_count": False, "page_size": page_size}
    return {"source_type": "db", "source_config": {**address, **more}}


def payloads(make: Callable[[], bytes], count: int, **answer: Any) -> Source:
    def made(_: Path, server: MisbehavingServer) -> dict[str, Any]:
        server.script("/p", Answer(200, make(), **answer))
        entries = [{"id": f"{number:05}", "image_direct_url": server.url + "/p"} for number in range(count)]
        return dataroom(server, entries, 100)

    return made


def pages(attribute: Any, **source: Any) -> Source:
    """600 entries with such an attribute, 60 on a page."""

    def made(_: Path, server: MisbehavingServer) -> dict[str, Any]:
        server.script("/p", Answer(200, small_jpeg()))
        entry = {"image_direct_url": server.url + "/p", "attributes": {"a": attribute}}
        return dataroom(server, [{"id": f"{number:05}", **entry} for number in range(600)], 60, **source)

    return made


def bomb() -> bytes:
    """64 KB that unpack to 63 MiB."""
    return gzip.compress(small_jpeg() + bytes(63 * MiB))


def large_sample() -> dict[str, bytes]:
    return {"jpg": large_jpeg(30 * MiB)}


def masked(mode: str) -> Callable[[], dict[str, bytes]]:
    return lambda: {"jpg": small_jpeg(), "mask.png": encoded(mode, 6000, "PNG", compress_level=1)}


SMALL = {"crop_and_resize": True, "default_image_size": 224, "downsampling_ratio": 16}
LOW = {
    "prefetch_memory_mb": 128,
    "bucket_memory_mb": 128,
    "arena_mb": 128,
    "batch_size": 8,
    "samples_buffer_size": 8,
    "decode_config": {"memory_mb": 64},
    "image_config": SMALL,
}
LARGE_VIEW = {"default_image_size": 512, "crop": "random_resized"}
VIEWS = {**LOW, "image_config": {**SMALL, "dtype": "float32", "views": [LARGE_VIEW] * 4 + [{"crop": "random"}] * 4}}
MASKS = {**LOW, "decode_config": {"memory_mb": 400}}
LISTS = {**LOW, "samples_buffer_mb": 60, "decode_config": {"memory_mb": 250}}
SIDE = 9990
FAST = {"compress_level": 1}
TALL = 1427 - 1024
"""What a picture of 9,990 x 9,990 with alpha takes beyond the default of memory_mb: 15 bytes a pixel."""
DEEP = 2379 - 1024
"""The same with 16 bits: 25."""
DALI = 1142 - 1024
"""The same for DALI on the CPU: 12."""

CASES = {
    "ordinary pictures": Case(folder("ordinary", 90, "RGB", 600, "JPEG"), {"image_config": SMALL}),
    "ordinary pictures, 8 views": Case(folder("ordinary", 90, "RGB", 600, "JPEG"), VIEWS),
    "the same 8 views, DALI": Case(folder("ordinary", 90, "RGB", 600, "JPEG"), VIEWS, "dali"),
    "400 payloads of 64 KB that unpack to 63 MiB": Case(
        payloads(bomb, 400, headers={"Content-Encoding": "gzip"}), {"image_config": SMALL}
    ),
    "60 payloads of 60 MiB": Case(payloads(lambda: large_jpeg(60 * MiB), 60), LOW),
    "the same, of no length": Case(payloads(lambda: large_jpeg(60 * MiB), 60, chunked=True), LOW),
    "the same, with 2 processes that download": Case(
        payloads(lambda: large_jpeg(60 * MiB), 60), {**LOW, "http_config": {"download_processes": 2}}
    ),
    "200 payloads of 20 MiB, defaults": Case(payloads(lambda: large_jpeg(20 * MiB), 200), {"image_config": SMALL}),
    "pages of 60 MiB": Case(pages("x" * (MiB - 1000)), LOW),
    "pages of 60 MiB, shuffled": Case(pages("x" * (MiB - 1000), random_sampling=True), LOW),
    "attributes of 170,000 words": Case(pages(["ab"] * 170_000), LOW),
    "8 shards of zstd, windows of 128 MiB": Case(
        squeezed("zst"), LOW, feeder_mb=64 + 128 + 128, why="8 small windows, one wide one, and one ahead"
    ),
    "the same, interleave 8": Case(
        squeezed("zst", interleave=8), LOW, feeder_mb=64 + 8 * 128, why="8 small windows, and 8 wide ones"
    ),
    "8 shards of xz, the same": Case(
        squeezed("xz"), LOW, feeder_mb=64 + 128 + 128, why="8 small windows, one wide one, and one ahead"
    ),
    "40 shards, samples of 30 MiB": Case(shard_folder("large", 40, 4, large_sample), LOW),
    "the same, interleave 8 ": Case(shard_folder("large", 40, 4, large_sample, interleave=8), LOW),
    "the same, shuffled": Case(shard_folder("large", 40, 4, large_sample, random_sampling=True), LOW),
    "masks of 36 MP": Case(shard_folder("masks", 2, 12, masked("L"), masks="mask.png"), MASKS),
    "masks of 36 MP, 16 bits": Case(
        shard_folder("masks16", 2, 12, masked("I;16"), masks="mask.png"),
        MASKS,
        feeder_mb=858 - 400,
        why="one mask is decoded alone",
    ),
    "masks of 36 MP, DALI": Case(shard_folder("masks", 2, 12, masked("L"), masks="mask.png"), MASKS, "dali", 400, 0,
                                 "images and masks have memory_mb each"),
}  # fmt: skip
for backend, alone in (("pillow", 0), ("dali", DALI)):
    large: dict[str, Any] = {"settings": {"image_config": SMALL}, "backend": backend, "trainer_mb": alone}
    large["why"] = "one picture is decoded alone" if alone else ""
    feeder: dict[str, Any] = {**large, "why": "one picture is decoded alone"}
    CASES |= {
        f"6 PNG of 100 MP, {backend}": Case(folder("png", 6, "RGB", SIDE, "PNG", **FAST), **large),
        f"6 PNG of 100 MP, alpha, {backend}": Case(
            folder("png-alpha", 6, "RGBA", SIDE, "PNG", **FAST), **feeder, feeder_mb=TALL
        ),
        f"6 PNG of 100 MP, 16 bits, {backend}": Case(
            folder("png-deep", 6, "I;16", SIDE, "PNG", **FAST), **feeder, feeder_mb=DEEP
        ),
        f"4 progressive JPEG of 100 MP, {backend}": Case(
            folder("progressive", 4, "RGB", SIDE, "JPEG", quality=30, progressive=True), **large
        ),
        f"24 PNG of 2,500 x 2,500 as lists, {backend}": Case(
            folder("lists", 24, "RGB", 2500, "PNG", **FAST), {**LISTS, "image_config": {}}, backend
        ),
        f"the same, 16 bits kept, {backend}": Case(
            folder("lists-deep", 24, "I;16", 2500, "PNG", **FAST),
            {**LISTS, "image_config": {"image_to_rgb8": False}},
            backend,
        ),
    }
