"""Masks of labels beyond 255: every number arrives as it was saved, on both back ends."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datago_gpu import Batch, ConfigError, Loader, LoaderConfig
from datago_gpu.decoders.select import Backend, choose
from tests.support.made.png import chunk, png
from tests.support.made.tiff import BLACK_IS_ZERO, tiff
from tests.support.needs import needs
from tests.support.pictures import encode, on_host, picture
from tests.support.shards import tar_bytes

HEIGHT, WIDTH = 48, 80
LABELS = np.zeros((HEIGHT, WIDTH), np.uint16)
LABELS[10:30, 10:40], LABELS[30:44, 50:70], LABELS[:8, :8], LABELS[40:, :20] = 7, 20, 300, 65_535
SMALL = np.where(LABELS > 255, 9, LABELS).astype(np.uint8)
WIDE = LABELS.astype(np.int64) * 40_000
DEEP = LABELS[..., None]


def pgm(labels: NDArray[Any], highest: int) -> bytes:
    return b"P5\n%d %d\n%d\n" % (labels.shape[1], labels.shape[0], highest) + labels.astype(">u2").tobytes()


def palette_png(labels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(labels, "P")
    image.putpalette([level for number in range(256) for level in (number, 255 - number, 3)])
    return encode(image)


FEW = np.where(LABELS > 300, 299, LABELS)
FILES: dict[str, tuple[bytes, NDArray[Any]]] = {
    "png of 8 bits": (encode(SMALL), SMALL),
    "palette": (palette_png(SMALL), SMALL),
    "png": (png(DEEP, 16), LABELS),
    "png interlaced": (png(DEEP, 16, interlaced=True), LABELS),
    "png with a transparent level": (png(DEEP, 16, before=chunk(b"tRNS", b"\0\x07")), LABELS),
    "png with alpha": (png(np.dstack([DEEP, DEEP // 2]), 16), LABELS),
    "tiff": (tiff(DEEP, BLACK_IS_ZERO), LABELS),
    "tiff big-endian, deflate": (tiff(DEEP, BLACK_IS_ZERO, order=">", deflate=True, predictor=True), LABELS),
    "tiff 12 bits": (tiff(np.minimum(DEEP, 4095), BLACK_IS_ZERO, bits=12), np.minimum(LABELS, 4095)),
    "pgm": (pgm(LABELS, 65_535), LABELS),
    "pgm of 300 levels": (pgm(FEW, 300), FEW),
    "tiff int16": (tiff((DEEP % 500).astype(np.int16) - 1, BLACK_IS_ZERO), (LABELS % 500).astype(np.int32) - 1),
    "tiff int32": (tiff(WIDE.astype(np.int32)[..., None] - 1, BLACK_IS_ZERO), WIDE.astype(np.int32) - 1),
    "tiff uint32": (tiff(WIDE.astype(np.uint32)[..., None], BLACK_IS_ZERO, order=">"), WIDE.astype(np.int32)),
}
"""Name -> the file, and the labels in it with the dtype that they need."""


def write(folder: Path, files: dict[str, bytes | None]) -> None:
    """A shard: name -> mask, or None for a sample without one."""
    image = encode(picture(HEIGHT, WIDTH), "JPEG")
    parts: list[tuple[str, bytes]] = []
    for name, mask in files.items():
        parts.append((f"{name}.jpg", image))
        if mask is not None:
            parts.append((f"{name}.mask.png", mask))
    (folder / "shard.tar").write_bytes(tar_bytes(parts))


def load(folder: Path, backend: Backend, batch_size: int = 64, **image: Any) -> tuple[list[Batch], dict[str, int]]:
    config = {
        "source_type": "webdataset",
        "source_config": {"url": str(folder / "shard.tar"), "masks": "mask.png", "optional": "mask.png"},
        "image_config": image,
        "batch_size": batch_size,
    }
    with Loader(config, device=backend.device, backend=backend.name) as loader:
        return list(loader), dict(loader.stats().skipped)


def by_id(batches: list[Batch]) -> dict[str, Any]:
    """Id -> the mask."""
    return {sample.id: sample.masks["mask.png"] for batch in batches for sample in batch}


CROPPED = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}


@pytest.mark.parametrize("rgb8", [True, False])
def test_each_kind_of_file_keeps_its_labels(tmp_path: Path, backend: Backend, rgb8: bool) -> None:
    write(tmp_path, {name: payload for name, (payload, _) in FILES.items()})
    batches, skipped = load(tmp_path, backend, image_to_rgb8=rgb8)
    assert not skipped
    masks = {name: on_host(mask) for name, mask in by_id(batches).items()}
    assert masks.keys() == FILES.keys()
    for name, (_, labels) in FILES.items():
        assert (name, masks[name].dtype, masks[name].shape) == (name, labels.dtype, (HEIGHT, WIDTH, 1))
        assert np.array_equal(masks[name][..., 0], labels), name


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_a_batch_has_the_widest_dtype_that_one_of_its_masks_needs(
    tmp_path: Path, backend: Backend, layout: str
) -> None:
    """Four batches of three: 8 bits; 8 bits, none, 16 bits; 16 bits; all of them."""
    small, deep, wide = encode(SMALL), png(DEEP, 16), tiff(WIDE.astype(np.int32)[..., None], BLACK_IS_ZERO)
    write(tmp_path, {
        "0": small, "1": small, "2": small,
        "3": small, "4": None, "5": deep,
        "6": deep, "7": deep, "8": deep,
        "9": wide, "a": small, "b": deep,
    })  # fmt: skip
    batches, skipped = load(tmp_path, backend, 3, layout=layout, **CROPPED)
    assert not skipped
    assert ["".join(batch.ids) for batch in batches] == ["012", "345", "678", "9ab"]
    masks = [on_host(batch.masks["mask.png"]) for batch in batches]
    assert [mask.dtype for mask in masks] == [np.uint8, np.uint16, np.uint16, np.int32]
    shape = (3, 48, 80, 1) if layout == "HWC" else (3, 1, 48, 80)
    assert [mask.shape for mask in masks] == [shape] * 4
    first, second, third, fourth = (mask.reshape(3, 48, 80) for mask in masks)
    assert np.array_equal(first[0], SMALL)
    assert np.array_equal(second, [SMALL, np.zeros_like(SMALL), LABELS])
    assert np.array_equal(third, [LABELS] * 3)
    assert np.array_equal(fourth, [WIDE.astype(np.int32), SMALL, LABELS])
    assert batches[1].present["mask.png"].tolist() == [True, False, True]


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("crop", [True, False])
def test_int32_is_always_int32(tmp_path: Path, backend: Backend, crop: bool, layout: str) -> None:
    write(tmp_path, {"0": encode(SMALL), "1": png(DEEP, 16), "2": encode(SMALL), "3": encode(SMALL)})
    image = CROPPED if crop else {}
    batches, _ = load(tmp_path, backend, 2, mask_dtype="int32", layout=layout, **image)
    for name, mask in by_id(batches).items():
        host = on_host(mask)
        assert host.dtype == np.int32
        assert host.shape == ((HEIGHT, WIDTH, 1) if layout == "HWC" else (1, HEIGHT, WIDTH))
        assert np.array_equal(host.reshape(HEIGHT, WIDTH), LABELS if name == "1" else SMALL)


@pytest.mark.parametrize("image", [{"mask_dtype": "uint8"}, {"mask_interpolation": "lanczos"}])
def test_brightness_in_8_bits_is_to_be_had(tmp_path: Path, backend: Backend, image: dict[str, Any]) -> None:
    write(tmp_path, {"0": png(DEEP, 16), "1": encode(SMALL)})
    batches, _ = load(tmp_path, backend, **image, **CROPPED)
    masks = on_host(batches[0].masks["mask.png"])
    assert masks.dtype == np.uint8
    assert np.array_equal(masks[0, ..., 0], (LABELS.astype(int) + 128) // 257)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_labels_are_cut_as_the_same_numbers_of_8_bits_are(tmp_path: Path, orientation: int) -> None:
    """By the Pillow back end: of two pixels that are equally near DALI may take the other one."""
    labels = (np.arange(90 * 70).reshape(90, 70) % 251).astype(np.uint8)
    exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0" % orientation)
    write(tmp_path, {
        "8": png(labels[..., None], 8, before=exif),
        "16": png(labels[..., None], 16, before=exif),
        "32": tiff(labels.astype(np.int32)[..., None], BLACK_IS_ZERO, orientation=orientation),
    })  # fmt: skip
    batches, skipped = load(tmp_path, choose("cpu", "pillow"), **CROPPED)
    assert not skipped
    masks = by_id(batches)
    assert np.array_equal(masks["8"], masks["16"])
    assert np.array_equal(masks["8"], masks["32"])
    assert set(np.unique(masks["16"])) <= set(range(251))


def test_encoded_again_they_are_png_of_16_bits(tmp_path: Path, backend: Backend) -> None:
    fits = np.full((HEIGHT, WIDTH, 1), 65_535, np.int32)
    write(tmp_path, {
        "8": encode(SMALL), "16": png(DEEP, 16), "32": tiff(fits, BLACK_IS_ZERO),
        "above": tiff(fits + 1, BLACK_IS_ZERO), "below": tiff(-fits, BLACK_IS_ZERO),
    })  # fmt: skip
    batches, skipped = load(tmp_path, backend, pre_encode_images=True)
    assert skipped == {"undecodable": 2}
    masks = {name: np.asarray(Image.open(io.BytesIO(mask))) for name, mask in by_id(batches).items()}
    assert {name: mask.dtype for name, mask in masks.items()} == {"8": np.uint8, "16": np.uint16, "32": np.uint16}
    assert np.array_equal(masks["8"], SMALL)
    assert np.array_equal(masks["16"], LABELS)
    assert (masks["32"] == 65_535).all()


def test_tensors_share_their_memory(tmp_path: Path, backend: Backend) -> None:
    torch = needs("torch")
    write(tmp_path, {"0": png(DEEP, 16), "1": encode(SMALL)})
    batches, _ = load(tmp_path, backend, **CROPPED)
    tensor = torch.from_dlpack(batches[0].masks["mask.png"])
    assert tensor.dtype == torch.uint16
    assert tensor.long().unique().tolist() == np.unique([LABELS, SMALL]).tolist()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"mask_dtype": "int32", "mask_interpolation": "lanczos"}, "mask_dtype 'int32' is for labels.*'nearest'"),
        ({"mask_dtype": "int32", "pre_encode_images": True}, "cannot be used with pre_encode_images"),
        ({"mask_dtype": "uint16"}, "mask_dtype"),
    ],
)
def test_what_cannot_be_is_refused(image: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoaderConfig.load({"source_type": "file", "source_config": {"root_path": "."}, "image_config": image})
