"""A file of each kind through the whole loader: its pixels on both back ends, whole and cut, as RGB and as stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Loader
from datago_gpu.errors import Rejected
from datago_gpu.imaging.geometry import Cut, full_region
from datago_gpu.imaging.pixels import to_ppm
from tests.support.images import file_config
from tests.support.made.kinds import KINDS
from tests.support.pictures import encode


@pytest.fixture(scope="module", params=["pillow", "dali"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for number, kind in enumerate(KINDS.values()):
        (folder / f"{number:04}.jpg").write_bytes(kind.payload)  # it is the first bytes that count
    return folder


def load(folder: Path, backend: str, **image: Any) -> dict[str, np.ndarray]:
    """Name of the kind -> pixels."""
    config = file_config(folder, arena_mb=32, batch_size=16, image=image)
    with Loader(config, device="cpu", backend=backend) as loader:
        images = {sample.id: sample.image for sample in loader.samples()}
        skipped = loader.stats().skipped
    names = list(KINDS)
    found = {names[int(name[:4])]: image for name, image in images.items()}
    assert found.keys() == KINDS.keys(), (sorted(KINDS.keys() - found.keys()), skipped)
    return found


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Levels by which the pixels that are furthest apart differ."""
    step = 257 if a.dtype == np.uint16 else 1
    return float(np.abs(a.astype(np.int64) - b).max()) / step


def wrong(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], more: int = 0) -> dict[str, Any]:
    """What is not as it should be: shapes, dtypes, or by how many levels it is off."""
    result: dict[str, Any] = {}
    for name, pixels in found.items():
        want = wanted[name]
        if (pixels.shape, pixels.dtype) != (want.shape, want.dtype):
            result[name] = pixels.shape, pixels.dtype
        elif (off := apart(pixels, want)) > KINDS[name].tolerance + more:
            result[name] = off
    return result


def test_each_kind_shows_its_pixels(folder: Path, backend: str) -> None:
    found = load(folder, backend, crop_and_resize=False)
    assert not wrong(found, {name: kind.shown for name, kind in KINDS.items()})


def test_each_kind_keeps_its_own_channels_and_depth(folder: Path, backend: str) -> None:
    found = load(folder, backend, crop_and_resize=False, image_to_rgb8=False)
    assert not wrong(found, {name: kind.own for name, kind in KINDS.items()})


def test_each_kind_is_cut_as_a_plain_picture_of_its_pixels_is(folder: Path, backend: str, tmp_path: Path) -> None:
    """With DALI as the one or the other back end cuts it: what DALI does not decode the feeder has cut with Pillow."""
    for number, kind in enumerate(KINDS.values()):
        (tmp_path / f"{number:04}.png").write_bytes(encode(kind.shown))
    found = load(folder, backend)
    off = [wrong(found, load(tmp_path, each), more=1) for each in {backend, "pillow"}]
    assert not set.intersection(*map(set, off)), off


def small(height: int, width: int) -> list[Cut]:
    return [(full_region(height, width), (16, 24))]


@given(
    st.sampled_from(list(KINDS)),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 1 << 20),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_damaged_file_is_shown_or_refused(
    name: str, changes: list[tuple[int, int]], cut: int, at_an_end: bool
) -> None:
    """What says how the file is laid out stands at its beginning, or at its end."""
    payload = bytearray(KINDS[name].payload)
    for where, value in changes:
        payload[(where % 500 - 250 if at_an_end else where) % len(payload)] = value
    damaged = bytes(payload[: -(cut % 40) or None] if cut % 5 == 0 else payload)
    for mask in ("", "nearest"):
        try:
            converted = to_ppm(damaged, small, 1 << 21, mask=mask, deep=bool(mask))
        except Rejected:
            continue
        assert converted.size == (16, 24)
