"""Arrays that begin at a multiple of 64 bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datago_gpu.decoders.aligned_memory import copy_aligned, empty_aligned, take_rows
from datago_gpu.decoders.placement import HostPlacer
from datago_gpu.units import ALIGNMENT

DTYPES = st.sampled_from([np.uint8, np.uint16, np.int32, np.float16, np.float32, np.int64])
GIVEN = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=4, max_side=9)))


def is_aligned(array: np.ndarray) -> bool:
    return array.ctypes.data % ALIGNMENT == 0


@given(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=99), DTYPES)
def test_a_new_array_is_as_asked_for(shape: tuple[int, ...], dtype: type) -> None:
    array = empty_aligned(shape, dtype)
    assert (array.shape, array.dtype, is_aligned(array)) == (shape, dtype, True)
    assert array.flags.c_contiguous
    assert array.flags.writeable


@given(GIVEN, st.data())
def test_copies_and_rows_are_those_of_numpy(array: np.ndarray, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(array) - 1)))
    found = [(copy_aligned(array), array.copy()), (take_rows(array, rows), array[rows])]
    for ours, theirs in found:
        assert is_aligned(ours)
        assert not np.shares_memory(ours, array)
        np.testing.assert_array_equal(ours, theirs, strict=True)


@given(GIVEN, st.data())
def test_what_a_placer_makes_is_aligned(array: np.ndarray, data: st.DataObject) -> None:
    placer, rows = HostPlacer(), data.draw(st.lists(st.integers(0, len(array) - 1), min_size=1, max_size=5))
    places = list(range(0, 2 * len(rows), 2))
    spread = np.zeros((2 * len(rows), *array.shape[1:]), array.dtype)
    spread[places] = array[rows]
    found = [
        (placer.finish(placer.begin([array, array])), np.stack([array, array])),
        (placer.rows(array, rows, places, len(spread)), spread),
        (placer.concatenate([array, array]), np.concatenate([array, array])),
    ]
    for ours, theirs in found:
        assert is_aligned(ours)
        np.testing.assert_array_equal(ours, theirs, strict=True)
