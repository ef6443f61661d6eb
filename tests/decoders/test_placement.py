"""Arrays that need no decoding: on their way to the device, and their rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from datago_gpu.decoders.placement import GpuPlacer, HostPlacer, Placer, consecutive_runs, scatter_rows
from tests.support.gpus import usable
from tests.support.pictures import on_host


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def placer(request: pytest.FixtureRequest) -> Iterator[Placer]:
    made = HostPlacer() if usable(request.param) == "cpu" else GpuPlacer(0)
    yield made
    made.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8, np.bool_, np.complex64])
@pytest.mark.parametrize("shape", [(), (3,), (4, 8, 8), (0, 2)])
def test_rows_come_as_one_array(placer: Placer, dtype: Any, shape: tuple[int, ...]) -> None:
    rows = [np.full(shape, number, dtype) for number in range(5)]
    begun = placer.begin(rows)
    for row in rows:
        row[...] = 9  # what was given may be written again
    result = on_host(placer.finish(begun))
    assert (result.shape, result.dtype) == ((5, *shape), np.dtype(dtype))
    assert np.array_equal(result, np.stack([np.full(shape, number, dtype) for number in range(5)]))


def test_rows_are_moved_and_the_others_are_zero(placer: Placer) -> None:
    array = placer.finish(placer.begin([np.full((2, 3), number + 1, np.uint8) for number in range(4)]))
    moved = scatter_rows(placer, array, [0, 3, 1], [2, 0, 4], 5)
    assert on_host(moved)[:, 0, 0].tolist() == [4, 0, 1, 0, 2]
    assert on_host(array)[:, 0, 0].tolist() == [1, 2, 3, 4], "the array given stays as it is"


def test_joined_arrays_lie_one_behind_the_other(placer: Placer) -> None:
    arrays = [placer.finish(placer.begin([np.full(2, count, np.int16)] * count)) for count in (1, 3, 2)]
    joined = on_host(placer.concatenate(arrays))
    assert (joined.shape, joined.dtype) == ((6, 2), np.int16)
    assert joined[:, 1].tolist() == [1, 3, 3, 3, 2, 2]


def test_what_is_in_order_is_not_copied(placer: Placer) -> None:
    array = placer.finish(placer.begin([np.zeros(2, np.uint8)] * 3))
    assert scatter_rows(placer, array, [0, 1, 2], [0, 1, 2], 3) is array


def test_lists_keep_their_entries(placer: Placer) -> None:
    assert scatter_rows(placer, ["a", "b", "c"], [2, 0], [0, 3], 4) == ["c", None, None, "a"]


def test_neighbours_move_together() -> None:
    assert consecutive_runs([0, 1, 3, 4, 5], [0, 1, 2, 3, 7]) == [(0, 0, 2), (3, 2, 2), (5, 7, 1)]
    assert consecutive_runs([2, 1], [0, 1]) == [(2, 0, 1), (1, 1, 1)]
    assert consecutive_runs([], []) == []
