"""What may be given as rows, what is refused at once, and in which words."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from datago_gpu import ConfigError, ImageConfig, Loader, LoaderConfig, Row, SourceError
from datago_gpu.feeder.wire import Carried, Resume
from datago_gpu.loader.given_rows import NotRows, given_rows
from datago_gpu.loader.row_setup import load_config
from datago_gpu.sources.reference import Position
from datago_gpu.sources.rows import RowsSource
from tests.support.needs import needs
from tests.support.own_rows import linked, own_config, rows_of


async def asynchronous() -> AsyncIterator[Row]:
    yield rows_of(1)[0]


def rows_of_nothing() -> list[Row]:
    return []


class Shares:
    def rows(self, epoch: int, *, rank: int, world_size: int, extra: int = 0) -> Iterator[tuple[int, ...]]:
        yield epoch, rank, world_size, extra


class Lengthless:
    def __len__(self) -> int:
        raise OSError("the database is closed")

    def __getitem__(self, number: int) -> Row:
        raise IndexError


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"a": 1}, "source must be rows: a sequence .*; got the type dict"),
        ("photos", "source must be rows: .*; got the type str"),
        (Row("a", b""), "source must be rows: .*; got the type Row"),
        (3, "source must be rows: .*; got the type int"),
        (asynchronous, "source must be rows: .*; got an asynchronous one"),
        (asynchronous(), "source must be rows: .*; got an asynchronous one"),
        ([], "the source has no rows: its length is 0"),
        (Lengthless(), "the length of the source cannot be told: OSError: the database is closed"),
        (
            rows_of_nothing,
            r"a function as source is called as source\(epoch\), .* rows_of_nothing\(\) .* cannot be called",
        ),
        (
            lambda epoch, other: [],
            r"<lambda>\(epoch, other\) cannot be called so: missing a required argument: 'other'",
        ),
    ],
)
def test_what_has_no_rows_is_refused(source: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        given_rows(source)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda e: [("one", e)], (["one", 5], 3)),
        (lambda epoch, world_size=7: [(epoch, world_size)], ([5, 7], 3)),
        (Shares().rows, ([5, 1, 3, 0], 1)),
        (partial(Shares().rows, extra=9), ([5, 1, 3, 9], 1)),
        (lambda epoch, rank, world_size: [(epoch, rank, world_size)], ([5, 1, 3], 1)),
        (range, ([0], 3)),
    ],
)
def test_a_function_is_given_the_epoch_and_if_it_asks_for_both_its_rank_and_the_world_size(
    function: Any, expected: tuple[list[Any], int]
) -> None:
    rows, every, _ = given_rows(function).walk(5, 1, 3)
    first = next(rows)
    assert ([*first] if isinstance(first, tuple) else [first], every) == expected


def test_a_function_that_returns_a_text_has_no_rows() -> None:
    with pytest.raises(NotRows, match="must return an iterable of rows, got str"):
        given_rows(lambda epoch: f"{epoch}").walk(0, 0, 1)


@pytest.mark.parametrize(
    ("resume", "epochs", "words"),
    [
        (Resume(Position(0, 3)), 1, "the source is an iterator, which a state cannot resume"),
        (Resume(done=[(0, 1)]), 1, "the source is an iterator, which a state cannot resume"),
        (Resume(carried=[Carried(Position(), [1])]), 1, "the source is an iterator, which a state cannot resume"),
        (Resume(), 2, "epochs is 2, but the source is an iterator, which can be walked through once"),
        (Resume(), None, "epochs is None, but the source is an iterator, which can be walked through once"),
    ],
)
def test_an_iterator_can_be_walked_through_once_and_not_resumed(resume: Resume, epochs: int | None, words: str) -> None:
    config = LoaderConfig.load_for_rows({"epochs": epochs})
    with pytest.raises(ConfigError, match=words):
        given_rows(iter(rows_of(3))).check(config, resume)
    given_rows(rows_of(3)).check(config, resume)
    given_rows(lambda epoch: rows_of(3)).check(config, resume)


def test_an_iterator_that_has_been_used_is_refused() -> None:
    rows = given_rows(iter(rows_of(3)))
    rows.check(own_config(), Resume())
    rows.walk(0, 0, 1)
    with pytest.raises(ConfigError, match="another Loader or pass has begun to use it up"):
        rows.check(own_config(), Resume())


def test_rows_that_can_be_pickled_can_be_pickled_with_their_dataset() -> None:
    needs("torch")
    from datago_gpu.torch import LoaderDataset

    dataset = LoaderDataset({}, device="cpu", source=rows_of(3))
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert other.config == dataset.config
    rows = given_rows(rows_of(3))
    copied = pickle.loads(pickle.dumps(rows))
    assert [copied.get(number) for number in range(copied.count)] == rows_of(3)


def test_a_dataset_of_torch_that_only_iterates_is_no_sequence() -> None:
    data = needs("torch.utils.data")

    class Counted(data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[Row]:
            return iter(rows_of(3))

        def __len__(self) -> int:
            return 3

    rows = given_rows(Counted())
    assert rows.count is None
    assert list(rows.walk(0, 0, 1).rows) == rows_of(3)


def test_only_a_sequence_can_be_shuffled() -> None:
    given_rows(rows_of(3)).check(own_config(random_sampling=True), Resume())
    with pytest.raises(ConfigError, match="random_sampling needs a sequence of rows"):
        given_rows(lambda epoch: rows_of(3)).check(own_config(random_sampling=True), Resume())


def test_settings_for_rows_need_no_source_in_any_of_their_forms(tmp_path: Path) -> None:
    rows = given_rows(rows_of(3))
    wanted = LoaderConfig.load({"source_type": "rows", "source_config": {}, "batch_size": 3})
    path = tmp_path / "config.json"
    path.write_text('{"batch_size": 3}')
    for form in (
        {"batch_size": 3},
        path,
        str(path),
        '{"batch_size": 3}',
        wanted,
        {"source_type": "rows", "batch_size": 3},
    ):
        assert load_config(form, rows) == (wanted, rows)
    shuffled, _ = load_config({"source_config": {"random_sampling": True}}, rows)
    assert shuffled == LoaderConfig.load({"source_type": "rows", "source_config": {"random_sampling": True}})


def test_rows_and_another_source_are_refused_together(tmp_path: Path) -> None:
    folder = {"source_type": "file", "source_config": {"root_path": str(tmp_path)}}
    for form in (folder, json.dumps(folder), LoaderConfig.load(folder)):
        with pytest.raises(ConfigError, match="source_type is 'file', but rows were given as well"):
            Loader(form, source=rows_of(3))


def test_rows_that_are_not_given_are_missed() -> None:
    with pytest.raises(ConfigError, match=r"source_type 'rows' needs rows: Loader\(config, source=rows\)"):
        Loader({"source_type": "rows", "source_config": {}})


class Broken(list[Row]):
    def __getitem__(self, number: Any) -> Any:
        return fail()


class Sized(list[Row]):
    def __init__(self, rows: list[Row], sizes: Any) -> None:
        super().__init__(rows)
        self.sizes = sizes
        self.read = 0

    def __getitem__(self, number: Any) -> Any:
        self.read += 1
        return super().__getitem__(number)


def test_the_sizes_of_a_sequence_are_read_from_its_rows_or_taken_as_they_are_given() -> None:
    rows = [Row("a", b"x", width=3, height=2), Row("b", b"x"), Row("c", b"x", width=np.int64(5), height=4)]  # type: ignore[arg-type]
    wanted = [[2, 3], [0, 0], [4, 5]]
    assert given_rows(rows).sizes.get().tolist() == wanted
    given = np.array(wanted, np.int64)
    for sizes in (given, given.tolist, lambda: given):
        sized = Sized(rows, sizes)
        assert given_rows(sized).sizes.get().tolist() == wanted
        assert sized.read == 0
    far = Sized(rows, [[-1, 2**40], [1, 1], [1, 1]])
    assert given_rows(far).sizes.get().tolist() == [[0, 0], [1, 1], [1, 1]]


def in_lockstep(config: LoaderConfig) -> LoaderConfig:
    return structs.replace(config, lockstep=True, image_config=ImageConfig(crop_and_resize=True))


def fail() -> Any:
    raise OSError("no disk")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (Sized(rows_of(3), [[1, 2]]), r"whole numbers of the shape \(3, 2\), .* got int64 of the shape \(1, 2\)"),
        (Sized(rows_of(2), [[1.5, 2], [1, 1]]), "got float64"),
        (Sized(rows_of(2), fail), "the sizes of the source cannot be read: OSError: no disk"),
        (Broken(rows_of(2)), "row 0 of the source cannot be read: OSError: no disk"),
    ],
)
def test_sizes_that_cannot_be_had_end_the_run(rows: Any, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        given_rows(rows).sizes.get()

    async def read() -> None:
        async with linked(rows, in_lockstep(own_config())) as (source, _):
            assert isinstance(source, RowsSource)
            await source.rows()

    with pytest.raises(SourceError, match=words):
        asyncio.run(read())
