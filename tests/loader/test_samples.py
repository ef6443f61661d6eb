"""`loader.samples()` and `for batch in loader` take turns: whoever goes on gets the rest, and states are right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu import Loader
from tests.support.images import SHAPES, add_pictures, file_config

COUNT = 14
BAD = 5
"""Number of the file that no decoder can read."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    names = add_pictures(folder, random.Random(1).choices(SHAPES, k=COUNT))
    picture = (folder / names[BAD]).read_bytes()
    (folder / names[BAD]).write_bytes(picture[: picture.index(b"\xff\xda")] + b"\xff\xd9")
    return folder


@contextmanager
def loading(root: Path, state: dict | None = None, **more: object) -> Iterator[Loader]:
    with Loader(file_config(root, **more), device="cpu", backend="pillow", state=state) as loader:
        yield loader


@pytest.fixture(scope="module")
def batches(root: Path) -> list[list[str]]:
    with loading(root) as loader:
        return [batch.ids for batch in loader]


def to_come(state: dict) -> set[str]:
    """The names of the good files that a loader with this state would still deliver."""
    resume = state["resume"]
    done = {index for first, last in resume["done"] for index in range(first, last + 1)}
    return {f"{index:04}.jpg" for index in range(resume["position"]["index"], COUNT) if index not in {*done, BAD}}


@settings(max_examples=8)
@given(st.lists(st.none() | st.integers(0, 6), max_size=8))
def test_batches_and_samples_in_any_turn_deliver_everything_once(
    root: Path, batches: list[list[str]], turns: list[int | None]
) -> None:
    """A turn is one batch (None), or so many samples of an iterator that is then left."""
    order, delivered = list(chain(*batches)), list[str]()
    ends = [sum(map(len, batches[: number + 1])) for number in range(len(batches))]
    with loading(root) as loader:
        for turn in turns:
            begin = len(delivered)
            if turn is None:
                end = min((end for end in ends if end > begin), default=begin)
                delivered += next(loader).ids if end > begin else []
            else:
                end = min(begin + turn, len(order))
                delivered += [sample.id for sample in islice(loader.samples(), end - begin)]
            assert delivered[begin:] == order[begin:end]
            assert to_come(loader.state_dict()) == set(order[end:])
        state = loader.state_dict()
        assert loader.stats().delivered == len(delivered)
        assert [sample.id for sample in loader.samples()] == order[len(delivered) :]
    with loading(root, state) as resumed:
        again = [name for batch in resumed for name in batch.ids]
    if len(delivered) in (0, *ends):
        assert again == order[len(delivered) :]
    else:  # the rest of a batch is grouped anew, with what follows
        assert sorted(again) == sorted(order[len(delivered) :])


def test_a_loop_over_batches_gets_the_rest_of_a_batch_as_a_shorter_one(root: Path, batches: list[list[str]]) -> None:
    with loading(root) as loader:
        assert next(loader.samples()).id == batches[0][0]
        rest = next(loader)
        assert rest.ids == batches[0][1:]
        assert rest.image.shape == (len(batches[0]) - 1, *(rest.bucket or ()), 3)
        assert next(loader).ids == batches[1]


def test_the_rest_of_a_batch_is_not_delivered_after_close(root: Path, batches: list[list[str]]) -> None:
    with loading(root) as loader:
        next(loader.samples())
        loader.close()
        assert list(loader) == []
        assert list(loader.samples()) == []
        assert to_come(loader.state_dict()) == {*chain(*batches)} - {batches[0][0]}


def test_loading_a_state_drops_the_rest_of_a_batch(root: Path, batches: list[list[str]]) -> None:
    with loading(root) as loader:
        start = loader.state_dict()
        next(loader.samples())
        loader.load_state_dict(start)
        assert next(loader.samples()).id == batches[0][0]


def test_the_epochs_of_single_samples_follow_each_other(root: Path, batches: list[list[str]]) -> None:
    with loading(root, epochs=3) as loader:
        taken = [next(loader.samples()).id for _ in range(2 * (COUNT - 1) + 1)]
        taken += [sample.id for sample in loader.samples()]
    assert taken == [*chain(*batches)] * 3
