"""A Batch by number and by slice: every column is cut alike."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import Batch

N = 6
PRESENT = {
    "everybody": np.ones(N, bool),
    "half": np.arange(N) % 2 == 0,
    "last": np.arange(N) == N - 1,
    "nobody": np.zeros(N, bool),
}
"""Names of masks, further images and latents, and which samples have them."""


def images(form: str, offset: int) -> Any:
    """N pictures as the settings give them: an array, a list of arrays, a list of bytes, or none."""
    array = np.arange(offset, offset + N * 12, dtype=np.int32).reshape(N, 2, 2, 3)
    return {"array": array, "list": list(array), "bytes": [each.tobytes() for each in array], "none": None}[form]


def parts(form: str, offset: int) -> dict[str, Any]:
    """Where an array has no row there are zeros, where a list has no entry there is None."""
    named = {}
    for place, (name, there) in enumerate(PRESENT.items()):
        given = images(form, offset + 1000 * place)
        if isinstance(given, list):
            given = [each if there[at] else None for at, each in enumerate(given)]
        named[name] = given if there.any() else None
    return named


def batch_of(form: str) -> Batch:
    with_parts = form if form != "none" else "array"
    return Batch(
        ids=[f"id{at}" for at in range(N)],
        sources=[f"source{at}" for at in range(N)],
        image=images(form, 0),
        original_sizes=np.arange(2 * N, dtype=np.int32).reshape(N, 2),
        crops=np.arange(4 * N, dtype=np.float32).reshape(N, 4),
        bucket=(2, 2),
        attributes=[{"at": at} for at in range(N)],
        tags=[[f"tag{at}"] for at in range(N)],
        embeddings=None if form == "none" else np.arange(3 * N, dtype=np.float32).reshape(N, 3),
        labels=None if form == "none" else np.arange(N, dtype=np.int64),
        duplicate_states=[at if at % 2 else None for at in range(N)],
        epoch=3,
        masks=parts(with_parts, 10_000),
        additional_images=parts(with_parts, 20_000),
        latents=parts(with_parts, 30_000),
        present=PRESENT,
        flipped=np.arange(N) % 3 == 0,
        image_sizes=np.arange(2 * N, dtype=np.int32).reshape(N, 2) + 5,
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)


BOUNDS = st.none() | st.integers(-N - 2, N + 2)


@given(
    st.sampled_from(["array", "list", "bytes", "none"]),
    st.builds(slice, BOUNDS, BOUNDS, st.none() | st.integers(-3, 3).filter(bool)),
)
def test_a_slice_of_a_batch_is_a_batch_of_those_samples(form: str, rows: slice) -> None:
    batch = batch_of(form)
    cut, wanted = batch[rows], [batch[at] for at in range(N)[rows]]
    assert isinstance(cut, Batch)
    assert len(cut) == len(wanted) == len(list(cut))
    for ours, theirs in zip(cut, wanted, strict=True):
        for field in fields(ours):
            assert same(getattr(ours, field.name), getattr(theirs, field.name)), field.name
    assert (cut.bucket, cut.epoch) == (batch.bucket, batch.epoch)
    for named in (cut.masks, cut.additional_images, cut.latents):
        assert named.keys() == PRESENT.keys()
        for name, values in named.items():
            assert (values is None) == (not cut.present[name].any())  # as in a batch that came so
            assert values is None or len(values) == len(cut)


def test_every_column_is_cut() -> None:
    cut = batch_of("array")[1:3]
    columns = {field.name for field in fields(Batch)} - {"bucket", "epoch", "seed", "lockstep", "further_views"}
    named = {"masks", "additional_images", "latents", "present"}
    assert all(len(getattr(cut, name)) == 2 for name in columns - named)
    assert all(len(values) == 2 for name in named for values in getattr(cut, name).values() if values is not None)


def test_a_slice_shares_the_memory_of_its_batch() -> None:
    batch = batch_of("array")
    assert np.shares_memory(batch[2:4].image, batch.image)


@pytest.mark.parametrize("index", [-1, -N, np.int64(-1), np.uint8(2)])
def test_negative_numbers_count_from_the_end_and_numpy_s_numbers_are_numbers(index: int) -> None:
    batch = batch_of("array")
    sample = batch[index]
    assert sample.id == f"id{range(N)[index]}"
    assert same(sample.image, batch.image[range(N)[index]])
    assert same(sample.masks["half"], batch.masks["half"][index] if PRESENT["half"][index] else None)
    assert sample.attributes == {"at": range(N)[index]}


@pytest.mark.parametrize("index", [N, -N - 1])
def test_a_number_beyond_the_batch_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        batch_of("list")[index]


@pytest.mark.parametrize("index", [[0, 1], (0, 1), "0", 1.0, None, np.array([True] * N)], ids=str)
def test_other_indices_are_a_type_error_that_says_what_to_do(index: Any) -> None:
    with pytest.raises(
        TypeError, match=r"the index of a Batch must be a whole number or a slice, got .*batch\[i\] for i in"
    ):
        batch_of("array")[index]
