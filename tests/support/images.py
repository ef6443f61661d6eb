"""Folders of small pictures in a few buckets, and the settings that load them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from datago_gpu.config import LoaderConfig

SHAPES = [(40, 40), (30, 60), (60, 30)]
"""(height, width) of pictures that go to three different buckets."""


def file_config(root: Path | str, **more: Any) -> LoaderConfig:
    """Buckets of 64 px in steps of 16, little memory. `source`, `image` and `http` add to those sections."""
    return LoaderConfig.load(
        {
            "source_type": "file",
            "source_config": {"root_path": str(root), **more.pop("source", {})},
            "image_config": {
                "crop_and_resize": True,
                "default_image_size": 64,
                "downsampling_ratio": 16,
                **more.pop("image", {}),
            },
            "http_config": {"max_payload_mb": 1, "concurrent_downloads": 4, **more.pop("http", {})},
            "arena_mb": 2,
            "batch_size": 4,
            **more,
        }
    )


def add_picture(path: Path, height: int = 40, width: int = 40, color: int = 0) -> Path:
    """Write a small picture of one color; the format is that of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (color % 256, 80, 160)).save(path)
    return path


def small_jpeg(color: int = 0) -> bytes:
    """A JPEG of 40 x 40 pixels of one color."""
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (color % 256, 80, 160)).save(file, "JPEG", quality=95)
    return file.getvalue()


def add_squares_and_wide(root: Path, squares: int, wide: int) -> Path:
    """Pictures for two buckets: square0.jpg, ... and wide0.jpg, ...; the folder."""
    for number in range(squares):
        add_picture(root / f"square{number}.jpg", color=number)
    for number in range(wide):
        add_picture(root / f"wide{number}.jpg", 30, 60, color=number)
    return root


def add_pictures(root: Path, shapes: list[tuple[int, int]]) -> list[str]:
    """One JPEG for each shape, named in this order; the names."""
    names = [f"{number:04}.jpg" for number in range(len(shapes))]
    for number, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        add_picture(root / name, *shape, color=number)
    return names
