"""What a Loader tells of its batches before it loads one: len, shapes, plan."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datago_gpu import LoaderConfig, Row
from datago_gpu.errors import ConfigError
from datago_gpu.loader.given_rows import GivenRows, given_rows
from datago_gpu.loader.planning import Planner
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_pictures

COUNT = 20


class Counted:
    """A sequence of rows in two shapes that counts how often a row was read."""

    def __init__(self, count: int = COUNT, **more: Any) -> None:
        self.count, self.more, self.reads = count, more, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Row:
        self.reads += 1
        height, width = SHAPES[number % 2]
        return Row(f"r{number}", "x.jpg", **{"width": width, "height": height, **self.more})


def config_of(rank: int = 0, world_size: int = 1, **more: Any) -> LoaderConfig:
    settings = {
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "source_config": {"rank": rank, "world_size": world_size, **more.pop("source", {})},
        "batch_size": 4,
        "lockstep": True,
    }
    return LoaderConfig.load_for_rows({**settings, **more})


def planner(config: LoaderConfig, rows: object = None) -> Planner:
    return Planner(config, given_rows(Counted() if rows is None else rows))


@pytest.mark.parametrize(
    ("world_size", "more", "steps", "shapes"),
    [
        (1, {}, 6, [(4, 64, 64), (4, 48, 80)]),
        (1, {"drop_last": True}, 4, [(4, 64, 64), (4, 48, 80)]),
        (2, {}, 4, [(4, 64, 64), (4, 48, 80)]),
        (3, {"drop_last": True}, 0, []),
        (1, {"limit": 11}, 2, [(4, 64, 64), (4, 48, 80)]),
        (1, {"epochs": None}, 6, [(4, 64, 64), (4, 48, 80)]),
        (1, {"batch_size": 32, "batch_pixels": 12_000}, 9, [(2, 64, 64), (3, 48, 80)]),
        (2, {"batch_size": 32, "batch_pixels": 12_000}, 5, [(2, 64, 64), (3, 48, 80)]),
        (2, {"batch_size": 32, "batch_pixels": 12_000, "drop_last": True}, 3, [(2, 64, 64), (3, 48, 80)]),
        (1, {"batch_size": 32, "batch_pixels": 12_000, "limit": 8}, 3, [(2, 64, 64), (3, 48, 80)]),
    ],
)
def test_the_length_is_that_of_an_epoch(
    world_size: int, more: dict[str, Any], steps: int, shapes: list[tuple[int, int, int]]
) -> None:
    rows = Counted()
    for rank in range(world_size):
        plan = planner(config_of(rank, world_size, **more), rows)
        assert (len(plan), plan.shapes()) == (steps, shapes)
        if "limit" not in more:
            assert len(plan.plan(3)) == steps


def test_each_row_is_read_once_for_its_size() -> None:
    rows = Counted()
    plan = planner(config_of(source={"random_sampling": True}), rows)
    first, second = plan.plan(0), plan.plan(1)
    assert rows.reads == COUNT
    assert not np.array_equal(first.rows, second.rows)
    assert sorted(first.taken(len(first)).tolist()) == list(range(COUNT))


def test_sizes_that_another_thread_reads_are_waited_for() -> None:
    rows = given_rows(Counted())
    began, found = threading.Event(), list[Any]()

    def read() -> None:
        began.set()
        found.append(rows.sizes.get())

    with rows.in_use:
        waiting = threading.Thread(target=read)
        waiting.start()
        assert began.wait(20)
        own = rows.sizes.get()
    waiting.join(20)
    assert found[0] is own


@pytest.mark.parametrize("more", [{"width": 0}, {"height": -1}, {"width": "wide"}, {"height": 1e99}])
def test_rows_without_a_size_are_an_error_that_says_how_to_get_them(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give each Row its width and height"):
        len(planner(config_of(), Counted(**more)))


def test_without_lockstep_there_is_no_length_and_no_plan() -> None:
    plan = planner(config_of(lockstep=False))
    with pytest.raises(TypeError, match="without lockstep"):
        len(plan)
    with pytest.raises(ConfigError, match="set lockstep to true"):
        plan.plan(0)


def test_rows_that_are_walked_cannot_be_in_lockstep() -> None:
    rows: GivenRows = given_rows(iter([]))
    with pytest.raises(ConfigError, match="give a sequence of rows"):
        rows.check(config_of(), _resume())


def _resume() -> Any:
    from datago_gpu.feeder.wire import Resume

    return Resume()


def test_after_other_batches_the_plan_is_that_of_the_rest() -> None:
    plan = planner(config_of())
    rest = plan.plan(0, [(6, 2)])
    assert sorted(rest.taken(len(rest)).tolist()) == [number for number in range(COUNT) if number > 11]
    assert np.array_equal(plan.plan(0, [(4, 3)]).rows, plan.plan(0).rows)
    with pytest.raises(ConfigError, match="fewer batches in epoch 0 than were taken"):
        plan.plan(0, [(6, 99)])


def test_a_dataroom_is_walked_for_its_plan_and_has_no_length(tmp_path: Path) -> None:
    names = add_pictures(tmp_path, [SHAPES[number % 2] for number in range(COUNT)])
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        source = {"api_url": server.url, "api_key": server.key, "world_size": 2, "rank": 1}
        image = config_of().image_config
        config = LoaderConfig(source_config=source, image_config=image, batch_size=3, lockstep=True)  # type: ignore[arg-type]
        plan = Planner(config)
        batches = plan.plan(0)
    with pytest.raises(TypeError, match="not known before the start"):
        len(plan)
    assert batches.rows[0].tolist() == [0, 2, 4, 6, 8, 10]
    assert batches.real.sum() == len(names)
    assert plan.shapes() == [(3, *size) for size in image.bucket_tables()[0].sizes]
