"""Files and a Dataroom that both datago and we read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datago_gpu.server import DataroomServer
from tests.imaging.test_own_channels import png16
from tests.support.pictures import encode, picture

RGB = np.asarray(Image.fromarray(picture(15, 20)).resize((80, 60), Image.Resampling.BICUBIC))
"""Soft, since datago scales to whole pixels before it cuts: what it shows is up to half a pixel off."""
ALPHA = 255 - RGB[:, :, 1:2] // 2


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of each kind that datago reads, and files that it leaves out."""
    root = tmp_path_factory.mktemp("kinds")
    gray = RGB[:, :, 0]
    deep = RGB.astype(np.uint16) * 257
    kinds = {
        "bmp.bmp": encode(RGB, "BMP"),
        "cmyk.jpg": encode(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95),
        "cut.jpg": encode(RGB, "JPEG")[:400],
        "gif.gif": encode(Image.fromarray(RGB).quantize(16, dither=Image.Dither.NONE), "GIF"),
        "gray.jpg": encode(Image.fromarray(gray), "JPEG"),
        "gray.png": encode(Image.fromarray(gray)),
        "gray16.png": png16(deep[:, :, :1]),
        "la.png": encode(np.dstack([RGB[:, :, :1], ALPHA])),
        "la16.png": png16(np.dstack([deep[:, :, :1], ALPHA.astype("u2") * 257])),
        "one.png": encode(Image.fromarray(gray > 99)),
        "palette.png": encode(Image.fromarray(RGB).quantize(16, dither=Image.Dither.NONE)),
        "palette_alpha.png": encode(Image.fromarray(RGB).quantize(16, dither=Image.Dither.NONE), transparency=3),
        "rgb.jpg": encode(RGB, "JPEG", quality=95),
        "rgb.png": encode(RGB),
        "rgb.webp": encode(RGB, "WEBP", lossless=True),
        "rgb16.png": png16(deep),
        "rgba.png": encode(np.dstack([RGB, ALPHA])),
        "rgba16.png": png16(np.dstack([deep, ALPHA.astype("u2") * 257])),
        "sub/wide.png": encode(picture(40, 100)),
        "text.txt": b"no image",
    }
    (root / "sub").mkdir()
    for name, payload in kinds.items():
        (root / name).write_bytes(payload)
    return root


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataroomServer]:
    """Twelve samples with everything that a sample may have."""
    root = tmp_path_factory.mktemp("room")
    for number in range(12):
        shown = picture(60 + number, 80, number)
        sidecar = {
            "source": "even" if number % 2 == 0 else "odd",
            "attributes": {"number": number, "caption": 'a "quoted" é', "score": 0.85, "flags": [True, None]},
            "tags": ["first"] if number < 5 else [],
            "coca_embedding": [0.1 * number, 0.8],
            "duplicate_state": 1,
            "latents": [
                {"latent_type": "vae", "file": f"x/{number}.npy"},
                {"latent_type": "raw", "file": f"x/{number}.bin"},
                {"latent_type": "fg", "file": f"x/{number}_fg.png", "is_mask": True},
                {"latent_type": "masked_image", "file": f"x/{number}_image.png"},
            ],
        }
        (root / "x").mkdir(exist_ok=True)
        Image.fromarray(shown).save(root / f"{number:02}.png")
        (root / f"{number:02}.json").write_text(json.dumps(sidecar))
        np.save(root / f"x/{number}.npy", np.full((4, 3), number, np.float16))
        (root / f"x/{number}.bin").write_bytes(b"latent %d" % number)
        Image.fromarray(shown[:, :, 0]).save(root / f"x/{number}_fg.png")
        Image.fromarray(shown[::2, ::2]).save(root / f"x/{number}_image.png")
    with DataroomServer(root, payload_port=0, watch_interval_s=None) as running:
        yield running


SHARDS = {
    "two-000000.tar": {
        "a0.cls": b"0",
        "a0.jpg": encode(RGB, "JPEG", quality=95),
        "a0.json": b'{"caption": "c0", "n": 0, "big": 1e999}',
        "a0.txt": b"text 0\n",
        "f/a1.jpg": encode(RGB[:40], "JPEG", quality=95),
        "f/a1.json": b"no JSON",
        "f/a1.txt": b"\xff is not UTF-8",
        "f/a1.png": encode(RGB[:40:2, ::2]),
        "photo.v1.jpg": encode(RGB[:, :40], "JPEG", quality=95),
        "photo.v2.jpg": encode(RGB, "JPEG", quality=95),
        "end.jpg": encode(RGB, "JPEG", quality=95),
    },
    "two-000001.tar": {
        f"b{number}.{ending}": content
        for number in range(3)
        for ending, content in {
            "cls": b"%d\n" % number,
            "jpg": encode(RGB, "JPEG", quality=95),
            "json": b"[%d]" % number,
            "mask.png": encode(RGB[:, :, 0]),
            "npy": b"passed over",
        }.items()
    },
}
"""Two shards. Of a masked sample, datago makes two: one without the mask, and one without an image."""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of those shards."""
    folder = tmp_path_factory.mktemp("shards")
    for name, files in SHARDS.items():
        add_shard(folder / name, files)
    return folder


def add_shard(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive of these files, in their order."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
