"""Makes the photographs for the report: cut from the ones that ship, the same ones each time.

    500px/ 1mp/ 2.5mp/ 8mp/     JPEGs of quality 85, 4:2:0, as benchmarks/material.py makes them
    kinds/SIZE/KIND-NUMBER.EXT  the same pictures in other encodings, for parity

The kinds are compressed twice; what is compared are decoders of the same bytes, so that does not matter.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.material import SHIPPED, make

__all__ = ["COUNTS", "KINDS", "SMALL_COUNTS", "prepare"]

COUNTS = {"500px": 512, "1mp": 256, "2.5mp": 128, "8mp": 64}
SMALL_COUNTS = {"500px": 8, "1mp": 2}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg-420": ("jpg", {"quality": 90, "subsampling": "4:2:0"}),
    "jpeg-422": ("jpg", {"quality": 90, "subsampling": "4:2:2"}),
    "jpeg-444": ("jpg", {"quality": 90, "subsampling": "4:4:4"}),
    "jpeg-gray": ("jpg", {"quality": 90}),
    "progressive-420": ("jpg", {"quality": 90, "subsampling": "4:2:0", "progressive": True}),
    "progressive-444": ("jpg", {"quality": 90, "subsampling": "4:4:4", "progressive": True}),
    "png": ("png", {"compress_level": 1}),
    "webp": ("webp", {"quality": 90, "method": 0}),
}
_PER_KIND = {"500px": 12, "1mp": 4}
"""Size -> pictures of each kind. Larger ones take the processor half a second each to compare, and show no more."""


def prepare(folder: Path, *, small: bool, photos: Path | None = None) -> Path:
    """Fills a folder, unless it is filled. Pillow saves to files without the GIL, so threads do."""
    for size, count in (SMALL_COUNTS if small else COUNTS).items():
        make(folder / size, count, size, photos or SHIPPED)
    with ThreadPoolExecutor(len(_PER_KIND)) as threads:
        list(threads.map(lambda size: _kinds(folder, size, 2 if small else _PER_KIND[size]), _PER_KIND))
    return folder


def _kinds(folder: Path, size: str, count: int) -> None:
    out = folder / "kinds" / size
    out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((folder / size).glob("*.jpg"))[:count]):
        with Image.open(path) as picture:
            for kind, (extension, options) in KINDS.items():
                shown = picture.convert("L" if kind == "jpeg-gray" else "RGB")
                shown.save(out / f"{kind}-{number:02d}.{extension}", **options)
