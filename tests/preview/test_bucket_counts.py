"""`datago-gpu preview --buckets`: which pictures go where, what is lost, and the picture of it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, Rejected
from datago_gpu.imaging.geometry import cover_region
from datago_gpu.index.sizes import find_sizes
from datago_gpu.preview import count_buckets, write_bucket_sheet
from datago_gpu.server import DataroomServer
from tests.support.commands import run_command
from tests.support.images import add_pictures
from tests.support.shards import tar_bytes
from tests.support.tables import write_table

SHAPES = [(40, 40), (30, 60), (60, 30), (64, 64), (128, 128), (20, 90), (70, 130)]
IMAGE = {"crop_and_resize": True, "downsampling_ratio": 16, "resolutions": [32, 64]}


def config_of(source_type: str = "db", source: dict[str, Any] | None = None, **more: Any) -> LoaderConfig:
    image = IMAGE | more.pop("image", {})
    return LoaderConfig.load({"source_type": source_type, "source_config": source or {}, "image_config": image, **more})


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), max_size=30), st.booleans())
def test_each_picture_is_counted_where_a_loader_puts_it(shapes: list[tuple[int, int]], upscale: bool) -> None:
    config = config_of(image={"upscale": upscale}, batch_pixels=9000)
    counts = count_buckets(
        config, "t", [(config, np.array(shapes, np.int32).ravel().tolist())], {"missing": 2}, listed=True
    )
    expected: dict[Any, list[tuple[int, int]]] = {}
    for shape in shapes:
        try:
            expected.setdefault(config.bucket_choice().choose(*shape), []).append(shape)
        except Rejected:
            expected.setdefault("too-small", []).append(shape)
    assert counts.too_small == len(expected.pop("too-small", []))
    assert {each.size: each.pictures for each in counts.used} == {size: len(there) for size, there in expected.items()}
    for each in counts.used:
        there = expected[each.size]
        regions = [cover_region(*shape, each.size) for shape in there]
        cut = [1 - region[2] * region[3] / (high * wide) for region, (high, wide) in zip(regions, there, strict=True)]
        assert each.cut_mean == pytest.approx(sum(cut) / len(cut), abs=1e-9)
        assert each.cut_p95 == pytest.approx(np.percentile(cut, 95), abs=1e-9)
        assert each.enlarged == sum(high < each.size[0] or wide < each.size[1] for high, wide in there)
        assert each.batches == -(-len(there) // max(1, 9000 // (each.size[0] * each.size[1])))
    assert counts.lost["missing"] == 2


def test_the_sizes_of_each_source_are_found(tmp_path: Path) -> None:
    """A Dataroom and a table with sizes list them; of the others the headers are read."""
    root = tmp_path / "files"
    names = add_pictures(root, SHAPES)
    (root / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "x.tar").write_bytes(tar_bytes((name, (root / name).read_bytes()) for name in names))
    heights, widths = zip(*SHAPES, strict=True)
    write_table(tmp_path / "paths.arrow", {"path": [*names, "gone.jpg"]})
    write_table(tmp_path / "bytes.parquet", {"jpg": [(root / name).read_bytes() for name in names]})
    write_table(tmp_path / "sized.arrow", {"path": ["nowhere.jpg"] * 8, "height": [*heights, 0], "width": [*widths, 9]})
    with ExitStack() as stack:
        server = stack.enter_context(DataroomServer(root, watch_interval_s=None))
        room = {"api_url": server.url, "api_key": server.key}
        found = {
            "file": find_sizes(config_of("file", {"root_path": str(root)})),
            "webdataset": find_sizes(
                config_of("webdataset", {"url": str(tmp_path / "x.tar"), "random_sampling": True})
            ),
            "db": find_sizes(config_of("db", room)),
            "paths": find_sizes(config_of("table", {"path": str(tmp_path / "paths.arrow"), "root": str(root)})),
            "bytes": find_sizes(config_of("table", {"path": str(tmp_path / "bytes.parquet")})),
            "sized": find_sizes(config_of("table", {"path": str(tmp_path / "sized.arrow")})),
            "filtered": find_sizes(
                config_of("table", {"path": str(tmp_path / "sized.arrow"), "where": "height != 40"})
            ),
        }
    shapes = Counter(SHAPES)
    for name, sizes in found.items():
        there = Counter(map(tuple, np.asarray(sizes.sides).reshape(-1, 2).tolist()))
        assert there == shapes - (Counter([(40, 40)]) if name == "filtered" else Counter()), name
        assert sizes.listed == (name in ("db", "sized", "filtered")), name
    assert {name: sizes.unusable for name, sizes in found.items() if sizes.unusable} == {
        "file": {"unknown-format": 1},
        "paths": {"missing": 1},
        "sized": {"no-size": 1},
        "filtered": {"no-size": 1},
    }


def test_pictures_that_where_leaves_out_by_their_captions_are_not_counted(tmp_path: Path) -> None:
    for name, text in zip(add_pictures(tmp_path, SHAPES), ["a cat", "a dog"] * 4, strict=False):
        (tmp_path / name).with_suffix(".txt").write_text(text)
    config = config_of("file", {"root_path": str(tmp_path), "captions": "txt", "where": '"cat" in txt'})
    assert np.asarray(find_sizes(config).sides).reshape(-1, 2).tolist() == [list(shape) for shape in SHAPES[::2]]


def test_each_source_of_a_mix_is_counted_by_its_own_settings(tmp_path: Path) -> None:
    add_pictures(tmp_path / "files", SHAPES)
    part = {"source_type": "file", "source_config": {"root_path": str(tmp_path / "files")}}
    sources = [{"name": "a", **part, "image_config": {"upscale": False}}, {"name": "b", **part}]
    config = {"source_type": "mix", "source_config": {"sources": sources}, "image_config": IMAGE}
    (tmp_path / "mix.json").write_text(json.dumps(config))
    printed = run_command("preview", str(tmp_path / "mix.json"), "--buckets", "--out", str(tmp_path / "x.png")).stdout
    assert "in no bucket: 3 too-small" in printed
    assert "11 images in" in printed


def test_the_command_writes_a_picture_and_prints_a_table(tmp_path: Path) -> None:
    add_pictures(tmp_path / "files", SHAPES)
    out = tmp_path / "buckets.png"
    words = ["preview", "--root-path", str(tmp_path / "files"), "--crop-and-resize", "--resolutions", "32,64",
             "--downsampling-ratio", "16", "--no-upscale", "--buckets", "--out", str(out)]  # fmt: skip
    printed = run_command(*words).stdout
    assert "3 too-small; sizes are those of the headers" in printed
    assert f"Wrote {out}: 4 images in" in printed
    with Image.open(out) as picture:
        assert picture.width == 1240


def test_bars_are_as_long_as_their_numbers(tmp_path: Path) -> None:
    sides = [64, 64] * 30 + [128, 64] * 10
    counts = count_buckets(config_of(), "t", [(config_of(), sides)], {"missing": 20}, listed=True)
    write_bucket_sheet(counts, tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    bars = {tuple(ink): (pixels == ink).all(-1).sum(1) for ink in ([64, 116, 178], [150, 148, 144])}
    lengths = sorted({int(row) for rows in bars.values() for row in rows if row > 30})
    assert [round(length / lengths[-1], 2) for length in lengths] == [0.33, 0.67, 1]


def test_without_buckets_there_is_nothing_to_count() -> None:
    config = LoaderConfig.load({"source_config": {}})
    with pytest.raises(ConfigError, match="set image_config"):
        count_buckets(config, "t", [(config, [])], {}, listed=True)
