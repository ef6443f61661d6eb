"""Aspect-ratio buckets against their definition, another formulation of it, and the real datago package."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.imaging.geometry import BucketTable, bucket_sizes, cover_region
from tests.support.needs import needs

SIDES = st.integers(1, 70_000)
RANGES = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(lambda pair: (min(pair), max(pair)))
TABLES = st.tuples(st.integers(1, 2048), st.integers(1, 128), RANGES).filter(lambda table: table[0] // table[1] <= 200)


def defined_sizes(size: int, ratio: int, min_aspect: float, max_aspect: float) -> dict[float, tuple[int, int]]:
    """The definition read the other way round: every pair of patch counts that could be, and which of them qualify."""
    patch = size // ratio
    area = patch * patch
    by_aspect = {}
    for wide in range(1, area + 1):
        if math.sqrt(area * min_aspect) <= wide <= math.sqrt(area * max_aspect):
            by_aspect[round(wide / (area // wide), 3)] = (area // wide * ratio, wide * ratio)
    for high in range(1, area + 1):
        if math.sqrt(area / max_aspect) <= high <= math.sqrt(area / min_aspect):
            by_aspect[round(area // high / high, 3)] = (high * ratio, area // high * ratio)
    return by_aspect


@given(TABLES)
@example((512, 32, (0.5, 2.0)))
@example((1024, 16, (0.25, 4.0)))
@example((64, 64, (0.9, 1.1)))
def test_the_sizes_are_the_defined_ones_narrowest_first(table: tuple[int, int, tuple[float, float]]) -> None:
    size, ratio, (low, high) = table
    expected = defined_sizes(size, ratio, low, high)
    assert bucket_sizes(size, ratio, low, high) == [expected[aspect] for aspect in sorted(expected)]


def test_of_the_sizes_that_share_an_aspect_ratio_the_later_is_kept() -> None:
    """150 patches: 6 x 3214 to 6 x 3750 and 7 x 2858 to 7 x 3214 are all 0.002 wide; the last by height is 3750."""
    of_two_thousandths = [size for size in bucket_sizes(150, 1, 0.001, 1) if round(size[1] / size[0], 3) == 0.002]
    assert of_two_thousandths == [(3750, 6)]


@given(TABLES)
def test_every_size_is_a_multiple_of_the_ratio_and_no_larger_than_the_square(
    table: tuple[int, int, tuple[float, float]],
) -> None:
    size, ratio, (low, high) = table
    for height, width in bucket_sizes(size, ratio, low, high):
        assert height > 0
        assert width > 0
        assert height % ratio == width % ratio == 0
        assert height * width <= size * size


@given(TABLES, SIDES, SIDES)
def test_an_image_goes_to_the_nearest_aspect_ratio_and_a_tie_to_the_wider(
    table: tuple[int, int, tuple[float, float]], height: int, width: int
) -> None:
    size, ratio, (low, high) = table
    expected = defined_sizes(size, ratio, low, high)
    assume(expected)
    nearest = min(expected, key=lambda aspect: (abs(width / height - aspect), -aspect))
    assert BucketTable(size, ratio, low, high).nearest(height, width) == expected[nearest]


def test_an_exact_tie_goes_to_the_wider_bucket() -> None:
    assert bucket_sizes(20, 10, 0.25, 4) == [(40, 10), (30, 10), (20, 20), (10, 30), (10, 40)]
    table = BucketTable(20, 10, 0.25, 4)
    assert table.nearest(2, 7) == (10, 40)  # 3.5 lies in the middle of 3 and 4
    assert table.nearest(8, 16) == (10, 30)  # 2 in the middle of 1 and 3
    assert table.nearest(10_000, 1) == (40, 10)
    assert table.nearest(1, 10_000) == (10, 40)


def test_a_range_without_a_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no bucket of 64 px in steps of 64 has an aspect ratio in \[1.5, 1.9\]"):
        BucketTable(64, 64, 1.5, 1.9)
    with pytest.raises(ValueError, match="no bucket of 16 px in steps of 32"):
        BucketTable(16, 32, 0.5, 2.0)


DATAGO = """
import json, sys
from datago import DatagoClient

client = DatagoClient(sys.argv[1])
sizes = []
while (sample := client.get_sample()) is not None and sample.id:
    sizes.append([sample.id, sample.image.height, sample.image.width])
client.stop()
print(json.dumps(sizes))
"""


@pytest.mark.parametrize(
    ("size", "ratio", "low", "high"), [(64, 8, 0.5, 2.0), (96, 16, 0.2, 5.0), (48, 4, 0.7, 3.1)], ids=str
)
def test_the_real_datago_package_delivers_the_same_sizes(
    tmp_path: Path, size: int, ratio: int, low: float, high: float
) -> None:
    needs("datago")
    shapes = {(20 + 17 * number % 90, 20 + 31 * number % 113) for number in range(150)}
    shapes |= {(100, 100), (10, 90), (90, 10), (25, 50), (50, 25), (40, 60), (8, 5), (5, 2)}
    for height, width in shapes:
        Image.new("L", (width, height)).save(tmp_path / f"{height}x{width}.png")
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(tmp_path), "rank": 0, "world_size": 1},
        "image_config": {
            "crop_and_resize": True,
            "default_image_size": size,
            "downsampling_ratio": ratio,
            "min_aspect_ratio": low,
            "max_aspect_ratio": high,
        },
        "limit": len(shapes),
        "samples_buffer_size": 32,
    }
    done = subprocess.run(
        [sys.executable, "-c", DATAGO, json.dumps(config)],
        env={**os.environ, "DATAGO_MAX_TASKS": "2", "RUST_LOG": "off"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = BucketTable(size, ratio, low, high)
    theirs = {Path(id_.strip('"')).stem: (high, wide) for id_, high, wide in json.loads(done.stdout)}
    assert theirs == {f"{high}x{wide}": table.nearest(high, wide) for high, wide in shapes}


@given(SIDES, SIDES, st.tuples(SIDES, SIDES))
@example(1, 70_000, (64, 64))
@example(333, 500, (333, 500))
def test_the_region_covers_the_target_lies_inside_and_is_centred(
    height: int, width: int, target: tuple[int, int]
) -> None:
    top, left, high, wide = cover_region(height, width, target)
    assert 0 < high <= height
    assert 0 < wide <= width
    assert top >= 0
    assert left >= 0
    assert top + high <= height * (1 + 1e-12)
    assert left + wide <= width * (1 + 1e-12)
    assert math.isclose(2 * top + high, height)
    assert math.isclose(2 * left + wide, width)
    assert math.isclose(wide / high, target[1] / target[0], rel_tol=1e-9)
    assert math.isclose(high, height) or math.isclose(wide, width)


def test_an_image_of_the_target_s_shape_is_taken_whole() -> None:
    assert cover_region(100, 200, (64, 128)) == (0, 0, 100, 200)
    assert cover_region(100, 300, (64, 64)) == (0, 100, 100, 100)
    assert cover_region(300, 100, (64, 64)) == (100, 0, 100, 100)
