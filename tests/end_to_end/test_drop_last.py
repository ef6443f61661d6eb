"""`drop_last` over several epochs: what waits in batches that are not full goes on, and what is left out is counted."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader, LoaderConfig, TooManyErrors
from tests.support.images import add_picture, add_squares_and_wide, file_config
from tests.support.shards import tar_bytes

SQUARES, WIDE = 8, 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Squares fill whole batches of 4; of the wide ones there are too few for one."""
    return add_squares_and_wide(tmp_path, SQUARES, WIDE)


def settings(root: Path, **more: Any) -> LoaderConfig:
    return file_config(root, drop_last=True, source={"random_sampling": True}, **more)


def in_order(root: Path, **more: Any) -> LoaderConfig:
    return file_config(root, drop_last=True, **more)


def shards(root: Path, **more: Any) -> LoaderConfig:
    paths = sorted(root.glob("*.jpg"))
    for number in range(2):
        files = [(path.name, path.read_bytes()) for path in paths[number::2]]
        (root / f"{number}.tar").write_bytes(tar_bytes(files))
    given = {"source_type": "webdataset", "source_config": {"url": f"{root}/*.tar", "random_sampling": True}}
    plain = json.loads(json.dumps({"batch_size": 4, "drop_last": True, "arena_mb": 2, **more}))
    image = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
    return LoaderConfig.load({**given, "image_config": image, "http_config": {"max_payload_mb": 1}, **plain})


def opened(config: LoaderConfig, **more: Any) -> Loader:
    return Loader(config, device="cpu", backend="pillow", **more)


def delivered(config: LoaderConfig, **more: Any) -> list[tuple[int, list[str]]]:
    with opened(config, **more) as loader:
        return [(batch.epoch, batch.ids) for batch in loader]


def test_images_of_a_rare_shape_come_and_the_rest_is_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "datago_gpu"), opened(settings(root, epochs=3)) as loader:
        batches = [(batch.epoch, batch.ids) for batch in loader]
        stats = loader.stats()
    assert all(len(ids) == 4 for _, ids in batches)
    wide = [(epoch, ids) for epoch, ids in batches if ids[0].startswith("wide")]
    assert [epoch for epoch, _ in wide] == [1, 2], "a batch is of the epoch that completes it"
    assert {name for _, ids in wide for name in ids} == {f"wide{number}.jpg" for number in range(WIDE)}
    assert stats.dropped == 3 * WIDE - 8
    assert "dropped at the end: 1," not in str(stats)
    assert "dropped at the end: 1" in str(stats)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["1 samples are left out at the end, because their batches are not full and drop_last is true"]


def test_nothing_is_dropped_without_drop_last_nor_at_a_limit(root: Path) -> None:
    for more in ({"drop_last": False}, {"limit": 9}):
        config = file_config(root, **{"drop_last": True, "epochs": 2, **more})
        with opened(config) as loader:
            assert sum(map(len, loader)) == (22 if "drop_last" in more else 8)
            assert loader.stats().dropped == 0


@pytest.mark.parametrize("make", [in_order, shards])
def test_a_stop_behind_any_batch_changes_nothing(root: Path, make: Any) -> None:
    config = make(root, epochs=3)
    whole = delivered(config)
    with opened(config) as loader:
        states = [loader.state_dict()] + [loader.state_dict() for _ in loader]
    assert len(states) == len(whole) + 1
    assert any(state["resume"]["carried"] for state in states)
    for behind, state in enumerate(states):
        assert delivered(config, state=json.loads(json.dumps(state))) == whole[behind:]


def test_a_stop_in_the_middle_of_a_batch_of_two_epochs_keeps_the_rest(root: Path) -> None:
    config = settings(root, epochs=2, decode_config={"processes": 0})  # twenty loaders start quicker with threads
    whole = [name for _, ids in delivered(config) for name in ids]
    with opened(config) as loader:
        stopped = [(sample.id, json.loads(json.dumps(loader.state_dict()))) for sample in loader.samples()]
    assert [name for name, _ in stopped] == whole
    for stop, (_, state) in enumerate(stopped[:-1], 1):
        rest = [name for _, ids in delivered(config, state=state) for name in ids]
        if stop % 4 == 0:
            assert rest == whole[stop:]
        # The rest of a batch that was begun is short, and so waits for further samples.
        assert max(Counter(whole[:stop] + rest).values()) == 2
        assert stop + len(rest) > 2 * (SQUARES + WIDE) - 2 * 4
        assert len(rest) % 4 == 0


def test_what_waits_is_held_to_the_data_of_its_epoch(root: Path) -> None:
    config = in_order(root, epochs=2)
    with opened(config) as loader:
        for _ in range(3):
            next(loader)
        state = json.loads(json.dumps(loader.state_dict()))
    assert state["resume"]["position"]["epoch"] == 1
    add_picture(root / "square9.jpg")
    with pytest.raises(ConfigError, match="the data has changed"):
        delivered(config, state=state)
    assert sum(len(ids) for _, ids in delivered(config, state=state, on_change="accept")) >= 4


def test_a_dataset_that_never_fills_a_batch_ends(tmp_path: Path) -> None:
    """Where nothing that waits can be decoded, an endless run is no endless loop."""
    whole = add_picture(tmp_path / "a.png").read_bytes()
    data = whole.index(b"IDAT") + 4
    (tmp_path / "a.png").write_bytes(whole[:data] + bytes(8) + whole[data + 8 :])
    config = file_config(tmp_path, drop_last=True, epochs=None, batch_size=2)
    with opened(config) as loader, pytest.raises(TooManyErrors, match="samples were bad"):
        next(loader)


def test_a_single_image_fills_a_batch_over_the_epochs(tmp_path: Path) -> None:
    add_picture(tmp_path / "a.jpg")
    assert delivered(file_config(tmp_path, drop_last=True, epochs=9)) == [(3, ["a.jpg"] * 4), (7, ["a.jpg"] * 4)]
